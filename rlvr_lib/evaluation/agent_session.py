"""Episodes of the agent in the live browser, one session each, and the oracle that tries actions in a second one.

A session turns whatever goes wrong (a browser that dies or hangs, a page that cannot be read) into the reason of a
failed episode; the next episode gets a new browser, and no process stays behind.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

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


class LiveSession:
    """What sessions of all worlds share: begin an episode, look, act. Faults are kept in ``fault``.

    A world fills in ``_begin``, ``_act``, ``_picture`` and ``_drop``, which may raise BrowserFault.
    """

    def __init__(self, pause_s: float = 0.0):
        self.pause_s = pause_s
        self.fault = self.refused = ""
        self.case = Case("", 0)
        self.previous: list[Action] = []
        self.page = Page("", "", ())
        self.numbering = Numbering()
        self.task: Any = None  # of an episode that has begun: goal, template, ended(), success(answer)

    def begin(self, case: Case) -> bool:
        """Start an episode; False when it failed."""
        self.fault, self.refused, self.case, self.previous = "", "", case, []
        return self._safely(self._begin)

    def observation(self) -> Observation:
        """What the roles get to see."""
        previous = tuple(map(str, self.previous))
        return Observation(
            self.task.goal, self.page.url, self.page.text, previous, case=self.case.name, seed=self.case.seed
        )

    def act(self, action: Action, numbering: Numbering | None = None) -> bool:
        """Do it and look again, with new numbers or with those of ``numbering``; False when the episode failed."""
        return self._safely(lambda: self._act(action, numbering))

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
        self._safely(lambda: found.append(self._picture()))
        return found[-1]

    def close(self) -> None:
        """Leave nothing running."""
        self._drop()

    def _begin(self) -> None:
        raise NotImplementedError

    def _act(self, action: Action, numbering: Numbering | None) -> None:
        raise NotImplementedError

    def _picture(self) -> bytes:
        raise NotImplementedError

    def _drop(self) -> None:
        raise NotImplementedError

    def _safely(self, work: Callable[[], object]) -> bool:
        try:
            work()
            return True
        except BrowserFault as fault:
            self.fault = str(fault)
            self._drop()
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session(LiveSession):
    """One browser with its own server, for our sites and MiniWoB pages."""

    def __init__(self, make: Make | None = None, pause_s: float = 0.0):
        super().__init__(pause_s)
        self.make = make or partial(web_tasks.make_browser, seconds=PATIENCE)
        self.server = web_tasks.make_server()
        self.browser: Browser | None = None
        self.used = 0

    def _begin(self) -> None:
        if self.browser is not None and self.used >= FRESH_EVERY:
            self._drop()
        if self.browser is None:
            self.browser, self.used = self.make(self.server), 0
        self.used += 1
        self.task = web_tasks.begin(self.browser, self.server, self.case.name, self.case.seed)
        self._look()

    def _look(self, numbering: Numbering | None = None) -> None:
        assert self.browser is not None
        self.numbering = numbering or Numbering()
        self.page = self.browser.look().page(self.numbering)

    def _act(self, action: Action, numbering: Numbering | None) -> None:
        assert self.browser is not None
        self.refused = self.browser.act(action, self.page)
        self.previous.append(action)
        time.sleep(self.pause_s)
        self._look(numbering)

    def renumber(self) -> None:
        """Number the page's elements from 1 again, as every step does."""
        self.numbering = Numbering()
        self.page = replace(self.page, nodes=self.numbering(self.page.nodes))

    def _picture(self) -> bytes:
        return self.browser.screenshot() if self.browser else b""

    def _drop(self) -> None:
        browser, self.browser = self.browser, None
        if browser is not None:
            browser.close()

    def close(self) -> None:
        super().close()
        self.server.close()


class OracleWorldModel:
    """The true changes: each episode is replayed in a browser of its own and the actions are tried there.

    An upper bound, no world model: it is the one role that may know what comes next. Episodes are tried side by side,
    as most of a trial is waiting for a page to be quiet.
    """

    def __init__(self, make: Make | None = None):
        self.make, self.faults = make, 0
        self.sessions: list[Session] = []

    def predict(self, seen: Sequence[Observation], actions: Sequence[str]) -> list[str]:
        """What really changes, in the answer format; empty where the second browser failed."""
        episodes: dict[tuple[str, int], list[int]] = {}
        for place, one in enumerate(seen):
            episodes.setdefault((one.case, one.seed), []).append(place)
        sessions = self._sessions([Case(*key) for key in episodes])
        found: list[str | None] = [None] * len(seen)

        def work(session: Session, places: Sequence[int]) -> None:
            # Last ones first: the most frequent proposal is often chosen, and leaves the browser where it is needed.
            for place in reversed(places):
                found[place] = self._tried(session, seen[place], read_action(actions[place]))

        with ThreadPoolExecutor(max(1, len(sessions))) as pool:
            list(pool.map(work, sessions, episodes.values()))
        self.faults += found.count(None)
        return [text or "" for text in found]

    def _sessions(self, cases: Sequence[Case]) -> list[Session]:
        """A session for each case: the one that is on it already, else one that is on none of them, else a new one."""
        free = [session for session in self.sessions if session.case not in cases]
        chosen = []
        for case in cases:
            found = next((session for session in self.sessions if session.case == case), None)
            if found is None:
                found = free.pop() if free else Session(self.make)
            chosen.append(found)
        self.sessions += [session for session in chosen if session not in self.sessions]
        return chosen

    def _tried(self, session: Session, seen: Observation, action: Action) -> str | None:
        if self._reach(session, seen):
            before, numbering = session.page, session.numbering
            if session.act(action, numbering):
                return changes(before, session.page).text
        say(f"oracle: {seen.key} could not be replayed: {session.fault}")
        return None

    def _reach(self, session: Session, seen: Observation) -> bool:
        """Bring the second browser to where the episode is; it may be there already."""
        case = Case(seen.case, seen.seed)
        there = tuple(map(str, session.previous)) == seen.previous and session.case == case
        if there and session.browser is not None and not session.fault:
            session.renumber()
            return True
        return session.begin(case) and all(session.act(read_action(text)) for text in seen.previous)

    def close(self) -> None:
        for session in self.sessions:
            session.close()


__all__ = ["Case", "LiveSession", "OracleWorldModel", "Session", "instances"]
