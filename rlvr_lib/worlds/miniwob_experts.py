"""Scripted solvers for the MiniWoB++ pages whose goal can be read off the page by rule; the others have none.

Each solver looks at the goal and the page only, so it finds its way back after somebody else's step.
"""

import re
from collections.abc import Callable, Sequence

from rlvr_lib.worlds.sites.rules import find, value_of
from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Node, Page

Expert = Callable[[str, Page], Action | None]
_EARLIER = ("January", "February", "March", "April", "May", "June", "July")
MONTHS = (*_EARLIER, "August", "September", "October", "November", "December")


def _click(node: Node | None) -> Action | None:
    return None if node is None else Action("click", node.number)


def _type(node: Node | None, text: str) -> Action | None:
    """Type unless the field holds the text (a password field shows as many dots as it holds letters)."""
    if node is None:
        return None
    held = value_of(node)
    same = held == text or (bool(held) and set(held) == {"•"} and len(held) == len(text))
    return None if same else Action("type", node.number, text, False)


def _state(node: Node, name: str) -> bool:
    return dict(node.properties).get(name, "").lower() == "true"


def _all(page: Page, role: str) -> list[Node]:
    return [node for node in page.nodes if node.role == role]


def _words(pattern: str, goal: str) -> tuple[str, ...]:
    found = re.search(pattern, goal)
    return tuple(found.groups()) if found else ()


def _submit(page: Page, name: str = "Submit") -> Action | None:
    return _click(find(page, "button", name) or find(page, "StaticText", name))


def choose_list(goal: str, page: Page) -> Action | None:
    (name,) = _words(r"Select (.+) from the list", goal)
    option = find(page, "option", name)
    return _submit(page) if option is None or _state(option, "selected") else _click(option)


def checkboxes(goal: str, page: Page) -> Action | None:
    (listed,) = _words(r"Select (.+) and click Submit", goal)
    wanted = {name.strip() for name in listed.split(",")}
    wrong = [box for box in _all(page, "checkbox") if _state(box, "checked") != (box.name in wanted)]
    return _click(wrong[0]) if wrong else _submit(page)


def radio(goal: str, page: Page) -> Action | None:
    (name,) = _words(r"Select (.+) and click Submit", goal)
    button = find(page, "radio", name)
    return _submit(page) if button is None or _state(button, "checked") else _click(button)


def tabs(goal: str, page: Page) -> Action | None:
    """Find a word behind tabs or in sections that open one at a time."""
    (word,) = _words(r'the link "(.+?)"', goal)
    if target := find(page, "StaticText", word) or find(page, "link", word):
        return _click(target)
    found = _all(page, "tab")
    shown = next((place for place, tab in enumerate(found) if _state(tab, "expanded")), -1)
    return _click(found[(shown + 1) % len(found)]) if found else None


def enter_text(goal: str, page: Page) -> Action | None:
    (text,) = _words(r'Enter "(.+?)" into', goal)
    return _type(next(iter(_all(page, "textbox")), None), text) or _submit(page)


def password(goal: str, page: Page) -> Action | None:
    (text,) = _words(r'password "(.+?)" into', goal)
    return next(filter(None, (_type(box, text) for box in _all(page, "textbox"))), None) or _submit(page)


def login(goal: str, page: Page) -> Action | None:
    if cancel := find(page, "button", "Cancel"):
        return _click(cancel)
    texts = _words(r'username "(.+?)" and the password "(.+?)" into', goal)
    typed = [_type(box, text) for box, text in zip(_all(page, "textbox"), texts, strict=False)]
    return next(filter(None, typed), None) or _submit(page, "Login") or _submit(page, "OK")


def movies(goal: str, page: Page) -> Action | None:
    """Labels and the button's words differ from page to page."""
    texts = _words(r"Search for (.+) movies directed by (.+) from year (\d+)", goal)
    for label, text in zip((r"Genre", r"Director", r"Year|Date"), texts, strict=True):
        place = next((at for at, node in enumerate(page.nodes) if at > 8 and re.search(label, node.name)), None)
        box = next((node for node in page.nodes[place or 0 :] if node.role == "textbox"), None)
        if place is not None and (action := _type(box, text)):
            return action
    buttons = [node for node in page.nodes if node.number > 8 and re.match(r"(Submit|Search|Go)", node.name)]
    return _click(buttons[-1]) if buttons else None


def table(goal: str, page: Page) -> Action | None:
    cells = _all(page, "cell")
    truth = {label.name: cell.name for label, cell in zip(cells[::2], cells[1::2], strict=False)}
    for label, box in zip(page.nodes, page.nodes[1:], strict=False):
        text = truth.get(label.name.rstrip(":"), "")
        if box.role == "textbox" and text and (action := _type(box, text)):
            return action
    return _submit(page)


def date(goal: str, page: Page) -> Action | None:
    """Open the calendar, turn to the month, click the day; the field then holds the date."""
    month, day, year = map(int, _words(r"(\d+)/(\d+)/(\d+)", goal))
    box = next(iter(_all(page, "textbox")), None)
    if box is not None and value_of(box) == f"{month:02d}/{day:02d}/{year}":
        return _submit(page)
    shown = next((MONTHS.index(node.name) + 1 for node in page.nodes if node.name in MONTHS), None)
    if shown is None:
        return _click(box)
    turn = {True: "Prev", False: "Next"}[shown > month]
    return _click(find(page, "link", str(day)) if shown == month else find(page, "link", turn))


def form(goal: str, page: Page) -> Action | None:
    name, button = _words(r'Choose (.+) from the dropdown, then click the button labeled "(.+)"', goal)
    option = find(page, "option", name)
    return _click(find(page, "button", button) if option is None or _state(option, "selected") else option)


def phone(goal: str, page: Page) -> Action | None:
    name, what = _words(r"Find (.+) in the contact book and click on their (phone|email|address)", goal)
    if not find(page, "heading", name):
        return _click(find(page, "link", ">"))
    after = find(page, "StaticText", f"{what.title()}:")
    below = page.nodes[page.nodes.index(after) + 1 :] if after else ()
    return _click(next((node for node in below if node.role == "link"), None))


EXPERTS: dict[str, Expert] = {
    "choose-list": choose_list,
    "click-checkboxes": checkboxes,
    "click-checkboxes-large": checkboxes,
    "click-option": radio,
    "click-tab-2": tabs,
    "click-tab-2-hard": tabs,
    "click-collapsible-2-nodelay": tabs,
    "enter-text": enter_text,
    "enter-password": password,
    "login-user": login,
    "login-user-popup": login,
    "multi-orderings": movies,
    "multi-layouts": movies,
    "read-table-2": table,
    "choose-date-easy": date,
    "choose-date-medium": date,
    "form-sequence-3": form,
    "phone-book": phone,
}


def expert_action(task: str, goal: str, page: Page) -> Action | None:
    """The solver's next action, None where there is no solver or it does not know what to do."""
    expert = EXPERTS.get(task)
    try:
        return expert(goal, page) if expert else None
    except ValueError:  # a goal in other words than the rule knows
        return None


def solved_tasks() -> Sequence[str]:
    """Tasks that have a solver."""
    return tuple(EXPERTS)


__all__ = ["expert_action", "solved_tasks"]
