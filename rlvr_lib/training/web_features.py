"""Hashed words about pages, goals, actions and changes: what the small policy and the small value model read.

Both are log-bilinear rankers over a few hand-written facts (does a name stand in the goal, is a box checked, what was
done last). The paper's agent asks DeepSeek-V3 instead; these make an agent that plans for real without a network.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from urllib.parse import urlsplit

from rlvr_lib.worlds.web_actions import read_action
from rlvr_lib.worlds.web_policy import TYPED

BUCKETS = 1 << 15
LONGEST_SPAN = 6  # words of the goal that are typed at most
MOST_WORDS = 40
_LINE = re.compile(r"""\s*\[(\d{1,9})\] (\S+) ('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(.*)""")
_ESCAPED = re.compile(r"\\(.)")
_WORD = re.compile(r"\w+")
_PROPERTY = re.compile(r" ([A-Za-z]+): ")
CLICKABLE = frozenset({"link", "button", "checkbox", "tab", "option", "radio", "StaticText", "textbox", "searchbox"})
CLICKABLE |= {"combobox", "menuitem", "switch", "treeitem", "spinbutton", "slider", "generic", "img", "image"}


@dataclass(frozen=True)
class Item:
    """One line of a page or of a change, taken apart."""

    number: int
    role: str
    name: str
    properties: dict[str, str] = field(default_factory=dict)

    def on(self, name: str) -> bool:
        """Whether a property is true. Chrome's two-valued ones read True, its three-valued ones (checked) true."""
        return self.properties.get(name, "").lower() == "true"

    @property
    def value(self) -> str:
        return self.properties.get("value", "")


def read_item(line: str) -> Item | None:
    """``[7] button 'Go' focused: True`` -> its parts; None for any other text."""
    match = _LINE.match(line)
    if match is None:
        return None
    name = _ESCAPED.sub(r"\1", match[3][1:-1])
    parts = _PROPERTY.split(match[4])
    return Item(int(match[1]), match[2], name, dict(zip(parts[1::2], parts[2::2], strict=False)))


def items(page: str) -> list[Item]:
    """All items of a page's text, in reading order."""
    return [item for line in page.split("\n") if (item := read_item(line)) is not None]


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Goal:
    """A goal's words and how a text stands to them."""

    text: str

    @property
    def kind(self) -> str:
        """The goal's first words: which errand it is."""
        return " ".join(words(self.text)[:2])

    def match(self, text: str) -> str:
        """One word: quoted, whole, most, some, none or empty."""
        return _match(self.text, text)


@lru_cache(maxsize=10_000)
def _known(goal: str) -> tuple[str, str, frozenset[str]]:
    """A goal in small letters, its words in a row, the set of them."""
    found = words(goal)
    return goal.lower(), f" {' '.join(found)} ", frozenset(found)


@lru_cache(maxsize=200_000)
def _match(goal: str, text: str) -> str:
    plain = text.strip().lower()
    if not plain:
        return "empty"
    low, row, known = _known(goal)
    own = words(plain)
    if f'"{plain}"' in low:
        return "quoted"
    if own and f" {' '.join(own)} " in row:
        return "whole"
    long = [word for word in own if len(word) > 2]
    share = sum(word in known for word in long) / len(long) if long else 0.0
    return "most" if share >= 0.6 else "some" if share > 0.2 else "none"


def hashed(facts: Sequence[str]) -> list[int]:
    """Facts -> buckets; the same on every machine."""
    return [zlib.crc32(fact.encode()) % BUCKETS for fact in facts]


def context(goal: Goal, url: str, page: Sequence[Item], previous: Sequence[str]) -> list[str]:
    """Facts about the decision as a whole: errand, place, what was done, what is still to do."""
    last = read_action(previous[-1]) if previous else None
    path = [re.sub(r"\d+", "#", part) for part in urlsplit(url).path.split("/") if part][:2]
    facts = [f"goal {goal.kind}", f"path {path}", f"goal {goal.kind} path {path}", f"steps {min(len(previous), 6)}"]
    facts += [f"last {last.kind if last else None}", f"typed {goal.match(last.text) if last else None}"]
    heads = [item for item in page if item.role in ("heading", "status")]
    facts += [f"{item.role} {goal.match(item.name)} {goal.kind}" for item in heads]
    todo = to_do(goal, page)
    facts += [f"todo {name} {min(count, 3)}" for name, count in todo.items()]
    facts += [f"todo {name} {bool(count)} {goal.kind}" for name, count in todo.items()]
    facts += [f"says {goal.kind} {head}" for head in _said(goal, page)]
    return facts


def to_do(goal: Goal, page: Iterable[Item]) -> dict[str, int]:
    """How many boxes, radio buttons and options that the goal names are off, and others on; empty and filled fields."""
    todo = {"checkbox": 0, "radio": 0, "option": 0, "empty": 0, "filled": 0, "wrong": 0}
    for item in page:
        if item.role in ("checkbox", "radio", "option"):
            matched, on = goal.match(item.name) in ("whole", "quoted"), item.on("checked") or item.on("selected")
            todo[item.role] += matched and not on
            todo["wrong"] += on and not matched
        elif item.role in TYPED:
            todo["filled" if item.value else "empty"] += 1
    return todo


def unmet(goal: Goal, page: Iterable[Item]) -> int:
    """How much a form still asks for, as far as names tell: what is off, on by mistake, or empty; 3 for more."""
    todo = to_do(goal, page)
    return min(3, sum(todo.values()) - todo["filled"])


def _said(goal: Goal, page: Sequence[Item]) -> Iterator[str]:
    """What the page reports (the text after a status node), and how it stands to the goal."""
    for item, after in pairwise(page):
        if item.role == "status":
            yield f"{words(after.name)[:3]} {goal.match(after.name)}"


def spans(goal: str) -> list[tuple[str, str, str]]:
    """Texts of a goal that could be typed, with the words before and after them: quoted ones and runs of words."""
    found: dict[str, tuple[str, str]] = {}
    for match in re.finditer(r'"([^"]{1,60})"', goal):
        found.setdefault(match[1].strip(), ((words(goal[: match.start()]) or [""])[-1], "quote"))
    parts = goal.split()[:MOST_WORDS]
    for start in range(len(parts)):
        for end in range(start + 1, min(len(parts), start + LONGEST_SPAN) + 1):
            text = " ".join(parts[start:end]).strip(",.;:\"'")
            after = parts[end].strip(',.;:"').lower() if end < len(parts) else "END"
            before = parts[start - 1].strip(',.;:"').lower() if start else "START"
            found.setdefault(text, (before, "," if parts[end - 1].endswith((",", ".")) else after))
    return [(text, *around) for text, around in found.items() if text]


__all__ = [
    "BUCKETS",
    "CLICKABLE",
    "Goal",
    "Item",
    "context",
    "hashed",
    "items",
    "read_item",
    "spans",
    "to_do",
    "unmet",
    "words",
]
