"""Precision, recall and F1 of a predicted page change (B.6), the reward of web-page RLVR; never raises on any text.

``released`` counts as the released code does: an empty side earns 0. ``paper`` gives a section-less empty prediction of
an empty truth 1, as the paper's text defines it. Answers are scored without their end token (a decision: B, gotcha 17).
"""

import re
from dataclasses import dataclass
from typing import Literal

from rlvr_lib.worlds.web_pages import SECTIONS

Variant = Literal["released", "paper"]
_SPECIAL = re.compile(r"(?:<\|[^|<>]{1,40}\|>|</s>|<eos>|<pad>)\s*\Z")


@dataclass(frozen=True)
class ChangeScore:
    """Shares in [0, 1]: of predicted items that are right, of true items that were predicted, and their F1."""

    precision: float
    recall: float
    f1: float


def sections(text: str) -> tuple[set[str], set[str], set[str]]:
    """Item lines by section (new, deleted, updated): everything below a header belongs to it, ``None`` is an item."""
    found: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    current: set[str] | None = None
    for line in map(str.strip, without_end(text).splitlines()):
        place = next((place for place, head in enumerate(SECTIONS) if line.startswith(head)), None)
        if place is not None:
            current = found[place]
        elif line and current is not None:
            current.add(line)
    return found


def without_end(text: str) -> str:
    """The text without end or padding tokens at its end, which would spoil its last item."""
    while (shorter := _SPECIAL.sub("", text)) != text:
        text = shorter
    return text


def score_changes(response: str, truth: str, variant: Variant = "released") -> ChangeScore:
    """Items that stand in the same section of both texts, as a share of the predicted and of the true ones."""
    predicted, true = sections(response), sections(truth)
    matched = sum(len(one & other) for one, other in zip(predicted, true, strict=True))
    given, wanted = (sum(map(len, part)) for part in (predicted, true))
    if variant == "paper" and not given and not wanted:
        return ChangeScore(1.0, 1.0, 1.0)
    precision, recall = matched / given if given else 0.0, matched / wanted if wanted else 0.0
    both = precision + recall
    return ChangeScore(precision, recall, 2 * precision * recall / both if both else 0.0)


__all__ = ["ChangeScore", "score_changes", "sections", "without_end"]
