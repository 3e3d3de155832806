"""A headless Chromium that is driven by mouse and keyboard, read as accessibility trees, and never trusted.

Playwright lives in a thread of its own, so that the same calls work in a script, in a test and inside Jupyter's event
loop, and so that a watchdog can end what hangs: a call that takes longer than ``seconds`` ends the browser's
processes. Whatever goes wrong inside comes out as one :class:`BrowserFault` with its reason; the caller records it and
goes on with a new browser.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds import browser_acts as acts
from rlvr_lib.worlds.browser_fence import Fence
from rlvr_lib.worlds.browser_find import REMEDY, find_browser
from rlvr_lib.worlds.browser_tab import Tab
from rlvr_lib.worlds.web_actions import ON_AN_ELEMENT, Action
from rlvr_lib.worlds.web_pages import Node, Numbering, Page

VIEWPORT = (1280, 2048)  # C.2
START_SECONDS = 60.0
MOST_TABS = 4
KEY_SECONDS = 0.1  # more time for every letter typed
Result = TypeVar("Result")


class BrowserFault(Exception):
    """The browser died, hung, or its page cannot be read; the text says which. The browser is of no use any more."""


@dataclass(frozen=True)
class Snapshot:
    """What a browser shows: nodes without numbers yet (their keys outlive an action)."""

    title: str
    url: str
    nodes: tuple[Node, ...]
    tabs: tuple[str, ...]
    current_tab: int

    def page(self, numbering: Numbering | None = None) -> Page:
        """The page with numbers; a fresh numbering starts from 1 in reading order."""
        nodes = (numbering or Numbering())(self.nodes)
        return Page(self.title, self.url, nodes, self.tabs, self.current_tab)


class Browser:
    """One Chromium with one window: open a page, look, act. Use it as a context manager."""

    def __init__(
        self, hosts: Mapping[str, int], seconds: float = 15.0, viewport: tuple[int, int] = VIEWPORT, patch: str = ""
    ):
        """``hosts``: allowed names and their ports. ``patch``: a script of ours run first in every document."""
        self.fence, self.seconds = Fence(hosts), seconds
        self._chromium, self._viewport, self._patch = find_browser(), viewport, patch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="browser")
        self._mark = f"--rlvr-harness={os.getpid()}-{id(self)}"
        self._playwright: Any = None
        self._tabs: list[Tab] = []
        self._current = 0
        self._dead = self.version = ""
        try:
            self._call(self._start, START_SECONDS)
        except BrowserFault as fault:
            self.close()
            raise UserError(f"{self._chromium.program} does not start ({fault}): {REMEDY}") from None

    def _start(self) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        width, height = self._viewport
        self._browser = self._playwright.chromium.launch(
            executable_path=str(self._chromium.program),
            args=[*self.fence.switches, self._mark],
            env={**_environment(), **self._chromium.environment},
            timeout=1000 * START_SECONDS,
        )
        self.version = self._browser.version
        self._context = self._browser.new_context(
            viewport={"width": width, "height": height},
            accept_downloads=False,
            service_workers="block",
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="UTC",
        )
        self._context.set_default_timeout(1000 * self.seconds)
        self.fence.guard(self._context)
        if self._patch:
            self._context.add_init_script(self._patch)
        self._tabs = [Tab(self._context.new_page())]

    def _call(self, work: Callable[[], Result], seconds: float | None = None) -> Result:
        """Run in the browser's thread; past the time its processes are ended, which ends the call as well."""
        if self._dead:
            raise BrowserFault(self._dead)
        future = self._thread.submit(work)
        try:
            return future.result(seconds or self.seconds)
        except TookTooLong:
            self._dead = f"the page did not answer within {seconds or self.seconds:g} s"
        except Exception as error:
            self._dead = _reason(error)
        self._kill()
        with contextlib.suppress(Exception):
            future.result(5)
        raise BrowserFault(self._dead) from None

    @property
    def _tab(self) -> Tab:
        return self._tabs[self._current]

    def open(self, url: str) -> None:
        """Begin anew at an address inside the fence (BrowserFault outside of it): one tab, no history, quiet."""

        def work() -> None:
            for tab in self._tabs[1:]:
                tab.page.close()
            del self._tabs[1:]
            self._current = 0
            if refused := acts.goto(self._tab, self.fence, url):
                raise ValueError(f"{url}: {refused}")
            self._tab.settle()
            self._tab.cdp.send("Page.resetNavigationHistory")

        self._call(work)

    def look(self) -> Snapshot:
        """What the current tab shows now."""

        def work() -> Snapshot:
            nodes = self._tab.nodes()
            titles = tuple(tab.title for tab in self._tabs)
            return Snapshot(titles[self._current], self._tab.url, tuple(nodes), titles, self._current)

        return self._call(work)

    def act(self, action: Action, page: Page) -> str:
        """Do it and wait until the page is quiet; why nothing was done, or an empty text."""

        def work() -> str:
            refused = self._perform(action, page)
            self._tab.settle()
            return refused

        return self._call(work, self.seconds + KEY_SECONDS * min(len(action.text), acts.LONGEST_TEXT))

    def _perform(self, action: Action, page: Page) -> str:
        tab = self._tab
        if action.kind in ON_AN_ELEMENT:
            node = page.node(action.element if action.element is not None else -1)
            return "there is no such element" if node is None else acts.act_on_element(tab, action, node.key)
        if action.kind == "press":
            return acts.press(tab, action.text)
        if action.kind == "scroll":
            return acts.scroll(tab, action.text)
        if action.kind == "goto":
            return acts.goto(tab, self.fence, action.text)
        if action.kind in ("go_back", "go_forward"):
            return acts.travel(tab, self.fence, -1 if action.kind == "go_back" else 1)
        if action.kind in ("new_tab", "tab_focus", "close_tab"):
            return self._change_tab(action)
        return "" if action.kind == "stop" else "the action could not be read"

    def _change_tab(self, action: Action) -> str:
        if action.kind == "new_tab":
            if len(self._tabs) >= MOST_TABS:
                return f"there are {MOST_TABS} tabs already"
            self._tabs.append(Tab(self._context.new_page()))
            self._current = len(self._tabs) - 1
        elif action.kind == "tab_focus":
            if action.element is None or not 0 <= action.element < len(self._tabs):
                return "there is no such tab"
            self._current = action.element
        else:
            if len(self._tabs) == 1:
                return "the last tab stays"
            self._tabs.pop(self._current).page.close()
            self._current = max(0, self._current - 1)
        self._tab.page.bring_to_front()
        return ""

    def ask_page(self, script: str, argument: Any = None) -> Any:
        """Run a script of the harness in the page's own world (rewards of test pages); never a page's or a model's."""
        return self._call(lambda: self._tab.page.evaluate(script, argument))

    def settle(self) -> None:
        """Wait until the current tab is quiet."""
        self._call(lambda: self._tab.settle())

    def screenshot(self) -> bytes:
        """The visible part of the page as PNG."""
        return self._call(lambda: self._tab.page.screenshot(animations="disabled"))

    def processes(self) -> list[psutil.Process]:
        """The browser's own process and everything below it."""
        mine = [process for process in _descendants() if self._mark in _command(process)]
        return [*mine, *(child for process in mine for child in _descendants(process))]

    def _kill(self) -> None:
        found = self.processes()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=5)

    def close(self) -> None:
        """End the browser, gently first; may be called twice."""
        self._dead = self._dead or "the browser was closed"
        playwright, self._playwright = self._playwright, None
        if playwright is not None:
            future = self._thread.submit(self._stop, playwright)
            try:
                future.result(10)
            except Exception:
                self._kill()
                with contextlib.suppress(Exception):
                    future.result(10)
        self._kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _stop(self, playwright: Any) -> None:
        with contextlib.suppress(Exception):
            self._browser.close()
        playwright.stop()

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment() -> dict[str, str]:
    """The browser gets what it needs to start, no keys of ours."""
    wanted = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "FONTCONFIG_PATH", "XDG_RUNTIME_DIR")
    return {name: os.environ[name] for name in wanted if name in os.environ}


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    died = any(word in lines[0] for word in ("closed", "crashed", "disconnected", "Connection"))
    return ("the browser died: " if died else "") + lines[0][:200]


def _descendants(process: psutil.Process | None = None) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        yield from (process or psutil.Process()).children(recursive=True)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


__all__ = ["Browser", "BrowserFault", "Snapshot"]
