"""What a web agent may do (C.4), how its answers are read (C.2), and when it is stopped (C.3).

Nothing that a model or a page says is run: an answer is matched against the action grammar, everything else is the
no-op ``none``.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

UNREADABLE = "None"
_FENCED, _TICKED = re.compile(r"```(.*?)```", re.DOTALL), re.compile(r"`(.*?)`", re.DOTALL)
_GRAMMAR = {
    "click": r"click \[(?P<id>\d{1,9})\]",
    "hover": r"hover \[(?P<id>\d{1,9})\]",
    "type": r"type \[(?P<id>\d{1,9})\] \[(?P<text>.*?)\](?: \[(?P<enter>[01])\])?",
    "press": r"press \[(?P<text>[^\[\]]{1,60})\]",
    "scroll": r"scroll \[?(?P<text>up|down)\]?",
    "new_tab": r"new_tab",
    "tab_focus": r"tab_focus \[(?P<id>\d{1,3})\]",
    "close_tab": r"close_tab",
    "goto": r"goto \[(?P<text>\S{1,2000})\]",
    "go_back": r"go_back",
    "go_forward": r"go_forward",
    "stop": r"stop(?: \[(?P<text>.*?)\])?",
}
_PATTERNS = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _GRAMMAR.items()}
ON_AN_ELEMENT = ("click", "hover", "type")


@dataclass(frozen=True)
class Action:
    """``kind`` of the grammar or ``none``; ``element`` is the shown number (tab number for tab_focus)."""

    kind: str
    element: int | None = None
    text: str = ""
    enter: bool = True  # press Enter after typing

    def __str__(self) -> str:
        """The action as the grammar writes it."""
        if self.kind == "type":
            return f"type [{self.element}] [{self.text}] [{int(self.enter)}]"
        argument = self.text if self.element is None else self.element
        return f"{self.kind} [{argument}]" if argument != "" else self.kind


NO_ACTION = Action("none")


def answer_of(reply: str) -> str:
    """The action in a reply: between the first triple back-ticks, else single ones, else the word None."""
    for pattern in (_FENCED, _TICKED):
        if match := pattern.search(reply):
            return match[1].strip()
    return UNREADABLE


def read_action(text: str) -> Action:
    """Text -> action; whatever does not follow the grammar from its first to its last letter is ``none``."""
    text = text.strip()
    kind = text.partition(" ")[0]
    match = _PATTERNS[kind].fullmatch(text) if kind in _PATTERNS else None
    if match is None:
        return NO_ACTION
    found = match.groupdict()
    element = None if found.get("id") is None else int(found["id"])
    return Action(kind, element, found.get("text") or "", found.get("enter") != "0")


def most_frequent(answers: Sequence[str], keep: int = 3) -> list[str]:
    """The most frequent answers, first seen first among equals (C.2)."""
    return [answer for answer, _ in Counter(answers).most_common(keep)]


def reason_to_stop(actions: Sequence[Action], most: int = 5, unreadable: int = 3, repeated: int = 5) -> str | None:
    """Why an episode ends before its agent says so (C.3), or None."""
    if len(actions) >= most:
        return f"{most} actions were executed"
    if len(actions) >= unreadable and all(action.kind == "none" for action in actions[-unreadable:]):
        return f"the last {unreadable} actions could not be read"
    last = actions[-1] if actions else NO_ACTION
    if last.kind == "type":
        if actions.count(last) >= repeated:
            return f"the same text was typed {repeated} times"
    elif len(actions) >= repeated and all(action == last for action in actions[-repeated:]):
        return f"the same action came {repeated} times in a row"
    return None


__all__ = ["NO_ACTION", "Action", "answer_of", "most_frequent", "read_action", "reason_to_stop"]
