"""Episodes of the agent on WebArena through BrowserGym: the session, and which tasks an arm runs (C.5).

Success is BrowserGym's reward: its evaluators match answer, address and page content, and ask a judge where a task
wants one. A task that does not start is a failed episode, so it counts 0.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rlvr_lib.evaluation.agent_session import Case, LiveSession
from rlvr_lib.worlds.agent_texts import Observation
from rlvr_lib.worlds.browser import BrowserFault
from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Numbering
from rlvr_lib.worlds.webarena import CHECK_SECONDS, RESET_SECONDS, STEP_SECONDS, EnvProcess, Sites
from rlvr_lib.worlds.webarena_pages import Target, answer_command, command, read_observation

NO_ORACLE = "left out: the hosted sites keep what is done to them, so no second browser can try an action and undo it"


class Environment(Protocol):
    """What :class:`~rlvr_lib.worlds.webarena.EnvProcess` does."""

    def ask(self, seconds: float, **request: object) -> dict: ...

    def close(self) -> None: ...


@dataclass
class WebArenaTask:
    """A task under way: its goal, the reward so far, whether BrowserGym has ended it."""

    goal: str
    template: str
    tell: Callable[[str], None]
    reward: float = 0.0
    over: bool = False

    def ended(self) -> bool:
        """BrowserGym ends a task at its first reward and outside of the hosted sites."""
        return self.over

    def success(self, answer: str = "") -> bool:
        """Whether the reward is 1, after giving the answer unless the task is over."""
        if not self.over:
            self.tell(answer)
        return self.reward >= 1.0


class WebArenaSession(LiveSession):
    """One environment process; a case's name is the domain, its seed the number of the task."""

    def __init__(self, make: Callable[[], Environment] = EnvProcess, sites: Sites | None = None, pause_s: float = 0.0):
        super().__init__(pause_s)
        self.make, self.sites = make, sites or Sites.hosted()
        self.env: Environment | None = None
        self.targets: dict[int, Target] = {}

    def observation(self) -> Observation:
        """As everywhere, with the public-looking address beside the hosted one (C.2, 1)."""
        return replace(super().observation(), public_url=self.sites.shown(self.page.url))

    def _begin(self) -> None:
        self.env = self.env or self.make()
        seen = self.env.ask(RESET_SECONDS, do="reset", task=self.case.seed)
        self.task = WebArenaTask(seen["goal"], f"webarena.{self.case.seed}", self._tell)
        self._show(seen, None)

    def _show(self, seen: dict, numbering: Numbering | None) -> None:
        self.numbering = numbering or Numbering()
        snapshot, self.targets = read_observation(seen)
        self.page = snapshot.page(self.numbering)

    def _act(self, action: Action, numbering: Numbering | None) -> None:
        words, self.refused = command(action, self.page, self.targets, self.sites, self.pause_s)
        self.previous.append(action)
        if words:
            self._show(self._step(words), numbering)

    def _step(self, words: str) -> dict:
        if self.env is None:
            raise BrowserFault("the episode has not begun")
        seen = self.env.ask(STEP_SECONDS + self.pause_s, do="step", action=words)
        self.task.reward, self.task.over = seen["reward"], seen["ended"]
        self.refused = " ".join((seen["why"] or seen["error"]).split())[:200]
        return seen

    def _tell(self, answer: str) -> None:
        self._step(answer_command(answer))

    def _picture(self) -> bytes:
        return base64.b64decode(self.env.ask(CHECK_SECONDS, do="screenshot")["png"]) if self.env else b""

    def _drop(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            env.close()


def webarena_cases(count: int, tasks: Sequence[tuple[int, str]]) -> list[Case]:
    """``count`` of the tasks (number, domain), evenly spread over their numbers; all of them from 812 on."""
    count = min(count, len(tasks))
    chosen = [tasks[place * len(tasks) // count] for place in range(count)]
    return [Case(domain, number) for number, domain in chosen]


__all__ = ["NO_ORACLE", "Environment", "WebArenaSession", "WebArenaTask", "webarena_cases"]
