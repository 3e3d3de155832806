"""A web page as text: the accessibility tree line by line, and what changed between two of them (B.1, B.2).

A node is known by the browser's own number for it, which outlives an action; the numbers that a model sees are given
anew per page, in reading order, and a node keeps its number over the transition. So new, deleted and updated items are
exact, where the paper's data match elements by likeness.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlvr_lib.artifacts import UserError

OMITTED = frozenset({"focusable", "editable", "readonly", "level", "settable", "multiline", "invalid"})
WRAPPERS = frozenset(
    {"generic", "img", "image", "list", "strong", "paragraph", "banner", "navigation", "Section", "LabelText"}
    | {"Legend", "listitem", "none"}
)
TEXT = "StaticText"
LOOK_BACK = 3  # kept lines among which a repeated text is looked for
NOTHING = "None"
SECTIONS = ("New items:", "Deleted items:", "Updated items:")


@dataclass(frozen=True)
class Node:
    """One line of a page. ``key`` is the browser's number of the node, ``number`` the one shown ([7])."""

    key: int
    role: str
    name: str
    depth: int = 0
    properties: tuple[tuple[str, str], ...] = ()
    number: int = -1

    @property
    def item(self) -> str:
        """``[7] link 'Basket' focused: True``: the line without its indentation."""
        shown = "".join(f" {name}: {value}" for name, value in self.properties)
        return f"[{self.number}] {self.role} {self.name!r}{shown}"


@dataclass(frozen=True)
class Page:
    """An accessibility tree as shown to a model: ``title``, ``url`` and numbered nodes in reading order."""

    title: str
    url: str
    nodes: tuple[Node, ...]
    tabs: tuple[str, ...] = ()
    current_tab: int = 0

    @property
    def text(self) -> str:
        """The tab line, then one node per line, indented by a tab per level."""
        titles = self.tabs or (self.title,)
        tabs = [
            f"Tab {place}{' (current)' if place == self.current_tab else ''}: {title}"
            for place, title in enumerate(titles)
        ]
        return "\n".join([" | ".join(tabs), "", *("\t" * node.depth + node.item for node in self.nodes)])

    def node(self, number: int) -> Node | None:
        """The node shown as ``[number]``."""
        return next((node for node in self.nodes if node.number == number), None)


@dataclass(frozen=True)
class Changes:
    """Item lines of a transition, sorted by their numbers; updated ones in their new form."""

    new: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The answer format of B.5: three headed sections, ``None`` where nothing changed."""
        parts = zip(SECTIONS, (self.new, self.deleted, self.updated), strict=True)
        return "\n\n".join("\n".join([head, *(lines or (NOTHING,))]) for head, lines in parts)

    def __bool__(self) -> bool:
        return bool(self.new or self.deleted or self.updated)


def read_tree(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Chrome's ``Accessibility.getFullAXTree`` -> nodes worth a line, in reading order, not numbered yet.

    UserError when the list is no tree (a parent that is missing, a circle).
    """
    by_id = {str(node["nodeId"]): node for node in nodes}
    named = {child for node in nodes for child in map(str, node.get("childIds", ()))}
    roots = [key for key in by_id if key not in named]
    if nodes and not roots:
        raise UserError("the accessibility tree has no root")
    kept: list[Node] = []
    stack, seen = [(key, 0) for key in reversed(roots)], set()
    while stack:
        key, depth = stack.pop()
        if key in seen:
            raise UserError(f"the accessibility tree reaches node {key} twice")
        seen.add(key)
        raw = by_id.get(key)
        if raw is None:
            continue  # Chrome names children that it did not send
        node = None if raw.get("ignored") else _line(raw, depth)
        shown = node is not None and _worth_a_line(node, kept)
        if shown:
            kept.append(node)
        deeper = depth + 1 if shown else depth
        stack += [(str(child), deeper) for child in reversed(raw.get("childIds", ()))]
    return kept


def _line(raw: Mapping[str, Any], depth: int) -> Node:
    properties = tuple(
        (entry["name"], _plain(entry.get("value", {}).get("value")))
        for entry in raw.get("properties", ())
        if entry["name"] not in OMITTED and "value" in entry.get("value", {})
    )
    value = raw.get("value", {}).get("value")
    if value not in (None, ""):
        properties = (("value", _plain(value)), *properties)
    name = _plain(raw.get("name", {}).get("value", ""))
    return Node(
        int(raw.get("backendDOMNodeId", -1)), str(raw.get("role", {}).get("value", "")), name, depth, properties
    )


def _plain(value: Any) -> str:
    """A value on one line."""
    return " ".join(str(value).split())


def _worth_a_line(node: Node, kept: Sequence[Node]) -> bool:
    if node.role == "InlineTextBox" or (node.role == TEXT and not node.name):
        return False
    if node.role in WRAPPERS and not node.name and not node.properties:
        return False
    return not (node.role == TEXT and any(node.name in before.name for before in kept[-LOOK_BACK:]))


class Numbering:
    """Numbers that nodes keep over the pages of one transition: given in reading order, from 1."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str], int] = {}

    def __call__(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """The same nodes with their numbers; ones not met before get the next free numbers."""
        found = []
        for node in nodes:
            number = self._numbers.setdefault((node.key, node.role), len(self._numbers) + 1)
            found.append(replace(node, number=number))
        return tuple(found)


def changes(before: Page, after: Page) -> Changes:
    """New, deleted and updated items of a transition between pages that share a :class:`Numbering` (B.2)."""
    old, new = ({node.number: node.item for node in page.nodes} for page in (before, after))
    return Changes(
        tuple(item for number, item in sorted(new.items()) if number not in old),
        tuple(item for number, item in sorted(old.items()) if number not in new),
        tuple(item for number, item in sorted(new.items()) if number in old and old[number] != item),
    )


__all__ = ["Changes", "Node", "Numbering", "Page", "changes", "read_tree"]
