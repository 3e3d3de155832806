"""Between BrowserGym and us: its observation as a page with numbered lines (B.1), our actions in its words (C.4).

Only what is in view is shown (C.2, 1). BrowserGym knows elements by an id of its own (``a51``); a line without one,
such as a piece of text, stands for the nearest element around it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.browser import VIEWPORT, BrowserFault, Snapshot
from rlvr_lib.worlds.browser_acts import key_name
from rlvr_lib.worlds.browser_tab import read_nodes
from rlvr_lib.worlds.web_actions import ON_AN_ELEMENT, Action
from rlvr_lib.worlds.web_pages import Page
from rlvr_lib.worlds.webarena import Sites

LONGEST_TEXT = 2000
MENU, OPTION = "menulistpopup", "option"


@dataclass(frozen=True)
class Target:
    """What an action on a line goes to: BrowserGym's id, and the option to choose where the line is one of a list."""

    bid: str
    option: str = ""


def read_observation(seen: Mapping[str, Any]) -> tuple[Snapshot, dict[int, Target]]:
    """An answer of the environment -> what it shows, and targets by the key of a node. BrowserFault for no tree."""
    try:
        parents = _parents(seen["nodes"])
        raw = [_in_view(node, parents, seen["in_view"]) for node in _one_parent_each(seen["nodes"], parents)]
        nodes = read_nodes(raw)
        targets = {int(node.get("backendDOMNodeId", -1)): _target(node, parents) for node in reversed(raw)}
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BrowserFault(f"the page cannot be read ({type(error).__name__}: {error})") from None
    titles = tuple(_one_line(title) for title in seen["titles"]) or ("",)
    tab = min(seen["tab"], len(titles) - 1)
    return Snapshot(titles[tab], seen["url"], tuple(nodes), titles, tab), targets


def _parents(nodes: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Parent by node id; the first that names a child has it."""
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        for child in map(str, node.get("childIds", ())):
            if child != str(node["nodeId"]):
                found.setdefault(child, node)
    return found


def _one_parent_each(nodes: Sequence[dict[str, Any]], parents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same nodes as a tree: merged trees of frames may name a child twice."""
    return [
        {**node, "childIds": [c for c in dict.fromkeys(node.get("childIds", ())) if parents.get(str(c)) is node]}
        for node in nodes
    ]


def _line_of_parents(node: dict[str, Any], parents: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The node and everything around it, from inside out."""
    found, seen = [node], {str(node["nodeId"])}
    while (above := parents.get(str(found[-1]["nodeId"]))) is not None and str(above["nodeId"]) not in seen:
        found.append(above)
        seen.add(str(above["nodeId"]))
    return found


def _role(node: Mapping[str, Any]) -> str:
    return str(node.get("role", {}).get("value", "")).lower()


def _in_view(node: dict[str, Any], parents: Mapping[str, Any], shares: Mapping[str, float | None]) -> dict[str, Any]:
    """The node, ignored when its element is out of view. A closed list has its options in view when it is itself."""
    line = _line_of_parents(node, parents)
    menu = next((place for place, one in enumerate(line) if _role(one) == MENU), -1)
    bid = next((one["browsergym_id"] for one in line[menu + 1 :] if one.get("browsergym_id")), None)
    share = shares.get(bid) if bid is not None else None
    return {**node, "ignored": True} if share is not None and share <= 0 else node


def _target(node: dict[str, Any], parents: Mapping[str, Any]) -> Target:
    line = _line_of_parents(node, parents)
    bid = next((str(one["browsergym_id"]) for one in line if one.get("browsergym_id")), "")
    menu = next((place for place, one in enumerate(line) if _role(one) == MENU), None)
    if menu is None or _role(node) != OPTION:
        return Target(bid)
    around = next((str(one["browsergym_id"]) for one in line[menu:] if one.get("browsergym_id")), "")
    return Target(around, str(node.get("name", {}).get("value", "")))


def command(
    action: Action, page: Page, targets: Mapping[int, Target], sites: Sites, pause_s: float = 0.0
) -> tuple[str, str]:
    """An action in BrowserGym's words, with a rest behind it; or an empty text and why it cannot be done.

    Texts become quoted literals on one line, so none can end its quotes and add a call.
    """
    calls, refused = _calls(action, page, targets, sites)
    if refused:
        return "", refused
    return "\n".join([*calls, *([f"noop({round(1000 * pause_s)})"] if pause_s else [])]), ""


def _calls(action: Action, page: Page, targets: Mapping[int, Target], sites: Sites) -> tuple[list[str], str]:
    if action.kind in ON_AN_ELEMENT:
        return _on_element(action, page, targets)
    if action.kind == "press":
        key = key_name(action.text)
        return ([f"keyboard_press({quoted(key)})"], "") if key else ([], "the key is not in the list")
    if action.kind == "scroll":
        return [f"scroll(0, {-VIEWPORT[1] if action.text == 'up' else VIEWPORT[1]})"], ""
    if action.kind == "goto":
        url = sites.address(action.text)
        return ([f"goto({quoted(url)})"], "") if sites.allows(url) else ([], "the address is not allowed")
    if action.kind == "tab_focus":
        there = action.element is not None and 0 <= action.element < len(page.tabs)
        return ([f"tab_focus({action.element})"], "") if there else ([], "there is no such tab")
    if action.kind == "close_tab" and len(page.tabs) == 1:
        return [], "the last tab stays"
    plain = {"new_tab": "new_tab()", "close_tab": "tab_close()", "go_back": "go_back()", "go_forward": "go_forward()"}
    return ([plain[action.kind]], "") if action.kind in plain else ([], "the action could not be read")


def _on_element(action: Action, page: Page, targets: Mapping[int, Target]) -> tuple[list[str], str]:
    node = page.node(action.element if action.element is not None else -1)
    if node is None:
        return [], "there is no such element"
    target = targets.get(node.key, Target(""))
    if not target.bid:
        return [], "the element cannot be acted on"
    bid = quoted(target.bid)
    if action.kind == "hover":
        return [f"hover({bid})"], ""
    if action.kind == "click":
        return [f"select_option({bid}, {quoted(target.option)})" if target.option else f"click({bid})"], ""
    return [f"fill({bid}, {quoted(action.text)})", *(['keyboard_press("Enter")'] if action.enter else [])], ""


def answer_command(answer: str) -> str:
    """The stop action: BrowserGym reads the last message to the user as the answer."""
    return f"send_msg_to_user({quoted(answer)})"


def quoted(text: str) -> str:
    """A text as a literal on one line; letters that cannot be printed become spaces."""
    return json.dumps("".join(one if one.isprintable() else " " for one in text[:LONGEST_TEXT]), ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


__all__ = ["Target", "answer_command", "command", "quoted", "read_observation"]
