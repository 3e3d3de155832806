"""Rewards on transitions of the embedded games: ceilings, the no-change answer, and a fuzzer with a watch on hangs.

The vectors and the quirks are in test_text_game_rewards.py.
"""

import faulthandler
import os
import signal
from contextlib import contextmanager
from functools import cache
from random import Random

import pytest
from text_game_examples import assert_sound

from rlvr_lib.worlds.text_crawl import crawl, layout_seed
from rlvr_lib.worlds.text_game_answers import LONGEST
from rlvr_lib.worlds.text_game_rewards import (
    is_changed,
    is_changed_for_training,
    no_change_answer,
    perfect_answer,
    score_answer,
)
from rlvr_lib.worlds.text_games import GAMES
from rlvr_lib.worlds.transitions import TextTransition

MARKER = "The final answer is:"
UNCHANGED_BEST, CHANGED_BEST = 0.3, 1.3


@cache
def crawled() -> tuple[TextTransition, ...]:
    """Transitions of every embedded game that add no object (those cannot be won)."""
    found = []
    for game in GAMES.values():
        items = [TextTransition.from_record(record) for record in crawl(game, layout_seed("test", 500))]
        found += [
            item
            for item in items[::7]
            if {record["uuid"] for record in item.target[:-1]} <= {record["uuid"] for record in item.current[:-1]}
        ]
    return tuple(found)


@pytest.mark.parametrize("notation", ["json", "python"])
def test_perfect_answers_reach_the_ceiling(notation):
    for item in crawled():
        score = score_answer(perfect_answer(item.current, item.target, notation), item.current, item.target)
        best = CHANGED_BEST if is_changed_for_training(item.current, item.target) else UNCHANGED_BEST
        assert (score.binary, score.corrected) == (1, 1), item.case_id
        assert score.task_specific == pytest.approx(best), item.case_id


def test_no_change_answers_are_right_exactly_on_unchanged_cases():
    removals = 0
    for item in crawled():
        score = score_answer(no_change_answer(), item.current, item.target)
        assert score.corrected == (not is_changed(item.current, item.target))
        removals += score.binary != score.corrected
    assert removals <= 1


# ---- long and deep texts
@contextmanager
def limit(seconds: int, text: str):
    """Fail with the text's beginning when the body is still running after ``seconds``."""

    def stop(*_):
        faulthandler.dump_traceback()
        pytest.fail(f"still running after {seconds} s on {text[:300]!r} ... ({len(text)} characters)")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


UNITS = [
    '"',
    "'",
    ",",
    "[",
    "{",
    "]",
    "}",
    ":",
    "\\",
    "\n",
    "```json",
    '{"a":[',
    '"a" "b" ',
    "a:b,",
    "/*",
    "“",
    "1e",
    '",',
]
HANG = 60  # generous: other work may share the machine; the texts take about two seconds at most


@pytest.mark.parametrize("unit", UNITS)
def test_long_monotonous_texts_end(unit):
    item = crawled()[0]
    long = (unit * LONGEST)[: LONGEST - 100]
    for text in (long, f'{{"modified": [{long}', f'{{"modified": [], "removed": [], "x": "{long}}}'):
        with limit(HANG, text):
            assert_sound(f"{MARKER} {text}", item.current, item.target)


# ---- the fuzzer
JUNK = [
    '"',
    "'",
    ",",
    "[",
    "]",
    "{",
    "}",
    ":",
    "\\",
    "\n",
    "None",
    "True",
    "null",
    "NaN",
    "1e999",
    "```",
    "\u2028",
    "\ud800",
    "0x1",
]


def damage(text: str, rng: Random) -> str:
    """Cut, drop, repeat, swap or insert somewhere; one to eight times."""
    for _ in range(rng.randint(1, 8)):
        a, b = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        near = min(len(text), a + rng.randint(1, 12))
        kind = rng.randrange(7)
        if kind == 0:
            text = text[:a]
        elif kind == 1:
            text = text[:a] + text[near:]
        elif kind == 2:
            text = text[:near] + text[a:near] * rng.randint(1, 30) + text[near:]
        elif kind == 3:
            text = text[:a] + rng.choice(JUNK) * rng.choice([1, 1, 1, 2, 40]) + text[a:]
        elif kind == 4:
            text = text[:a] + text[b:] + text[a:b]
        elif kind == 5:
            text = text.replace(rng.choice(JUNK[:8]), rng.choice(["", " ", *JUNK]), rng.randint(1, 3))
        else:
            text = text[:a] + chr(rng.choice([rng.randrange(128), rng.randrange(0x2FFF)])) + text[near:]
    return text[:20_000]


def test_fuzzer_finds_no_exception_and_no_hang():
    """3 000 damaged answers; RLVR_FUZZ=100000 for the full run."""
    rng = Random("fuzz/0")
    cases = [(item.current, item.target) for item in crawled()]
    for _ in range(int(os.environ.get("RLVR_FUZZ", "3000"))):
        current, gold = rng.choice(cases)
        text = damage(perfect_answer(current, gold, rng.choice(["json", "python"])), rng)
        with limit(HANG, text):
            assert_sound(text if rng.random() < 0.5 else f"{MARKER} {text}", current, gold)
