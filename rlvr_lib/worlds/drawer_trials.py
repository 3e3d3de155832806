"""Drawer scenes off the beaten track: behaviour that no training episode shows, and several actions from one history.

The simulator is the judge: what follows an action is simulated, not recorded, so every action has its true next frame.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvr_lib.processes import executor
from rlvr_lib.worlds.drawers import TASKS, DrawerScene, GradedPolicy, Recording, prepare_worker
from rlvr_lib.worlds.video_clips import Clip
from rlvr_lib.worlds.video_episodes import Episode
from rlvr_lib.worlds.video_segments import to_float

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
EARLIEST, LATEST = 5, 14  # actions of the expert before a trial begins
# What is done with the expert's move: nothing, a third of its speed, the way back, or one direction for all of it.
BEHAVIOURS = ("usual", "slow", "backwards", "one direction")
SLOW = 0.3
TRIAL = 700_000  # seeds of trials; recordings have smaller ones
_SIDES = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
ACTIONS = {name: move for name, move in zip(("+x", "+y", "+z", "-x", "-y", "-z"), _SIDES, strict=True)}


@dataclass(frozen=True, eq=False)
class Branches:
    """``history`` uint8 [C, H, W, 3], its ``actions`` float32 [C - 1, A], and what follows each of ``ACTIONS``.

    ``choices`` float32 [M, A] are the actions tried, ``outcomes`` uint8 [M, H, W, 3] what the simulator shows then.
    """

    history: NDArray[np.uint8]
    actions: NDArray[np.float32]
    choices: NDArray[np.float32]
    outcomes: NDArray[np.uint8]

    def clips(self) -> list[Clip]:
        """One clip for each action tried: the history, then its outcome."""
        none = np.zeros_like(self.choices[:1])
        return [
            Clip(
                to_float(np.concatenate([self.history, outcome[None]])),
                np.concatenate([self.actions, choice[None], none]),
            )
            for choice, outcome in zip(self.choices, self.outcomes, strict=True)
        ]


Trials = tuple[dict[str, list[Episode]], list[Branches]]


def make_trials(recording: Recording, episodes: int, histories: int, context: int, workers: int = 1) -> Trials:
    """Short episodes of every behaviour and branching histories, both drawer tasks in turn (the same for any workers).

    An episode has ``context`` + 1 frames, a history ``context``.
    """
    jobs = [(task, recording, episodes, histories, context) for task in TASKS]
    # OpenGL and MuJoCo read their settings when first imported
    with executor(min(workers, len(jobs)), prepare_worker, (recording.renderer,)) as processes:
        parts = list(processes.map(_trials_of_task, jobs))
    short = {kind: [episode for found, _ in parts for episode in found[kind]] for kind in BEHAVIOURS}
    return short, [one for _, found in parts for one in found]


def _trials_of_task(job: tuple[str, Recording, int, int, int]) -> Trials:
    task, recording, episodes, histories, context = job
    first = TASKS.index(task)
    with closing(DrawerScene(task, recording)) as scene:
        short = {
            kind: [trial(scene, kind, (recording.seed, TRIAL + n), context + 1) for n in range(first, episodes, 2)]
            for kind in BEHAVIOURS
        }
        return short, [branch(scene, (recording.seed, TRIAL + n, 1), context) for n in range(first, histories, 2)]


def behaviour(kind: str, rng: np.random.Generator) -> Act:
    """How the expert's action float32 [4] is changed; the gripper stays as it is. ValueError for an unknown kind."""
    if kind not in BEHAVIOURS:
        raise ValueError(f"no behaviour {kind!r}; there are {', '.join(BEHAVIOURS)}")
    if kind == "one direction":
        direction = rng.normal(size=3)
        direction /= np.abs(direction).max()
        return lambda action: np.array([*direction, action[3]], dtype=np.float32)
    factor = {"usual": 1.0, "slow": SLOW, "backwards": -1.0}[kind]
    return lambda action: np.array([*(factor * action[:3]), action[3]], dtype=np.float32)


def trial(scene: DrawerScene, kind: str, seed: tuple[int, ...], frames: int) -> Episode:
    """``frames`` frames that all follow the behaviour, after some steps of the expert."""
    rng = np.random.default_rng(seed)
    observation, policy = scene.reset(rng), GradedPolicy(scene.task, "good", rng)
    change, seen, actions = behaviour(kind, rng), [], []
    for _ in range(int(rng.integers(EARLIEST, LATEST + 1))):
        observation, _ = scene.step(policy(observation))
    for _ in range(frames):
        seen.append(scene.frame())
        actions.append(change(policy(observation)))
        observation, _ = scene.step(actions[-1])
    return Episode(np.stack(seen), np.stack(actions), {"task": scene.task, "policy": kind, "seed": list(seed)})


def branch(scene: DrawerScene, seed: tuple[int, ...], context: int) -> Branches:
    """A history of ``context`` frames of the expert, and what follows each of ``ACTIONS`` from its end."""
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(EARLIEST, LATEST + 1))
    start = rng.bit_generator.state
    observation, policy = scene.reset(rng), GradedPolicy(scene.task, "good", rng)
    history, done = [], []
    for step in range(steps):
        if step > steps - context:
            history.append(scene.frame())
        done.append(policy(observation))
        observation, _ = scene.step(done[-1])
    history.append(scene.frame())
    choices = np.stack([np.array([*move, done[-1][3]], dtype=np.float32) for move in ACTIONS.values()])
    outcomes = []
    for choice in choices:  # the simulator is deterministic: the same start and actions lead back
        rng.bit_generator.state = start
        scene.reset(rng)
        for action in [*done, choice]:
            scene.step(action)
        outcomes.append(scene.frame())
    return Branches(np.stack(history), np.stack(done[1 - context :]), choices, np.stack(outcomes))


__all__ = ["ACTIONS", "BEHAVIOURS", "Branches", "behaviour", "branch", "make_trials", "trial"]
