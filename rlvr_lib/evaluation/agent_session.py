"""Episodes of the agent in the live browser, one session each, and the oracle that tries actions in a second one.

A session turns whatever goes wrong (a browser that dies or hangs, a page that cannot be read) into the reason of a
failed episode; the next episode gets a new browser, and no process stays behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rlvr_lib.progress import say
from rlvr_lib.worlds import web_tasks
from rlvr_lib.worlds.agent_texts import Observation
from rlvr_lib.worlds.browser import Browser, BrowserFault
from rlvr_lib.worlds.miniwob_experts import solved_tasks
from rlvr_lib.worlds.sites.catalogue import SITES
from rlvr_lib.worlds.sites.server import SiteServer
from rlvr_lib.worlds.web_actions import Action, read_action
from rlvr_lib.worlds.web_pages import Numbering, Page, changes

FRESH_EVERY = 60  # episodes per browser: a long-lived one grows
PATIENCE = 60.0  # seconds for one action: a busy machine must not cost an episode
FIRST_SEED = 900_000  # recordings have smaller ones
Make = Callable[[SiteServer], Browser]


@dataclass(frozen=True)
class Case:
    """One task instance: a site or MiniWoB task and a seed that no recording has."""

    name: str
    seed: int

    @property
    def case_id(self) -> str:
        return f"{self.name}/{self.seed}"


def instances(count: int) -> list[Case]:
    """``count`` instances: seen sites and seen MiniWoB tasks that have a scripted solver take turns."""
    names = [name for name in (*SITES, *solved_tasks()) if not web_tasks.is_held_out(name)]
    return [Case(names[at % len(names)], FIRST_SEED + at // len(names)) for at in range(count)]


class Session:
    """One browser with its own server: begin an episode, look, act. Faults are kept in ``fault``."""

    def __init__(self, make: Make | None = None, pause_s: float = 0.0):
        self.make, self.pause_s = make or partial(web_tasks.make_browser, seconds=PATIENCE), pause_s
        self.server = web_tasks.make_server()
        self.browser: Browser | None = None
        self.used = 0
        self.fault = ""

    def begin(self, case: Case) -> bool:
        """Start an episode; False when it failed."""
        self.fault, self.case, self.previous = "", case, []  # type: list[Action]
        return self._safely(self._begin)

    def _begin(self) -> None:
        if self.browser is not None and self.used >= FRESH_EVERY:
            self._drop()
        if self.browser is None:
            self.browser, self.used = self.make(self.server), 0
        self.used += 1
        self.task = web_tasks.begin(self.browser, self.server, self.case.name, self.case.seed)
        self._look()

    def _look(self) -> None:
        assert self.browser is not None
        self.numbering = Numbering()
        self.page: Page = self.browser.look().page(self.numbering)

    def observation(self) -> Observation:
        """What the roles get to see."""
        previous = tuple(map(str, self.previous))
        return Observation(
            self.task.goal, self.page.url, self.page.text, previous, case=self.case.name, seed=self.case.seed
        )

    def act(self, action: Action) -> bool:
        """Do it and look again; False when the episode failed."""
        return self._safely(lambda: self._act(action))

    def _act(self, action: Action) -> None:
        assert self.browser is not None
        self.refused = self.browser.act(action, self.page)
        self.previous.append(action)
        time.sleep(self.pause_s)
        self._look()

    def over(self) -> bool:
        """Whether the page itself has ended the episode."""
        ended = [False]
        self._safely(lambda: ended.append(self.task.ended()))
        return ended[-1] or bool(self.fault)

    def success(self, answer: str = "") -> bool:
        """Whether the goal is reached; a failed episode is no success."""
        reached = [False]
        if not self.fault:
            self._safely(lambda: reached.append(self.task.success(answer)))
        return reached[-1] and not self.fault

    def screenshot(self) -> bytes:
        """The page as PNG, empty when it cannot be had."""
        found = [b""]
        self._safely(lambda: found.append(self.browser.screenshot() if self.browser else b""))
        return found[-1]

    def _safely(self, work: Callable[[], object]) -> bool:
        try:
            work()
            return True
        except BrowserFault as fault:
            self.fault = str(fault)
            self._drop()
            return False

    def _drop(self) -> None:
        browser, self.browser = self.browser, None
        if browser is not None:
            browser.close()

    def close(self) -> None:
        self._drop()
        self.server.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OracleWorldModel:
    """The true changes: the episode is replayed in a browser of its own and the action tried there.

    An upper bound, no world model: it is the one role that may know what comes next.
    """

    def __init__(self, make: Make | None = None):
        self.session = Session(make)
        self.faults = 0

    def predict(self, seen: Sequence[Observation], actions: Sequence[str]) -> list[str]:
        """What really changes, in the answer format; empty where the second browser failed."""
        return [self._tried(one, read_action(action)) for one, action in zip(seen, actions, strict=True)]

    def _tried(self, seen: Observation, action: Action) -> str:
        session = self.session
        well = session.begin(Case(seen.case, seen.seed))
        well = well and all(session.act(read_action(text)) for text in seen.previous)
        before, numbering = (session.page, session.numbering) if well else (None, None)
        if well and before is not None and session.act(action) and session.browser is not None:
            return changes(before, session.browser.look().page(numbering)).text
        self.faults += 1
        say(f"oracle: {seen.key} could not be replayed: {session.fault}")
        return ""

    def close(self) -> None:
        self.session.close()


__all__ = ["Case", "OracleWorldModel", "Session", "instances"]
