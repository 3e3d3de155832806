"""What a web agent sees, and how the texts of its roles are read (C.2): sections, key changes, scores, the stop rule.

Nothing here knows the browser: an :class:`Observation` is all that a role gets, so none can look at what comes next.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlvr_lib.worlds.web_actions import read_action
from rlvr_lib.worlds.web_answers import element_of
from rlvr_lib.worlds.web_pages import NOTHING
from rlvr_lib.worlds.web_transitions import WebTransition

StopRule = Literal["released", "action", "most_frequent"]
ScoreRule = Literal["released", "left_out"]
SCORES = range(1, 6)
KEY_CHANGES = 10
_BLANK = r"\n[ \t]*\n"
_NEW = re.compile(rf"New items:[ \t]*\n(.*?){_BLANK}Deleted items:", re.DOTALL)
_DELETED = re.compile(rf"Deleted items:[ \t]*\n(.*?){_BLANK}Updated items:", re.DOTALL)
_UPDATED = re.compile(rf"Updated items:[ \t]*\n(.*?)(?:{_BLANK}|\Z)", re.DOTALL)
_SCORE = re.compile(r"\[Score\]:\s*(-?\d{1,9})")


@dataclass(frozen=True)
class Observation:
    """The page now (C.2, 1): ``page`` is its accessibility tree as text, ``previous`` the executed actions.

    ``public_url`` is the address that policy and world model are shown; empty: the same. ``case`` and ``seed`` name
    the episode; roles use them to draw random numbers that belong to it.
    """

    goal: str
    url: str
    page: str
    previous: tuple[str, ...] = ()
    case: str = ""
    seed: int = 0
    public_url: str = ""

    @property
    def shown_url(self) -> str:
        return self.public_url or self.url

    @property
    def key(self) -> str:
        """Name of this decision, for random numbers and caches."""
        return f"{self.case}/{self.seed}/{len(self.previous)}"

    @property
    def history(self) -> str:
        """All executed actions, one a line, beginning with the word None."""
        return "\n".join([NOTHING, *self.previous])

    def question(self, action: str) -> WebTransition:
        """What a world model is asked; ``action`` is inserted raw, and what follows is not known here."""
        where = (self.case, self.case, self.seed, len(self.previous), self.goal, self.shown_url, self.previous)
        return WebTransition(*where, self.page, action, "", "", (), (), ())


@dataclass(frozen=True)
class Sections:
    """A world model's answer cut into three texts (C.2, 7); None where a section is missing."""

    new: str | None = None
    deleted: str | None = None
    updated: str | None = None

    def in_order(self) -> tuple[str, str, str]:
        """New, updated, deleted, as the extractor is shown them; a missing one as the word None."""
        return self.new or NOTHING, self.updated or NOTHING, self.deleted or NOTHING


def split_answer(answer: str) -> Sections:
    """Cut an answer: a section counts only if one blank line and the next header follow it; later ones overwrite.

    The word None becomes None for the new section alone, as released.
    """
    found = [[match[1].strip() for match in pattern.finditer(answer)] for pattern in (_NEW, _DELETED, _UPDATED)]
    new, deleted, updated = (texts[-1] if texts else None for texts in found)
    return Sections(None if new == NOTHING else new, deleted, updated)


def read_score(reply: str) -> int:
    """The integer after the first ``[Score]:``; 0 when there is none or it is not 1 to 5 (C.2, 10)."""
    match = _SCORE.search(reply)
    value = int(match[1]) if match else 0
    return value if value in SCORES else 0


def mean_score(replies: Sequence[str], rule: ScoreRule = "released") -> float:
    """Mean of the scores in [0, 5]; ``released`` counts unreadable replies as 0, ``left_out`` leaves them out."""
    scores = [read_score(reply) for reply in replies]
    if rule == "left_out":
        scores = [score for score in scores if score]
    return sum(scores) / len(scores) if scores else 0.0


def stops_at_once(candidates: Sequence[str], rule: StopRule = "released") -> str | None:
    """The candidate that ends the episode without prediction or valuation (C.2, 5), or None.

    ``released``: the first that holds the letters ``stop`` anywhere, so typing "bus stop" ends an episode. ``action``:
    the first that is a stop action. ``most_frequent``: only where the most frequent candidate is a stop action.
    """
    if rule == "released":
        return next((text for text in candidates if "stop" in text), None)
    looked_at = candidates[:1] if rule == "most_frequent" else candidates
    return next((text for text in looked_at if read_action(text).kind == "stop"), None)


def described(page: str, action: str) -> str:
    """``click [7] where [7] is button 'Go'``; the action alone when it names no element of the page (C.2, 9)."""
    element, number = element_of(page, action), re.search(r"\[(\d{1,9})\]", action)
    return f"{action} where [{number[1]}] is {element}" if element and number else action


__all__ = [
    "KEY_CHANGES",
    "Observation",
    "ScoreRule",
    "Sections",
    "StopRule",
    "described",
    "mean_score",
    "read_score",
    "split_answer",
    "stops_at_once",
]
