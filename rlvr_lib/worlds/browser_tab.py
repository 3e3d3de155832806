"""One tab of a driven browser, through Chrome's protocol: wait until it is quiet, read its accessibility tree (B.1).

Everything here runs in the browser's own thread (see :mod:`rlvr_lib.worlds.browser`) and may raise any Playwright
error; the caller turns these into one kind of fault. Our own scripts run in a world of their own, which a page's
scripts can neither see nor change.
"""

import time
from collections.abc import Iterable
from typing import Any

from rlvr_lib.worlds.browser_fence import BLANK, guard_page
from rlvr_lib.worlds.web_pages import Node, read_tree

MOST_ELEMENTS = 20_000
MOST_CHARACTERS = 400_000
UNSTARTED_SECONDS = 0.5  # a navigation that is asked for but never starts (a refused address) is forgotten
DOCUMENT_SHIFT = 32  # a node's key: number of its document above, the browser's number of the node below
# Newer than the omitted properties of B.1: addresses and references to other nodes.
NOT_SHOWN = frozenset({"url", "labelledby", "describedby", "controls", "activedescendant", "details", "flowto", "owns"})
NOT_SHOWN_ROLES = frozenset({"ListMarker", "LineBreak"})
# Quiet: not marked busy, and two frames in a row without a change of the document (at most a second).
SETTLE = """(async () => {
  let changed = true;
  const watch = new MutationObserver(() => { changed = true; });
  watch.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  for (let turn = 0, still = 0; still < 2 && turn < 60; turn += document.documentElement.ariaBusy === 'true' ? 0 : 1) {
    await frame();
    still = changed || document.documentElement.ariaBusy === 'true' ? 0 : still + 1;
    changed = false;
  }
  watch.disconnect();
  const text = (document.documentElement || { textContent: '' }).textContent;
  return [document.getElementsByTagName('*').length, text.length, document.title];
})()"""
SETTLE_ERRORS = ("context", "navigat", "detached", "Promise was collected")


class TooLarge(Exception):
    """A page that is larger than anything a model could read."""


class Tab:
    """A Playwright page with a protocol session of its own."""

    def __init__(self, page: Any):
        self.page = page
        guard_page(page)
        self.cdp = page.context.new_cdp_session(page)
        self._asked: float | None = None  # when the page asked to navigate, until that started
        self._loading = False
        self._documents: dict[str, int] = {}
        self._frame = self.cdp.send("Page.getFrameTree")["frameTree"]["frame"]
        self._world: int | None = None
        self.title, self._size = "", (0, 0)
        self.cdp.on("Page.frameRequestedNavigation", lambda event: self._note(event["frameId"], "asked"))
        self.cdp.on("Page.frameStartedLoading", lambda event: self._note(event["frameId"], "started"))
        self.cdp.on("Page.frameStoppedLoading", lambda event: self._note(event["frameId"], "stopped"))
        self.cdp.on("Page.frameNavigated", lambda event: self._moved(event["frame"]))
        self.cdp.on("Page.navigatedWithinDocument", self._moved_within)
        self.cdp.send("Page.enable")

    def _note(self, frame: str, what: str) -> None:
        if frame == self._frame["id"]:
            self._asked = time.monotonic() if what == "asked" else None
            self._loading = what == "started"

    def _moved(self, frame: dict[str, Any]) -> None:
        if "parentId" not in frame:
            self._frame, self._world = frame, None

    def _moved_within(self, event: dict[str, Any]) -> None:
        if event["frameId"] == self._frame["id"]:
            self._frame = {**self._frame, "url": event["url"], "urlFragment": ""}

    @property
    def url(self) -> str:
        """The address as the page sees it, with its fragment."""
        return self._frame["url"] + self._frame.get("urlFragment", "")

    def evaluate(self, script: str) -> Any:
        """Run a script of ours in a world of our own, wait for its promise; plain values come back."""
        if self._world is None:
            world = {"frameId": self._frame["id"], "worldName": "rlvr"}
            self._world = self.cdp.send("Page.createIsolatedWorld", world)["executionContextId"]
        call = {"contextId": self._world, "expression": script, "awaitPromise": True, "returnByValue": True}
        found = self.cdp.send("Runtime.evaluate", call)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("text", "a script failed"))
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until what an action started has ended: navigation, busy pages, changes of the document."""
        while True:
            quiet = False
            try:
                *self._size, self.title = self.evaluate(SETTLE)
                quiet = True
            except Exception as error:
                if not any(word in str(error) for word in SETTLE_ERRORS):
                    raise
                self._world = None
            if self._asked is not None and time.monotonic() - self._asked > UNSTARTED_SECONDS:
                self._asked = None
            if quiet and self._asked is None and not self._loading:
                return
            self.page.wait_for_timeout(5)

    def breathe(self) -> None:
        """Let timers that are due run, so that they do not race with the next key."""
        try:
            self.evaluate("new Promise(done => setTimeout(done))")
        except Exception as error:
            if not any(word in str(error) for word in SETTLE_ERRORS):
                raise
            self._world = None

    def nodes(self) -> list[Node]:
        """The nodes worth a line of a page that was settled; keys are unique over documents."""
        elements, characters = self._size
        if elements > MOST_ELEMENTS or characters > MOST_CHARACTERS:
            raise TooLarge(f"the page is too large: {elements} elements, {characters} characters")
        raw = self.cdp.send("Accessibility.getFullAXTree")["nodes"]
        document = self._documents.setdefault(self._frame["loaderId"], len(self._documents))
        return read_nodes(raw, document)

    def backend(self, key: int) -> int | None:
        """The browser's number of a node of the present document, None for a node of a former one."""
        document = self._documents.get(self._frame["loaderId"])
        return key & ((1 << DOCUMENT_SHIFT) - 1) if document == key >> DOCUMENT_SHIFT else None

    def history(self, step: int) -> tuple[int, str] | None:
        """Entry number and address that going back (-1) or forward (1) would lead to."""
        found = self.cdp.send("Page.getNavigationHistory")
        place = found["currentIndex"] + step
        if not 0 <= place < len(found["entries"]):
            return None
        entry = found["entries"][place]
        return None if entry["url"] == BLANK else (entry["id"], entry["url"])


def read_nodes(raw: Iterable[dict[str, Any]], document: int = 0) -> list[Node]:
    """Chrome's accessibility nodes of one page -> the nodes worth a line; their keys tell documents apart."""
    return _once(read_tree([_keyed(_shown(node), document) for node in raw]))


def _shown(node: dict[str, Any]) -> dict[str, Any]:
    """Without what this reading leaves out (references to other nodes, addresses, the marks before list items)."""
    properties = [entry for entry in node.get("properties", ()) if entry["name"] not in NOT_SHOWN]
    unwanted = node.get("role", {}).get("value") in NOT_SHOWN_ROLES or "backendDOMNodeId" not in node
    ignored = node.get("ignored", False) or unwanted  # nodes without a number come from style sheets
    return {**node, "properties": properties, "ignored": ignored}


def _keyed(node: dict[str, Any], document: int) -> dict[str, Any]:
    return {**node, "backendDOMNodeId": node.get("backendDOMNodeId", 0) + (document << DOCUMENT_SHIFT)}


def _once(nodes: list[Node]) -> list[Node]:
    """Each (node, role) once: a number stands for one line."""
    first = {(node.key, node.role): node for node in reversed(nodes)}
    return [node for node in nodes if first[node.key, node.role] is node]


__all__ = ["SETTLE_ERRORS", "Tab", "TooLarge", "read_nodes"]
