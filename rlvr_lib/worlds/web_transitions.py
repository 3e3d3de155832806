"""Web-page transitions: what a model sees before an action, and what the browser shows after it (B.1 to B.3).

One JSON line per transition. Public data (thuml/webarena-world-model-cot) and our recorded set become the same class.
"""

import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError, read_json, sha256_of
from rlvr_lib.worlds.transitions import open_text
from rlvr_lib.worlds.web_pages import Changes

SPLITS = ("train", "validation", "test", "unseen")
MANIFEST = "manifest.json"
MOST_TOKENS = 5000  # B.3: prompt and target together


@dataclass(frozen=True)
class WebTransition:
    """``before`` and ``after`` are pages as text; numbers in brackets stand for the same element in both.

    ``previous`` are the actions of the episode so far, ``expert`` is what the scripted solver would have done ("" when
    there is none), ``success`` whether the goal is reached after the action, ``refused`` why the action did nothing.
    A ``stop`` record is the end of an episode: nothing changes.
    """

    site: str
    task: str
    seed: int
    step: int
    goal: str
    url: str
    previous: tuple[str, ...]
    before: str
    action: str
    after: str
    after_url: str
    new: tuple[str, ...]
    deleted: tuple[str, ...]
    updated: tuple[str, ...]
    expert: str = ""
    refused: str = ""
    success: bool = False
    split: str = "train"
    thoughts: str = ""  # chain of thought, public data only
    prompt: str = ""  # the question as published, public data only

    @property
    def changes(self) -> Changes:
        return Changes(self.new, self.deleted, self.updated)

    @property
    def case_id(self) -> str:
        """Stable name of the case."""
        return f"{self.site}/{self.task}/{self.seed}/{self.step}"

    @property
    def question(self) -> tuple[str, str, str]:
        """What decides about the answer: equal questions belong into one split."""
        return self.url, self.before or self.prompt, self.action

    @property
    def is_stop(self) -> bool:
        return self.action.startswith("stop")

    def record(self) -> dict[str, Any]:
        """The JSON record; empty optional keys are left out."""
        return {key: value for key, value in asdict(self).items() if value != "" and value is not False}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "WebTransition":
        """Read a record; KeyError or TypeError when it is none."""
        lists = {key: tuple(record[key]) for key in ("previous", "new", "deleted", "updated")}
        known = {field.name for field in fields(cls)}
        return cls(**{**{key: value for key, value in record.items() if key in known}, **lists})


def split_of(site: str, template: str, seed: int, held_out: bool) -> str:
    """The split of an episode: ``unseen`` for held-out sites and tasks, else by a hash of site, task and seed."""
    if held_out:
        return "unseen"
    place = int(hashlib.sha256(f"{site} {template} {seed}".encode()).hexdigest()[:8], 16) % 100
    return "test" if place < 9 else "validation" if place < 14 else "train"


def read_web_file(path: Path) -> list[WebTransition]:
    """Read a file of our own records (plain, ``.gz``, ``.xz``). UserErrors name file and line."""
    return [_transition(line, place) for line, place in _lines(path)]


def _transition(line: str, place: str) -> WebTransition:
    try:
        return WebTransition.from_record(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}); record it again with rlvr record-web") from None


def _lines(path: Path) -> list[tuple[str, str]]:
    try:
        with open_text(path) as lines:
            return [(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; record the set with rlvr record-web") from None
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} is damaged ({error}); record it again with rlvr record-web") from None


def load_web_set(folder: Path, splits: Sequence[str] = SPLITS, stops: bool = False) -> dict[str, list[WebTransition]]:
    """The recorded set by split, checked against its manifest; ends of episodes only with ``stops``."""
    hashes = read_json(folder / MANIFEST)["files"]
    found = {}
    for split in splits:
        path = folder / f"{split}.jsonl.xz"
        if path.is_file() and sha256_of(path) != hashes.get(path.name):
            raise UserError(f"{path} is not the file that {MANIFEST} describes; restore it or record the set again")
        found[split] = [item for item in read_web_file(path) if stops or not item.is_stop]
    return found


def assert_disjoint(splits: dict[str, Sequence[WebTransition]]) -> None:
    """No episode and no question of a split stands in another one."""
    for key in (lambda item: (item.site, item.task, item.seed), lambda item: item.question):
        owners: dict[Any, str] = {}
        for split, items in splits.items():
            for item in items:
                if owners.setdefault(key(item), split) != split:
                    raise AssertionError(f"{item.case_id} of {split} stands in {owners[key(item)]} as well")


def short_enough(
    items: Iterable[WebTransition], tokens: Callable[[WebTransition], int], most: int = MOST_TOKENS
) -> list[WebTransition]:
    """Those whose prompt and answer together have at most ``most`` tokens (B.3)."""
    return [item for item in items if tokens(item) <= most]


__all__ = ["MANIFEST", "SPLITS", "WebTransition", "assert_disjoint", "load_web_set", "read_web_file", "short_enough"]
