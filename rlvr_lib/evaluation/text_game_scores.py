"""Scoring anybody's text-game predictions with the paper's metrics (Table 1; spec A.2, A.6 to A.9).

Input is one JSON object a line with ``current_state`` and ``gold_state`` (each ``{"game_state": [objects..., score
record]}``, or that as a JSON text) and ``response``, the model's whole text. Output is a table with the rows unchanged,
changed and overall. The paper prints bare percentages; here each mean has a 95 % bootstrap interval, and a corrected
accuracy stands beside the released one.
"""

import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.artifacts import UserError, atomic_write_text
from rlvr_lib.evaluation.statistics import bootstrap_mean
from rlvr_lib.worlds.text_game_rewards import is_changed, score_answer
from rlvr_lib.worlds.transitions import GameState, open_text

KEYS = ("current_state", "gold_state", "response")
METRICS = {"binary": "accuracy", "corrected": "corrected accuracy", "task_specific": "task-specific reward"}


@dataclass(frozen=True)
class Prediction:
    """One line: two game states (object records, then the score record) and the response, whatever it is."""

    current: GameState
    gold: GameState
    response: Any


# ---- reading
def read_predictions(lines: Iterable[str], name: str = "input") -> Iterator[Prediction]:
    """Predictions of the lines that are not blank; UserError names ``name``, the line and what is wrong with it."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _prediction(line)
            except (UserError, RecursionError) as error:
                raise UserError(f"{name}, line {number}: {error or 'nested too deeply'}") from error


def _prediction(line: str) -> Prediction:
    record = _parsed(line, "the line")
    if not isinstance(record, dict):
        raise UserError(f"holds no JSON object but {_shown(record)}; needed: an object with {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in record]
    if missing:
        raise UserError(f"the key {missing[0]} is missing; each line needs {', '.join(KEYS)}")
    return Prediction(_state(record, "current_state"), _state(record, "gold_state"), record["response"])


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{what} is not JSON ({error})") from error


def _state(record: dict[str, Any], key: str) -> GameState:
    """The game state under ``key``, its shape checked."""
    value = record[key]
    value = _parsed(value, key) if isinstance(value, str) else value
    state = value.get("game_state") if isinstance(value, dict) else None
    if not isinstance(state, list) or not state:
        raise UserError(f'{key} must be {{"game_state": [objects..., score record]}}, not {_shown(value)}')
    for place, item in enumerate(state[:-1]):
        if not _is_object(item):
            raise UserError(
                f"{key}, object {place}: needs uuid (number or text), properties (object) and contains (list of names),"
                f" not {_shown(item)}"
            )
    if not isinstance(state[-1], dict) or "score" not in state[-1] or "uuid" in state[-1]:
        raise UserError(f"{key} must end with the score record (score, gameOver, gameWon), not {_shown(state[-1])}")
    return state


def _is_object(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("uuid"), int | float | str)
        and isinstance(item.get("properties"), dict)
        and isinstance(item.get("contains"), list)
        and all(isinstance(name, str) for name in item["contains"])
    )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# ---- scoring
def score_predictions(predictions: Iterable[Prediction]) -> pd.DataFrame:
    """One row per prediction, in order: changed, binary, task_specific, corrected, parsed. Bad responses have 0."""
    rows = []
    for item in predictions:
        response = item.response if isinstance(item.response, str) else ""
        score = score_answer(response, item.current, item.gold)
        rows.append(
            {
                "binary": float(score.binary),
                "task_specific": float(score.task_specific),
                "corrected": float(score.corrected),
                "parsed": bool(score.parsed),
                "changed": bool(is_changed(item.current, item.gold)),
            }
        )
    return pd.DataFrame(rows, columns=["binary", "task_specific", "corrected", "parsed", "changed"])


def summarise(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Rows unchanged, changed, overall; columns ``n`` and one :class:`Interval` per metric (None without cases).

    All values are means, so accuracies lie in [0, 1]; :func:`table_text` prints them in percent.
    """
    changed = items["changed"].astype(bool)
    parts = {"unchanged": items[~changed], "changed": items[changed], "overall": items}
    rows = {}
    for name, part in parts.items():
        means = {label: bootstrap_mean(part[key], seed) if len(part) else None for key, label in METRICS.items()}
        rows[name] = {"n": len(part), **means}
    return pd.DataFrame.from_dict(rows, orient="index")


def score_records(lines: Iterable[str], seed: int = 0) -> pd.DataFrame:
    """Table of the given JSON lines (see :func:`summarise`); UserError for a line that cannot be used."""
    return summarise(score_predictions(read_predictions(lines)), seed)


def score_file(path: Path | str, per_item: Path | str | None = None, seed: int = 0) -> pd.DataFrame:
    """Table of a JSON-lines file (plain, ``.gz`` or ``.xz``); ``per_item`` gets one line of scores per prediction.

    UserError for a file that cannot be read, or a line that cannot be used. Nothing is written then.
    """
    path = Path(path)
    if per_item is not None and Path(per_item).resolve() == path.resolve():
        raise UserError(f"--per-item: {per_item} is the input itself; name another file")
    try:
        with open_text(path) as lines:
            items = score_predictions(read_predictions(lines, str(path)))
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read ({error}); needed: JSON lines in UTF-8") from error
    if items.empty:
        raise UserError(f"{path} holds no predictions; needed: JSON lines with {', '.join(KEYS)}")
    if per_item is not None:
        atomic_write_text(Path(per_item), "".join(json.dumps(row) + "\n" for row in items.to_dict("records")))
    return summarise(items, seed)


def table_text(table: pd.DataFrame) -> str:
    """The table for a terminal: accuracies in percent, the reward as it is, each with its 95 % interval."""
    shown = pd.DataFrame({"n": table["n"]}, index=table.index)
    for label in METRICS.values():
        scale, digits, unit = (1, 3, "") if "reward" in label else (100, 2, " (%)")
        shown[label + unit] = [_cell(value, scale, digits) for value in table[label]]
    return f"{shown.to_string()}\nmeans with 95 % bootstrap intervals"


def _cell(interval: Any, scale: float, digits: int) -> str:
    return "-" if interval is None else interval.text(scale, digits)
