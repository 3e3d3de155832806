"""The public text-game data, ByteSized32-State-Prediction: official test set, training crawl, rules, mixing (spec A).

Files are read from one folder: ``test.zip`` (or ``test.jsonl``), ``train/<game>.jsonl`` (plain, ``.xz`` or ``.gz``),
the three ``*_rules.json``, ``examples.json`` and ``games.json``. Nothing is shipped with the project; upstream
publishes the test set and the rules, and its games, run by its ``get_game_states.py``, give the training crawl. The
game *dishwasher* only supplies the examples in the prompt and is kept out of training and evaluation. The paper's pool
has 150 672 transitions (A.2); ours is whatever the folder holds, without the test ids.
"""

import io
import json
import lzma
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.transitions import GameState, TextTransition, open_text, written_notes

EXAMPLE_GAME = "dishwasher"
SOURCE = "https://github.com/cognitiveailab/GPT-simulator"
UPSTREAM = {  # where upstream keeps what we look for
    "test.zip": "data/test.zip",
    "train": "data/games (run data/get_game_states.py on every game, one <game>.jsonl each)",
    "examples.json": "data/examples.json",
    "games.json": "experiments/games.json",
}
SEPARATOR = "=" * 10
Item = TypeVar("Item")


@dataclass(frozen=True)
class PublicGames:
    """Test and training transitions; training excludes every test id and the example game."""

    test: list[TextTransition]
    train: list[TextTransition]


def data_folder(root: str | Path | None = None) -> Path:
    """The folder of the public files: ``root``, or ``RLVR_SHARED_DATA``/bytesized32. UserError says what to fetch.

    ``root`` may also be the folder that holds ``bytesized32``.
    """
    shared = os.environ.get("RLVR_SHARED_DATA", "")
    place = Path(root) if root else Path(shared) if shared else None
    for folder in (place / "bytesized32", place) if place else ():
        if folder.is_dir() and (folder.name == "bytesized32" or root):
            return folder
    raise UserError(
        f"the public text-game data is not there ({place or 'RLVR_SHARED_DATA is not set'}): put the files of {SOURCE} "
        "into one folder and set text_game.data.root to it, or use text_game.data.source=embedded"
    )


def load(root: str | Path | None = None, games: Sequence[str] | None = None) -> PublicGames:
    """Load the test set and the training crawl of all evaluated games (or of ``games``)."""
    folder = data_folder(root)
    test = [item for item in load_test(folder) if games is None or item.game in games]
    taken = {(item.game, item.state_id) for item in test}
    train = [item for item in load_train(folder, games) if (item.game, item.state_id) not in taken]
    assert taken.isdisjoint((item.game, item.state_id) for item in train)
    assert all(item.game != EXAMPLE_GAME for item in train)
    return PublicGames(test, train)


def load_games(folder: Path) -> list[str]:
    """Names of the evaluated games, sorted (31 of them; the example game is not among them)."""
    return sorted(name for name in _json(folder / "games.json")["games"] if name != EXAMPLE_GAME)


def load_test(folder: Path) -> list[TextTransition]:
    """The official test transitions, in file order (2 954 of them when complete)."""
    path = _need(folder / "test.zip", folder / "test.jsonl")
    if path.suffix == ".jsonl":
        return _read_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jsonl")]
            return [item for name in names for item in _read(io.TextIOWrapper(archive.open(name), "utf-8"), path)]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): {_fetch(path)}") from error


def load_train(folder: Path, games: Sequence[str] | None = None) -> list[TextTransition]:
    """The training crawl as filed (test ids included, if they are there), game by game without the example game."""
    files = {path.name.split(".")[0]: path for path in sorted((folder / "train").glob("*.jsonl*"))}
    wanted = sorted(files.keys() - {EXAMPLE_GAME}) if games is None else list(games)
    if not wanted or not set(wanted) <= files.keys():
        missing = ", ".join(sorted(set(wanted) - files.keys())) or "anything"
        raise UserError(f"{folder / 'train'} does not hold {missing}: {_fetch(folder / 'train')}")
    return [item for game in wanted for item in _read_file(files[game])]


def _read_file(path: Path) -> list[TextTransition]:
    try:
        with open_text(path) as lines:
            return list(_read(lines, path))
    except (EOFError, OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} is damaged ({error}): {_fetch(path)}") from error


def _read(lines: Iterable[str], path: Path) -> Iterator[TextTransition]:
    reader = RecordReader()
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield reader.transition(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"{path}, line {number} is damaged ({reason}): {_fetch(path)}") from error


