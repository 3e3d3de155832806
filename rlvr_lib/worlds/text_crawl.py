"""Crawling the embedded games as A.1 does: every valid action tried once along gold play-throughs of random layouts.

A snapshot is copied per try instead of replaying the prefix, which gives the same records at thousands a second.
"""

import hashlib
from collections.abc import Iterator
from random import Random
from typing import Any

from rlvr_lib.worlds.text_engine import Game, World
from rlvr_lib.worlds.text_games import GAMES

SPLITS = ("train", "validation", "test")


def layout_seed(split: str, number: int) -> int:
    """Layout seeds of the splits never meet: they differ modulo 3."""
    return 3 * number + SPLITS.index(split)


def start(game: Game, seed: int) -> World:
    """The layout of a game for a seed (the same on every machine)."""
    digest = hashlib.sha256(f"{game.name}/{seed}".encode()).digest()
    return game.build(Random(int.from_bytes(digest[:8], "big")))


def crawl(game: Game, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the ByteSized32 records of one layout: per situation all valid actions, the gold one last.

    The order of actions is by verb, in the order of the game's verbs. Extra keys: ``layout_seed`` and ``notes``.
    """
    live = start(game, seed)
    task, state_id = live.task(), 0
    for gold in game.gold(live):
        actions = game.actions(live)
        if gold not in actions:
            raise RuntimeError(
                f"{game.name}, layout {seed}: the play-through wants {gold!r}, which is not a valid action"
            )
        before, score = live.described("", task), live.score_record()
        for action in [*(text for text in actions if text != gold), gold]:
            yield _try(game, live, seed, state_id, action, actions[action], task, before, score)
            state_id += 1
        live.notes.clear()
        game.step(live, *actions[gold])
        game.tick(live)
        if live.lost:
            return


def _try(
    game: Game, live: World, seed: int, state_id: int, action: str, call, task: str, before, score
) -> dict[str, Any]:
    world = live.copy()
    game.step(world, *call)
    after_action = world.described(action, task, before["objects"] if not world.notes else None)
    told = len(world.notes)
    game.tick(world)
    after_tick = world.described(action, task, after_action["objects"] if len(world.notes) == told else None)
    next_score = world.score_record()
    if next_score != score:
        world.notes.append(f"score: {score['score']} -> {next_score['score']}" + ", over" * next_score["gameOver"])
    return {
        "game": game.name,
        "state_id": state_id,
        "current_state": before,
        "action_state": after_action,
        "tick_state": after_tick,
        "current_score_state": score,
        "next_score_state": next_score,
        "layout_seed": seed,
        "notes": world.notes,
    }


def crawl_split(split: str, layouts: range, games: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """All records of the numbered layouts of each game, in a fixed order."""
    for name in games:
        for number in layouts:
            yield from crawl(GAMES[name], layout_seed(split, number))
