"""The public text-game data, ByteSized32-State-Prediction: official test set, training crawl, rules, mixing (spec A).

Files are read from ``<root>/bytesized32`` as published: ``test.zip``, ``train/<game>.jsonl(.xz|.gz)``, and the rules as
JSON. Nothing is shipped with the project. The game *dishwasher* only supplies the examples in the prompt; it is kept
out of training and evaluation.
"""

import io
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.transitions import TextTransition, read_transitions

EXAMPLE_GAME = "dishwasher"
SOURCE = "cognitiveailab/GPT-simulator on GitHub, folder data"
SEPARATOR = "=========="


@dataclass(frozen=True)
class PublicGames:
    """Test and training transitions (training excludes every test id and the example game)."""

    test: list[TextTransition]
    train: list[TextTransition]


def data_folder(root: str | Path | None = None) -> Path:
    """The folder of the public files: ``root``, or ``RLVR_SHARED_DATA``/bytesized32. UserError says what to fetch."""
    shared = os.environ.get("RLVR_SHARED_DATA", "")
    folder = Path(root) if root else Path(shared) / "bytesized32" if shared else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"the public text-game data is not there ({folder or 'RLVR_SHARED_DATA is not set'}): fetch it from "
            f"{SOURCE} and set text_game.data.root to its folder, or use text_game.data.source=embedded"
        )
    return folder


def load(root: str | Path | None = None, games: Sequence[str] | None = None) -> PublicGames:
    """Load the test set and the training crawl of all evaluated games (or of ``games``)."""
    folder = data_folder(root)
    test = load_test(folder)
    taken = {(item.game, item.state_id) for item in test}
    train = [item for item in load_train(folder) if (item.game, item.state_id) not in taken]
    if games is not None:
        test, train = ([item for item in part if item.game in games] for part in (test, train))
    return PublicGames(test, train)


def load_test(folder: Path) -> list[TextTransition]:
    """The official test transitions, in file order (2 954 of them when complete)."""
    path = _need(folder / "test.zip", folder / "test.jsonl")
    if path.suffix == ".jsonl":
        return read_transitions(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jsonl")]
            lines = [line for name in names for line in io.TextIOWrapper(archive.open(name), "utf-8") if line.strip()]
        return [TextTransition.from_record(json.loads(line)) for line in lines]
    except (zipfile.BadZipFile, json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again from {SOURCE}") from error


def load_train(folder: Path) -> list[TextTransition]:
    """The training crawl of every game but the example game, by game name."""
    files = sorted(path for path in (folder / "train").glob("*.jsonl*") if path.name.split(".")[0] != EXAMPLE_GAME)
    if not files:
        raise UserError(f"{folder / 'train'} holds no training files: fetch them from {SOURCE}")
    found: list[TextTransition] = []
    for path in files:
        try:
            found += read_transitions(path)
        except (ValueError, KeyError, EOFError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}): fetch it again from {SOURCE}") from error
    return found


def _need(*paths: Path) -> Path:
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise UserError(f"{paths[0]} is missing: fetch it from {SOURCE}")
    return found


# ---- rules (A.3)
@dataclass(frozen=True)
class Rules:
    """The human-written rules of a game: objects (last block dropped, as released), actions, score."""

    objects: str
    actions: str
    score: str


def cut_object_rules(text: str) -> str:
    """Blocks between lines of ten equals signs, the last one dropped, joined without separator (A.3)."""
    return "".join(text.split(SEPARATOR)[:-1])


def load_rules(folder: Path) -> dict[str, Rules]:
    """Rules of every game by name."""
    parts = {name: _json(folder / f"{name}_rules.json") for name in ("object", "action", "score")}
    return {
        game: Rules(cut_object_rules(parts["object"][game]), parts["action"][game], parts["score"][game])
        for game in parts["object"]
    }


def load_examples(folder: Path) -> dict[str, TextTransition]:
    """The two in-prompt examples: ``action`` (driven by the action) and ``tick`` (driven by time)."""
    found = _json(folder / "examples.json")["full"]
    return {kind: _example(found[kind]) for kind in ("action", "tick")}


def _example(record: dict[str, Any]) -> TextTransition:
    return TextTransition.from_record({"game": EXAMPLE_GAME, "state_id": 0, "notes": [], **record})


def _json(path: Path) -> Any:
    try:
        return json.loads(_need(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error.msg}): fetch it again from {SOURCE}") from error


# ---- mixing (A.11)
class MixedPool:
    """An epoch of RLVR items: all changed ones plus ``slots`` unchanged ones, drawn afresh with replacement (A.11).

    ``batch`` items go together; the last partial batch of an epoch is dropped. Epochs are seeded by their number.
    """

    def __init__(self, changed: Sequence, unchanged: Sequence, slots: int, batch: int, seed: int):
        if len(changed) + slots < batch:
            raise UserError(f"rlvr.prompts_per_step: {batch} is more than the pool of {len(changed)} + {slots} items")
        self.changed, self.unchanged = list(changed), list(unchanged)
        self.slots, self.batch, self.seed = slots if unchanged else 0, batch, seed

    def epoch(self, number: int) -> list:
        """The items of epoch ``number`` in random order, a whole number of batches."""
        rng = Random(f"epoch/{self.seed}/{number}")
        items = self.changed + rng.choices(self.unchanged, k=self.slots) if self.slots else list(self.changed)
        rng.shuffle(items)
        return items[: len(items) - len(items) % self.batch]