class RecordReader:
    """Reads lines of one file, and every list of objects that occurs in it once.

    A crawl repeats the same state for all the actions tried in it: the official format has hundreds of megabytes of
    text with a few megabytes of content. Equal states share one list (nobody may change it in place).
    """

    OPENING, CLOSING = '"objects": ', ', "max_UUID"'

    def __init__(self) -> None:
        self.objects: dict[str, int] = {}
        self.parsed: list[list[dict[str, Any]]] = []
        self.notes: dict[tuple, list[str]] = {}
        self.states: dict[tuple, GameState] = {}

    def transition(self, line: str) -> TextTransition:
        """One record; raises ValueError or KeyError when it is damaged."""
        record = json.loads("".join(self._pieces(line)))
        places = []
        for name in ("current_state", "action_state", "tick_state"):
            place = record[name]["objects"]
            places.append(place if isinstance(place, int) else self._keep(json.dumps(place)))
            record[name]["objects"] = self.parsed[places[-1]]
        scores = [json.dumps(record[name]) for name in ("current_score_state", "next_score_state")]
        key = (*places, *scores)
        if key not in self.notes:
            self.notes[key] = written_notes(record)
        item = TextTransition.from_record({"notes": self.notes[key], **record})
        current = self.states.setdefault((places[0], scores[0]), item.current)
        return replace(item, current=current, target=self.states.setdefault((places[2], scores[1]), item.target))

    def _pieces(self, line: str) -> Iterator[str]:
        """The line with every list of objects that stands where the official files have it replaced by its number."""
        position = 0
        while (start := line.find(self.OPENING, position)) >= 0 and (end := line.find(self.CLOSING, start)) >= 0:
            start += len(self.OPENING)
            yield line[position:start]
            yield str(self._keep(line[start:end]))
            position = end
        yield line[position:]

    def _keep(self, text: str) -> int:
        if text not in self.objects:
            self.parsed.append(json.loads(text))
            self.objects[text] = len(self.parsed) - 1
        return self.objects[text]


def _need(*paths: Path) -> Path:
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        raise UserError(f"{paths[0]} is missing: {_fetch(paths[0])}")
    return found


def _fetch(path: Path) -> str:
    """What to do about a missing or damaged file."""
    name = path.name if path.parent.name != "train" else "train"
    upstream = UPSTREAM.get(name, f"rules/human_written_rules/{name}")
    return f"fetch it from {SOURCE}, {upstream}"


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
    objects, actions, scores = (_json(folder / f"{name}_rules.json") for name in ("object", "action", "score"))
    return {game: Rules(cut_object_rules(objects[game]), actions[game], scores[game]) for game in objects}


def load_examples(folder: Path) -> dict[str, TextTransition]:
    """The two in-prompt examples: ``action`` (driven by the action) and ``tick`` (driven by time)."""
    found = _json(folder / "examples.json")["full"]
    return {kind: TextTransition.from_record(found[kind]) for kind in ("action", "tick")}


def _json(path: Path) -> Any:
    try:
        return json.loads(_need(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): {_fetch(path)}") from error


# ---- mixing (A.11)
class MixedPool:
    """An epoch of RLVR items: all changed ones plus ``slots`` unchanged ones, drawn afresh with replacement (A.11).

    ``batch`` items go together; the last partial batch of an epoch is dropped. An epoch depends on ``seed`` and its
    number alone, so that a resumed run sees the same items. Without unchanged items there are no slots. Raises
    UserError when an epoch would not fill one batch.
    """

    def __init__(self, changed: Sequence[Item], unchanged: Sequence[Item], slots: int, batch: int, seed: int):
        self.changed, self.unchanged = list(changed), list(unchanged)
        self.slots, self.batch, self.seed = slots if unchanged else 0, batch, seed
        if len(self.changed) + self.slots < batch:
            raise UserError(
                f"rlvr.prompts_per_step: {batch} is more than the pool of {len(self.changed)} changed items and "
                f"{self.slots} slots for unchanged ones; lower it or make more data"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return (len(self.changed) + self.slots) // self.batch

    def epoch(self, number: int) -> list:
        """The items of epoch ``number`` in random order, a whole number of batches."""
        rng = Random(f"epoch/{self.seed}/{number}")
        items = self.changed + (rng.choices(self.unchanged, k=self.slots) if self.slots else [])
        rng.shuffle(items)
        return items[: len(self) * self.batch]
