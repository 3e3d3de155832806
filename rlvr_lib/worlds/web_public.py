"""The public WebArena transitions, thuml/webarena-world-model-cot (B.3): questions as asked, answers with thoughts.

Nothing is shipped with the project. Put the data set's files (parquet, or JSON lines) into one folder.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.transitions import open_text
from rlvr_lib.worlds.web_pages import NOTHING, SECTIONS
from rlvr_lib.worlds.web_transitions import WebTransition

NEEDED = ("task_id", "step_idx", "question", "answer", "new_items", "deleted_items", "updated_items")
TEST_SHARE = 0.01  # [paper] 99 % train, 1 % test
SITE = "webarena"
HEADINGS = ("URL:", "OBJECTIVE:", "PREVIOUS ACTION:", "CURRENT OBSERVATION:", "CURRENT ACTION:")


def load_public(root: Path, test_share: float = TEST_SHARE) -> list[WebTransition]:
    """All transitions of the files in ``root`` (a folder or one file), split by task. UserErrors name file and row."""
    paths = sorted(path for path in root.rglob("*") if _is_data(path)) if root.is_dir() else [root]
    if not paths or not paths[0].is_file():
        raise UserError(f"{root} holds no .parquet or .jsonl file of thuml/webarena-world-model-cot; put it there")
    return [_transition(row, place, test_share) for path in paths for row, place in _rows(path)]


def _is_data(path: Path) -> bool:
    return path.is_file() and re.search(r"\.(parquet|jsonl(\.gz|\.xz)?)$", path.name) is not None


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            with open_text(path) as lines:
                rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise UserError(f"{path} cannot be read ({str(error)[:120]}); fetch it again") from None
    for number, row in enumerate(rows, start=1):
        yield row, f"{path}, row {number}"


def _transition(row: Any, place: str, test_share: float) -> WebTransition:
    missing = [key for key in NEEDED if not isinstance(row, dict) or key not in row]
    if missing:
        raise UserError(f"{place} lacks {', '.join(missing)}; it is no row of thuml/webarena-world-model-cot")
    parts = _parts(str(row["question"]))
    new, deleted, updated = (_items(row[key]) for key in ("new_items", "deleted_items", "updated_items"))
    previous = tuple(str(action) for action in row.get("previous_actions") or () if str(action) != NOTHING)
    item = WebTransition(
        *(SITE, str(row["task_id"]), int(row["task_id"]), int(row["step_idx"])),
        *(parts["OBJECTIVE:"], parts["URL:"], previous, parts["CURRENT OBSERVATION:"], parts["CURRENT ACTION:"]),
        *(str(row.get("next_state_acctree") or ""), "", new, deleted, updated),
        prompt=str(row["question"]),
        thoughts=_thoughts(str(row["answer"])),
    )
    return replace(item, split="test" if _drawn(item.seed) < test_share else "train")


def _parts(question: str) -> dict[str, str]:
    """What stands under the last headings of a question (they are explained above first); empty where there is none."""
    places = {heading: question.rfind(f"\n{heading}") for heading in HEADINGS}
    found = {}
    for heading, place in places.items():
        after = [other for other in places.values() if other > place]
        text = question[place + 1 + len(heading) : min(after, default=len(question))] if place >= 0 else ""
        found[heading] = text.strip("\n ") if heading != "CURRENT ACTION:" else text.strip().split("\n")[0]
    return found


def _items(text: Any) -> tuple[str, ...]:
    lines = [line.strip() for line in str(text or "").splitlines()]
    return tuple(line for line in lines if line and line != NOTHING)


def _thoughts(answer: str) -> str:
    """What an answer says before its first section."""
    return answer[: answer.find(SECTIONS[0])].strip() if SECTIONS[0] in answer else ""


def _drawn(task: int) -> float:
    """A number in [0, 1) that depends on the task alone, so that a task is never in two splits."""
    return int(hashlib.sha256(f"webarena {task}".encode()).hexdigest()[:8], 16) / 2**32


__all__ = ["NEEDED", "load_public"]
