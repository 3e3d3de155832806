"""Copies of recorded steps with rare words exchanged, so that a model has to copy what it cannot know by heart.

A few thousand pages are seen so often in likelihood training that their names are learnt, and copying is not
(docs/tried.md). In a copy a rare word is everywhere the same other word: in page, action and changes. Frequent words
(roles, attributes, the sites' own buttons) carry the dynamics and stay; so do numbers, which name elements.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from rlvr_lib.worlds.web_transitions import WebTransition

WORD = re.compile(r"[A-Za-z]{3,}")
RARE = 0.05  # share of steps that know a word, at most


def rare_words(items: Iterable[WebTransition], share: float = RARE) -> list[str]:
    """Words, in small letters and order, that at most ``share`` of the steps contain."""
    seen = [set(WORD.findall(" ".join((item.before, item.action, *_lines(item))).lower())) for item in items]
    counts = Counter(word for words in seen for word in words)
    return sorted(word for word, count in counts.items() if count <= share * len(seen))


def _lines(item: WebTransition) -> tuple[str, ...]:
    return (*item.new, *item.deleted, *item.updated)


def reworded(item: WebTransition, rare: Sequence[str], rng: Random) -> WebTransition:
    """The step with each of its ``rare`` words replaced by another one of them, large first letters kept."""
    known, chosen = frozenset(rare), {}

    def other(match: re.Match) -> str:
        word = match[0]
        key = word.lower()
        if key not in known:
            return word
        found = chosen.setdefault(key, rng.choice(rare))
        return found.upper() if word.isupper() else found.capitalize() if word[0].isupper() else found

    return _rewritten(item, lambda text: WORD.sub(other, text))


def _rewritten(item: WebTransition, change: Callable[[str], str]) -> WebTransition:
    texts = {name: change(getattr(item, name)) for name in ("goal", "before", "action", "after")}
    lists = {name: tuple(map(change, getattr(item, name))) for name in ("previous", "new", "deleted", "updated")}
    return replace(item, **texts, **lists)


__all__ = ["rare_words", "reworded"]
