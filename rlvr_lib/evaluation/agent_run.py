"""Running the agent's arms over task instances: side by side, resumable, every episode with its reason to end (C.3)."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.artifacts import atomic_write_bytes, atomic_write_json, atomic_write_text, read_json
from rlvr_lib.evaluation.agent_planner import Decision, Planner
from rlvr_lib.evaluation.agent_session import Case, LiveSession
from rlvr_lib.progress import track
from rlvr_lib.worlds.transitions import record_lines
from rlvr_lib.worlds.web_actions import NO_ACTION, Action, read_action, reason_to_stop

GOAL, PAGE_OVER, STOPPED, FAULT = "goal reached", "the page ended the episode", "the agent stopped", "fault"


@dataclass(frozen=True)
class Limits:
    """When an episode is stopped (C.3): actions in all, unreadable ones in a row, repetitions."""

    steps: int = 5
    unreadable: int = 3
    repeated: int = 5

    def reason(self, actions: Sequence[Action]) -> str | None:
        return reason_to_stop(actions, self.steps, self.unreadable, self.repeated)


@dataclass
class Episode:
    """One episode under way: its session, what was decided, how it ended."""

    case: Case
    session: LiveSession
    steps: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)
    ended: str = ""
    success: bool = False

    def begin(self, watched: bool) -> "Episode":
        if not self.session.begin(self.case):
            self.ended = FAULT
        elif watched:
            self.pictures.append(self.session.screenshot())
        return self

    def step(self, decision: Decision, limits: Limits, watched: bool) -> None:
        """Act as decided, then see whether the episode is over."""
        action, session = read_action(decision.text), self.session
        self.steps.append(_told(decision, session.page.url, session.page.text if watched else ""))
        if action.kind == "stop":
            self._end(STOPPED, action.text)
        elif not session.act(action):
            self.ended = FAULT
        else:
            self.steps[-1]["refused"] = session.refused
            if watched:
                self.pictures.append(session.screenshot())
            self._look(limits)

    def _look(self, limits: Limits) -> None:
        if self.session.over():
            self._end(PAGE_OVER)
        elif reason := limits.reason(self.session.previous):
            self._end(reason, reason)  # a forced stop answers with its reason

    def _end(self, reason: str, answer: str = "") -> None:
        self.success = self.session.success(answer)
        self.ended = FAULT if self.session.fault else GOAL if self.success and reason == PAGE_OVER else reason

    def record(self, arm: str) -> dict[str, Any]:
        """The JSON record."""
        calls: dict[str, int] = {}
        for step in self.steps:
            for role, count in step["calls"].items():
                calls[role] = calls.get(role, 0) + count
        started = not self.session.fault or bool(self.steps)
        return {
            "arm": arm,
            **asdict(self.case),
            "goal": self.session.task.goal if started else "",
            "template": self.session.task.template if started else self.case.name,
            "success": self.success,
            "ended": self.ended,
            "fault": self.session.fault,
            "calls": calls,
            "seconds": round(sum(step["seconds"] for step in self.steps), 4),
            "steps": self.steps,
        }


def _told(decision: Decision, url: str, page: str) -> dict[str, Any]:
    action = read_action(decision.text)
    return {
        "url": url,
        **({"page": page} if page else {}),
        "action": str(action) if action != NO_ACTION else decision.text[:200],
        "candidates": [asdict(candidate) for candidate in decision.candidates],
        "calls": dict(decision.calls),
        "seconds": round(decision.seconds, 4),
    }


def run_arm(
    folder: Path,
    arm: str,
    planner: Planner,
    cases: Sequence[Case],
    make_session: Callable[[], LiveSession],
    limits: Limits,
    parallel: int = 1,
    watched: int = 0,
) -> list[dict[str, Any]]:
    """Run an arm over ``cases``, ``parallel`` episodes side by side; records in the order of the cases.

    Every finished episode is a file under ``folder``/episodes, so an interrupted run keeps it. The first ``watched``
    cases keep page texts and screenshots (``folder``/screens).
    """
    parts = folder / "episodes" / arm
    parts.mkdir(parents=True, exist_ok=True)
    todo = [case for case in cases if not _part(parts, case).is_file()]
    looked_at = set(cases[:watched])
    if todo:
        count = min(parallel, len(todo))
        sessions: list[LiveSession] = []
        try:
            sessions += [make_session() for _ in range(count)]
            episodes = _side_by_side(planner, todo, sessions, limits, looked_at)
            for episode in track(episodes, len(todo), f"agent, {arm}", "episodes"):
                for place, picture in enumerate(episode.pictures):
                    atomic_write_bytes(screen(folder, arm, episode.case, place), picture)
                atomic_write_json(_part(parts, episode.case), episode.record(arm))
        finally:
            for session in sessions:
                session.close()
    return [read_json(_part(parts, case)) for case in cases]


def _part(parts: Path, case: Case) -> Path:
    return parts / f"{case.name}-{case.seed}.json"


def screen(folder: Path, arm: str, case: Case, place: int) -> Path:
    """Where a watched episode's picture before step ``place`` lies."""
    return folder / "screens" / arm / f"{case.name}-{case.seed}-{place}.png"


def _side_by_side(
    planner: Planner, todo: Sequence[Case], sessions: Sequence[LiveSession], limits: Limits, watched: set[Case]
) -> Iterator[Episode]:
    """Episodes as they end. Those under way are decided together; their browsers act at the same time."""
    waiting, free, running = list(todo), list(sessions), []  # type: list[Case], list[LiveSession], list[Episode]
    with ThreadPoolExecutor(len(sessions)) as pool:
        while waiting or running:
            begun = []
            while waiting and free:
                begun.append(Episode(waiting.pop(0), free.pop(0)))
            running += pool.map(lambda episode: episode.begin(episode.case in watched), begun)
            alive = [episode for episode in running if not episode.ended]
            decisions = planner.decide([episode.session.observation() for episode in alive]) if alive else []
            work = [(*pair, limits) for pair in zip(alive, decisions, strict=True)]
            list(pool.map(lambda job: job[0].step(*job[1:], job[0].case in watched), work))
            for episode in [episode for episode in running if episode.ended]:
                yield episode
                running.remove(episode)
                free.append(episode.session)


def write_arm(folder: Path, arm: str, records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """``folder``/<arm>.jsonl (all of it) and <arm>.csv (a row per case); the single files go, the table comes last."""
    rows = pd.DataFrame([score_row(record) for record in records])
    atomic_write_text(folder / f"{arm}.jsonl", "".join(record_lines(records)))
    atomic_write_text(folder / f"{arm}.csv", rows.to_csv(index=False))
    shutil.rmtree(folder / "episodes" / arm, ignore_errors=True)
    return rows


def score_row(record: dict[str, Any]) -> dict[str, Any]:
    """What the tables need of an episode."""
    steps = len(record["steps"])
    return {
        "case_id": f"{record['name']}/{record['seed']}",
        "site": record["name"],
        "template": record["template"],
        "success": float(record["success"]),
        "steps": steps,
        "calls": sum(record["calls"].values()),
        "seconds": record["seconds"],
        "fault": float(bool(record["fault"])),
        "ended": record["ended"],
    }


__all__ = ["Episode", "Limits", "run_arm", "score_row", "screen", "write_arm"]
