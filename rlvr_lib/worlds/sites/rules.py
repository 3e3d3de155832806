"""Small words for scripted solvers: conditions on a page and actions on the elements that it shows.

A solver is a list of rules looked at in order on every page, so it finds its way back after somebody else's step.
"""

from collections.abc import Callable
from urllib.parse import unquote_plus, urlsplit

from rlvr_lib.worlds.sites.site import Rule
from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Node, Page

Condition = Callable[[Page], bool]


def find(page: Page, role: str, name: str, after: str = "") -> Node | None:
    """The first element with this role and name; ``after`` names an element that has to stand before it."""
    reached = not after
    for node in page.nodes:
        if reached and node.role == role and node.name == name:
            return node
        reached = reached or node.name == after
    return None


def says(page: Page, words: str) -> bool:
    """Whether some element's name holds these words."""
    return any(words in node.name for node in page.nodes)


def value_of(node: Node) -> str:
    """What a field holds."""
    return dict(node.properties).get("value", "")


def path_of(page: Page) -> str:
    """Path and query of the page's address, readable."""
    parts = urlsplit(page.url)
    return unquote_plus(parts.path + (f"?{parts.query}" if parts.query else ""))


def at(*starts: str) -> Condition:
    """On a page whose path starts with one of these."""
    return lambda page: path_of(page).startswith(starts)


def shows(words: str) -> Condition:
    return lambda page: says(page, words)


def titled(title: str) -> Condition:
    return lambda page: page.title == title


def field_holds(name: str, text: str, after: str = "") -> Condition:
    """Whether a text field holds this now."""

    def condition(page: Page) -> bool:
        node = find(page, "textbox", name, after)
        return node is not None and value_of(node) == text

    return condition


def both(*conditions: Condition) -> Condition:
    return lambda page: all(condition(page) for condition in conditions)


def click(role: str, name: str, after: str = "") -> Callable[[Page], Action | None]:
    """Click an element; the rule does not fit where there is none."""

    def act(page: Page) -> Action | None:
        node = find(page, role, name, after)
        return None if node is None else Action("click", node.number)

    return act


def fill(name: str, text: str, enter: bool = False, after: str = "") -> Callable[[Page], Action | None]:
    """Type into a field that does not hold the text yet; with ``enter`` even then."""

    def act(page: Page) -> Action | None:
        node = find(page, "textbox", name, after) or find(page, "searchbox", name, after)
        if node is None or (value_of(node) == text and not enter):
            return None
        return Action("type", node.number, text, enter)

    return act


def choose(name: str, option: str) -> Callable[[Page], Action | None]:
    """Choose an option of a drop-down list that is not chosen yet."""

    def act(page: Page) -> Action | None:
        box = find(page, "combobox", name)
        if box is None or value_of(box) == option:
            return None
        below = page.nodes[page.nodes.index(box) + 1 :]
        node = next((node for node in below if node.role == "option" and node.name == option), None)
        return None if node is None else Action("click", node.number)

    return act


def click_starting(role: str, start: str) -> Callable[[Page], Action | None]:
    """Click an element whose name starts so (a link with a count in it)."""

    def act(page: Page) -> Action | None:
        node = next((node for node in page.nodes if node.role == role and node.name.startswith(start)), None)
        return None if node is None else Action("click", node.number)

    return act


def answer(text: str) -> Callable[[Page], Action]:
    """Stop with an answer."""
    return lambda page: Action("stop", text=text)


def always(*acts: Callable[[Page], Action | None]) -> tuple[Rule, ...]:
    """Rules without a condition, in order."""
    return tuple((lambda page: True, act) for act in acts)


def when(condition: Condition, *acts: Callable[[Page], Action | None]) -> tuple[Rule, ...]:
    """Rules under one condition, in order."""
    return tuple((condition, act) for act in acts)


__all__ = [
    "always",
    "answer",
    "at",
    "both",
    "choose",
    "click",
    "click_starting",
    "field_holds",
    "fill",
    "find",
    "says",
    "shows",
    "titled",
    "value_of",
    "when",
]
