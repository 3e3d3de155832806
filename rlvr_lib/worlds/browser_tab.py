"""One tab of a driven browser, through Chrome's protocol: wait until it is quiet, read its accessibility tree (B.1).

Everything here runs in the browser's own thread (see :mod:`rlvr_lib.worlds.browser`) and may raise any Playwright
error; the caller turns these into one kind of fault. Our own scripts run in a world of their own, which a page's
scripts can neither see nor change.
"""

import time
from typing import Any

from rlvr_lib.worlds.browser_fence import BLANK, guard_page
from rlvr_lib.worlds.web_pages import Node, read_tree

MOST_ELEMENTS = 20_000
MOST_CHARACTERS = 400_000
QUIET_READS = 12  # tries to read the same tree twice in a row
UNSTARTED_SECONDS = 0.5  # a navigation that is asked for but never starts (a refused address) is forgotten
DOCUMENT_SHIFT = 32  # a node's key: number of its document above, the browser's number of the node below
# Newer than the omitted properties of B.1: addresses and references to other nodes.
NOT_SHOWN = frozenset({"url", "labelledby", "describedby", "controls", "activedescendant", "details", "flowto", "owns"})
NOT_SHOWN_ROLES = frozenset({"ListMarker", "LineBreak"})
SETTLE = """(async () => {
  const tick = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  do { await tick(); } while (document.documentElement.ariaBusy === 'true');
  await tick();
})()"""
SIZE = "[document.getElementsByTagName('*').length, (document.documentElement || {textContent: ''}).textContent.length]"
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
        main = self._frame()["id"]
        self.cdp.on("Page.frameRequestedNavigation", lambda event: self._note(event, main, "asked"))
        self.cdp.on("Page.frameStartedLoading", lambda event: self._note(event, main, "started"))
        self.cdp.on("Page.frameStoppedLoading", lambda event: self._note(event, main, "stopped"))
        self.cdp.send("Page.enable")

    def _note(self, event: dict[str, Any], main: str, what: str) -> None:
        if event["frameId"] == main:
            self._asked = time.monotonic() if what == "asked" else None
            self._loading = what == "started"

    def _frame(self) -> dict[str, Any]:
        return self.cdp.send("Page.getFrameTree")["frameTree"]["frame"]

    @property
    def url(self) -> str:
        """The address as the page sees it, with its fragment."""
        frame = self._frame()
        return frame["url"] + frame.get("urlFragment", "")

    def evaluate(self, script: str, wait: bool = False) -> Any:
        """Run a script of ours in a world of our own; plain values come back."""
        world = self.cdp.send("Page.createIsolatedWorld", {"frameId": self._frame()["id"], "worldName": "rlvr"})
        found = self.cdp.send(
            "Runtime.evaluate",
            {
                "contextId": world["executionContextId"],
                "expression": script,
                "awaitPromise": wait,
                "returnByValue": True,
            },
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("text", "a script failed"))
        return found["result"].get("value")

    def settle(self) -> None:
        """Wait until what an action started has ended: navigation, and work that a page marks with aria-busy."""
        while True:
            try:
                self.evaluate(SETTLE, wait=True)
            except Exception as error:
                if not any(word in str(error) for word in SETTLE_ERRORS):
                    raise
            if self._asked is not None and time.monotonic() - self._asked > UNSTARTED_SECONDS:
                self._asked = None
            if self._asked is None and not self._loading:
                return
            self.page.wait_for_timeout(5)

    def nodes(self) -> list[Node]:
        """The nodes worth a line, read until two readings agree; keys are unique over documents."""
        self._refuse_giants()
        last = None
        for _ in range(QUIET_READS):
            raw = self.cdp.send("Accessibility.getFullAXTree")["nodes"]
            shown = [_shown(node) for node in raw]
            if shown == last:
                break
            last = shown
        frame = self._frame()
        document = self._documents.setdefault(frame["loaderId"], len(self._documents))
        return _once(read_tree([_keyed(node, document) for node in shown]))

    def _refuse_giants(self) -> None:
        elements, characters = self.evaluate(SIZE)
        if elements > MOST_ELEMENTS or characters > MOST_CHARACTERS:
            raise TooLarge(f"the page is too large: {elements} elements, {characters} characters")

    def backend(self, key: int) -> int | None:
        """The browser's number of a node of the present document, None for a node of a former one."""
        document = self._documents.get(self._frame()["loaderId"])
        return key & ((1 << DOCUMENT_SHIFT) - 1) if document == key >> DOCUMENT_SHIFT else None

    def history(self, step: int) -> tuple[int, str] | None:
        """Entry number and address that going back (-1) or forward (1) would lead to."""
        found = self.cdp.send("Page.getNavigationHistory")
        place = found["currentIndex"] + step
        if not 0 <= place < len(found["entries"]):
            return None
        entry = found["entries"][place]
        return None if entry["url"] == BLANK else (entry["id"], entry["url"])


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


__all__ = ["SETTLE_ERRORS", "Tab", "TooLarge"]
