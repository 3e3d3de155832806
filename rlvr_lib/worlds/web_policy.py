"""Who walks through web pages while transitions are recorded: a scripted solver with noise, and valid random actions.

Random actions go to elements that a user would try more often than to plain text, so that the set shows what changes
a page without a flood of steps that change nothing.
"""

import re
from random import Random

from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Node, Page

TYPED = frozenset({"textbox", "searchbox", "spinbutton"})
CLICKED = frozenset(
    {"link", "button", "checkbox", "radio", "combobox", "option", "tab", "menuitem", "switch", "slider", "treeitem"}
)
SILENT = frozenset({"RootWebArea", "table", "row", "MenuListPopup", "tablist", "status", "generic"})
LEAST_WORD = 2


def random_action(page: Page, goal: str, rng: Random) -> Action:
    """A valid action on the page as it is shown."""
    draw = rng.random()
    if draw < 0.02:
        return Action("press", text=rng.choice(("Tab", "Enter", "Escape")))
    if draw < 0.05:
        return Action(rng.choice(("go_back", "go_back", "go_forward")))
    if draw < 0.06:
        return Action("scroll", text=rng.choice(("up", "down")))
    node = _element(page, rng)
    if node is None:
        return Action("go_back")
    if node.role in TYPED and rng.random() < 0.8:
        return Action("type", node.number, _text(page, goal, node, rng), rng.random() < 0.4)
    return Action("hover" if rng.random() < 0.02 else "click", node.number)


def _element(page: Page, rng: Random) -> Node | None:
    """Fields and controls nine times out of ten; text may be clickable as well, so it is tried now and then."""
    controls = [node for node in page.nodes if node.role in TYPED | CLICKED]
    others = [node for node in page.nodes if node.role not in TYPED | CLICKED | SILENT]
    if controls and (not others or rng.random() < _share(controls)):
        fields = [node for node in controls if node.role in TYPED]
        return rng.choice(fields if fields and rng.random() < 0.25 else controls)
    return rng.choice(others) if others else None


def _share(controls: list[Node]) -> float:
    """Pages with few controls (an inbox of plain texts) are explored by their texts."""
    return 0.9 if len(controls) > 3 else 0.5


def _text(page: Page, goal: str, node: Node, rng: Random) -> str:
    """Something to type: quoted words of the goal, other words of goal or page, a number."""
    if node.role == "spinbutton":
        return str(rng.randint(1, 12))
    quoted = re.findall(r'"([^"]{1,40})"', goal)
    draw = rng.random()
    if quoted and draw < 0.5:
        return rng.choice(quoted).strip()
    if draw < 0.15:
        return str(rng.randint(1, 99))
    source = goal if draw < 0.6 else rng.choice(page.nodes).name
    words = [word for word in re.findall(r"\w+", source) if len(word) >= LEAST_WORD] or ["test"]
    start = rng.randrange(len(words))
    return " ".join(words[start : start + rng.randint(1, 3)])


__all__ = ["random_action"]
