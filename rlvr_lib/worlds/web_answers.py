"""From an answer to a predicted page: its three sections as changes, and the page that they would leave (B.5, B.6).

An answer may hold anything; what is no item line of the form ``[7] button 'Go'`` changes no page.
"""

import re

from rlvr_lib.worlds.web_pages import NOTHING, Changes
from rlvr_lib.worlds.web_rewards import sections

_ITEM = re.compile(r"\[(\d{1,9})\] \S.*")
_LINE = re.compile(r"(\t*)\[(\d{1,9})\] ")


def read_changes(answer: str) -> Changes:
    """Item lines by section, sorted by number; the word None and lines that are no items are left out."""
    parts = []
    for lines in sections(answer):
        items = {line: int(match[1]) for line in lines if line != NOTHING and (match := _ITEM.fullmatch(line))}
        parts.append(tuple(sorted(items, key=lambda line: (items[line], line))))
    return Changes(*parts)


def next_page(before: str, changes: Changes) -> str:
    """The page's text after the changes: deleted lines go, updated ones are replaced, new ones stand at the end.

    Where a new item belongs in reading order is not said in an answer, so it is not known here.
    """
    gone = {_number(line) for line in changes.deleted}
    fresh = {_number(line): line for line in changes.updated}
    kept = []
    for line in before.split("\n"):
        match = _LINE.match(line)
        number = int(match[2]) if match else None
        if number in fresh:
            kept.append(match[1] + fresh[number] if match else line)
        elif number is None or number not in gone:
            kept.append(line)
    return "\n".join([*kept, *changes.new])


def items_of(page: str) -> dict[int, str]:
    """Item lines of a page's text by number, without their indentation."""
    lines = (line.lstrip("\t") for line in page.split("\n") if _LINE.match(line))
    return {_number(line): line for line in lines}


def changes_between(before: str, after: str) -> Changes:
    """The changes of a transition from its two texts (they share their numbers)."""
    old, new = items_of(before), items_of(after)
    return Changes(
        tuple(new[number] for number in sorted(new) if number not in old),
        tuple(old[number] for number in sorted(old) if number not in new),
        tuple(new[number] for number in sorted(new) if number in old and old[number] != new[number]),
    )


def element_of(page: str, action: str) -> str:
    """The line of the element that an action names, without number; empty when there is none."""
    match = re.match(r"(?:click|hover|type) \[(\d{1,9})\]", action)
    line = items_of(page).get(int(match[1]), "") if match else ""
    return line.partition("] ")[2]


def _number(line: str) -> int:
    match = re.match(r"\[(\d{1,9})\]", line)
    return int(match[1]) if match else -1


__all__ = ["changes_between", "element_of", "items_of", "next_page", "read_changes"]
