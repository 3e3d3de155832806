"""Data sets of the embedded text games: split by layout seed, balanced test cases, two games held out.

Training draws from a crawl of the training layouts; test and validation cases are drawn so that each game weighs the
same and a fixed share changes (ours: 0.41 as in the official test set), and none of their prompts occurs in training.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

from rlvr_lib.worlds.text_crawl import crawl_split
from rlvr_lib.worlds.transitions import GameState, TextTransition

Changed = Callable[[GameState, GameState], bool]


def crawl_transitions(split: str, layouts: int, games: tuple[str, ...], first: int = 0) -> Iterator[TextTransition]:
    """All transitions of ``layouts`` layouts of a split, from number ``first`` on (lazily: a crawl may be large)."""
    numbers = range(first, first + layouts)
    return (TextTransition.from_record(record) for record in crawl_split(split, numbers, games))


def question_key(transition: TextTransition) -> bytes:
    """16 bytes that are equal when two transitions ask the same question (same state, goals and action)."""
    question = [transition.current, transition.task, transition.action]
    return hashlib.sha256(json.dumps(question).encode()).digest()[:16]


def draw_cases(
    transitions: Iterable[TextTransition],
    number: int,
    changed_share: float,
    seed: int,
    is_changed: Changed,
    seen: frozenset = frozenset(),
) -> list[TextTransition]:
    """Draw ``number`` cases, equally many per game and ``changed_share`` of each game's changed, without repetition.

    Questions in ``seen`` are left out. A game with too few cases of a kind gives fewer; the result is ordered by game.
    """
    pools: dict[tuple[str, bool], dict[bytes, TextTransition]] = {}
    for transition in transitions:
        key = question_key(transition)
        if key not in seen:
            kind = (transition.game, is_changed(transition.current, transition.target))
            pools.setdefault(kind, {})[key] = transition
    games = sorted({game for game, _ in pools})
    chosen = []
    for index, game in enumerate(games):
        size = number * (index + 1) // len(games) - number * index // len(games)
        busy = round(size * changed_share)
        for changed, count in ((True, busy), (False, size - busy)):
            pool = list(pools.get((game, changed), {}).values())
            chosen += Random(f"{seed}/{game}/{changed}").sample(pool, min(count, len(pool)))
    return chosen


def to_row(transition: TextTransition) -> dict:
    """A compact JSON row of a drawn case (only what a prompt, a reward or a table needs)."""
    return {
        "game": transition.game,
        "state_id": transition.state_id,
        "layout_seed": transition.layout_seed,
        "action": transition.action,
        "task": transition.task,
        "max_uuid": transition.max_uuid,
        "current": transition.current,
        "target": transition.target,
        "notes": list(transition.notes),
    }


def from_row(row: dict) -> TextTransition:
    """Inverse of :func:`to_row`."""
    return TextTransition(**{**row, "notes": tuple(row["notes"])})


def save_cases(path: Path, transitions: Sequence[TextTransition]) -> Path:
    """Write cases as JSON lines, atomically; equal cases give equal bytes."""
    from rlvr_lib.artifacts import atomic_write_text

    return atomic_write_text(path, "".join(json.dumps(to_row(item)) + "\n" for item in transitions))


def load_cases(path: Path) -> list[TextTransition]:
    """Read what :func:`save_cases` wrote; a missing or damaged file raises UserError naming it."""
    from rlvr_lib.artifacts import UserError

    try:
        return [from_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run `rlvr reproduce --only 10` first") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run `rlvr reproduce --only 10`") from error
