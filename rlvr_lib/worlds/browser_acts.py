"""The action grammar (C.4) by a real mouse and a real keyboard. Runs in the browser's own thread.

An action that cannot be done (no such element, a refused address, a key outside the list) does nothing and says why;
that is no fault. No text of a model or a page is ever run as a script: the only script is ours, and it takes none.
"""

from rlvr_lib.worlds.browser_fence import Fence
from rlvr_lib.worlds.browser_tab import Tab
from rlvr_lib.worlds.web_actions import Action

LONGEST_TEXT = 300
NAMED_KEYS = frozenset(
    {"Enter", "Tab", "Escape", "Backspace", "Delete", "Home", "End", "PageUp", "PageDown", "Space"}
    | {"ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"}
)
WITH_CONTROL = frozenset("aczxvy")
CHOOSE = """function() {
  const list = this.closest('select');
  if (!list || list.disabled || this.disabled) return false;
  list.focus();
  if (list.multiple) this.selected = !this.selected; else list.value = this.value;
  for (const kind of ['input', 'change']) list.dispatchEvent(new Event(kind, {bubbles: true}));
  return true;
}"""


def act_on_element(tab: Tab, action: Action, key: int) -> str:
    """click, hover, type on a node; returns why it could not be done, or nothing."""
    backend = tab.backend(key)
    if backend is None:
        return "the element is gone"
    if action.kind == "click" and _choose(tab, backend):
        return ""
    place = _middle(tab, backend)
    if place is None:
        return "the element is not on the page's surface"
    if action.kind == "hover":
        tab.page.mouse.move(*place)
    elif action.kind == "click":
        if not _focus_list(tab, backend):
            tab.page.mouse.click(*place)
    else:
        tab.page.mouse.click(*place)
        _type(tab, action)
    return ""


def _type(tab: Tab, action: Action) -> None:
    """Replace what is in the field; control characters become spaces. Timers of the page run between keys."""
    text = "".join(letter if letter.isprintable() else " " for letter in action.text[:LONGEST_TEXT])
    tab.page.keyboard.press("Control+a")
    for letter in text:
        tab.page.keyboard.type(letter)
        tab.breathe()
    if not text:
        tab.page.keyboard.press("Delete")
    if action.enter:
        tab.page.keyboard.press("Enter")


def _middle(tab: Tab, backend: int) -> tuple[float, float] | None:
    """The middle of a node's first box, scrolled into view; None when it has none."""
    try:
        tab.cdp.send("DOM.scrollIntoViewIfNeeded", {"backendNodeId": backend})
        quads = tab.cdp.send("DOM.getContentQuads", {"backendNodeId": backend})["quads"]
    except Exception as error:
        if "closed" in str(error):
            raise
        return None
    for quad in quads:
        across, down = quad[0::2], quad[1::2]
        if max(across) - min(across) >= 1 and max(down) - min(down) >= 1:
            return sum(across) / 4, sum(down) / 4
    return None


def _choose(tab: Tab, backend: int) -> bool:
    """Choose an option of a drop-down list: its menu is drawn by the system, out of the mouse's reach."""
    if _tag(tab, backend) != "OPTION":
        return False
    handle = tab.cdp.send("DOM.resolveNode", {"backendNodeId": backend})["object"]["objectId"]
    found = tab.cdp.send(
        "Runtime.callFunctionOn", {"objectId": handle, "functionDeclaration": CHOOSE, "returnByValue": True}
    )
    return bool(found["result"].get("value"))


def _focus_list(tab: Tab, backend: int) -> bool:
    """A click on a drop-down list only gives it the focus: its options stand in the tree already."""
    if _tag(tab, backend) != "SELECT":
        return False
    tab.cdp.send("DOM.focus", {"backendNodeId": backend})
    return True


def _tag(tab: Tab, backend: int) -> str:
    return tab.cdp.send("DOM.describeNode", {"backendNodeId": backend})["node"]["nodeName"]


def press(tab: Tab, keys: str) -> str:
    """A key or a combination out of a short list; combinations that steer a browser are not in it."""
    name = key_name(keys)
    if name is None:
        return "the key is not in the list"
    tab.page.keyboard.press(name)
    return ""


def key_name(keys: str) -> str | None:
    """Playwright's name of a key or a combination out of the list, None for any other."""
    *modifiers, key = keys.split("+") if keys != "+" else ["+"]
    plain = key in NAMED_KEYS or (len(key) == 1 and key.isprintable())
    if modifiers in ([], ["Shift"]):
        allowed = plain
    else:
        allowed = modifiers in (["Control"], ["Ctrl"], ["Meta"]) and key.lower() in WITH_CONTROL
        modifiers = ["Control"]
    return "+".join([*modifiers, key]) if allowed else None


def scroll(tab: Tab, direction: str) -> str:
    """One screen up or down."""
    height = tab.page.viewport_size["height"]
    tab.page.mouse.wheel(0, -height if direction == "up" else height)
    return ""


def goto(tab: Tab, fence: Fence, url: str) -> str:
    """Go to an allowed address; every other one (file:, javascript:, other hosts) is refused."""
    if not fence.allows(url):
        return "the address is not allowed"
    tab.page.goto(url)
    return ""


def travel(tab: Tab, fence: Fence, step: int) -> str:
    """Back or forward in the tab's history, as far as it stays inside the fence."""
    entry = tab.history(step)
    if entry is None or not fence.allows(entry[1]):
        return "there is no such page in the history"
    tab.cdp.send("Page.navigateToHistoryEntry", {"entryId": entry[0]})
    return ""


__all__ = ["LONGEST_TEXT", "act_on_element", "goto", "key_name", "press", "scroll", "travel"]
