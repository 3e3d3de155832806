"""Where a policy that looks at pictures is tried: the real simulator, and copies of it with wrong physics.

The real one is the simulator that the episodes were recorded in. A hand-made simulator shows the same pictures and
moves by other rules, as one does that somebody built without measuring the robot: the arm goes less (or more) far per
action, the drawer is harder to move. Another kind of scene needs :class:`PolicyScene` only, and an entry in
:func:`open_scene`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.drawers import AFTER_SUCCESS, TASKS, DrawerScene, Recording
from rlvr_lib.worlds.pusht import PushTScene
from rlvr_lib.worlds.tabletop import TABLE, TabletopRecording

PUSHT = "pusht"
Policy = Callable[[NDArray[np.uint8], int], NDArray[np.float32]]  # frame [H, W, 3] and number of the step -> action
DRAWER_JOINT = "goal_slidey"


@dataclass(frozen=True)
class Physics:
    """What is wrong with a simulator, as factors of the real one's values; the default is the real one.

    ``action_scale``: how far the arm goes for an action. ``damping``: of the drawer's joint; on PushT's table, of the
    agent's controller, which makes it slow.
    """

    action_scale: float = 1.0
    damping: float = 1.0


class PolicyScene(Protocol):
    """One task that can be begun, looked at and acted in."""

    def begin(self, seed: Sequence[int], physics: Physics) -> None:
        """Put everything where the recorded episode of this seed began, under these physics."""

    def frame(self) -> NDArray[np.uint8]:
        """The picture now, uint8 [H, W, 3]."""

    def act(self, action: NDArray[np.float32]) -> bool:
        """One action, one frame later; whether the task was done meanwhile."""

    def close(self) -> None: ...


class DrawerPolicyScene:
    """A drawer whose physics are set anew at every beginning; making a scene takes a second, setting them nothing."""

    def __init__(self, task: str, recording: Recording):
        self.scene = DrawerScene(task, recording)
        self.dof = int(self.scene.env.model.joint(DRAWER_JOINT).dofadr[0])
        self.real = (self.scene.env.action_scale, float(self.scene.env.model.dof_damping[self.dof]))

    def begin(self, seed: Sequence[int], physics: Physics) -> None:
        self._set(Physics())  # the arm's way to its start belongs to the real episode
        self.scene.reset(np.random.default_rng(tuple(seed)))
        self._set(physics)

    def _set(self, physics: Physics) -> None:
        scale, damping = self.real
        self.scene.env.action_scale = scale * physics.action_scale
        self.scene.env.model.dof_damping[self.dof] = damping * physics.damping

    def frame(self) -> NDArray[np.uint8]:
        return self.scene.frame()

    def act(self, action: NDArray[np.float32]) -> bool:
        return self.scene.step(action.clip(-1, 1))[1]

    def close(self) -> None:
        self.scene.close()


class PushTPolicyScene:
    """PushT's table. Actions are clipped to what the table allows; done: the T's middle is near the mark's."""

    most = TABLE / 100.0  # in an action's units: across the table

    def __init__(self, recording: TabletopRecording):
        self.scene, self.side = PushTScene(), recording.height
        self.damping, self.scale = self.scene.env.k_v, 1.0

    def begin(self, seed: Sequence[int], physics: Physics) -> None:
        self.scene.reset(np.random.default_rng(tuple(seed)))
        self.scene.env.k_v, self.scale = self.damping * physics.damping, physics.action_scale

    def frame(self) -> NDArray[np.uint8]:
        return self.scene.frame(self.side)

    def act(self, action: NDArray[np.float32]) -> bool:
        self.scene.act(self.scale * action.clip(-self.most, self.most))
        return self.scene.placed()

    def close(self) -> None:
        self.scene.env.close()


def open_scene(task: str, recording: Recording | TabletopRecording) -> PolicyScene:
    """The scene of a task; UserError for one that is not known."""
    if task in TASKS and isinstance(recording, Recording):
        return DrawerPolicyScene(task, recording)
    if task == PUSHT and isinstance(recording, TabletopRecording):
        return PushTPolicyScene(recording)
    raise UserError(f"no scene for task {task!r} in these episodes; there are {', '.join((*TASKS, PUSHT))}")


@dataclass(frozen=True, eq=False)
class Played:
    """An episode of a policy: frames uint8 [T, H, W, 3], success, and how often its action was no number."""

    frames: NDArray[np.uint8]
    success: bool
    bad_actions: int


def usable(action: NDArray, dims: int) -> tuple[NDArray[np.float32], bool]:
    """The action float32 [dims], and whether it was one; where it was not, the arm stays (zeros).

    It is not clipped: a scene and a world model's action bins keep to their own ranges.
    """
    action = np.asarray(action, dtype=np.float32)
    if action.shape != (dims,) or not np.isfinite(action).all():
        return np.zeros(dims, dtype=np.float32), False
    return action, True


def play(
    scene: PolicyScene,
    policy: Policy,
    seed: Sequence[int],
    physics: Physics,
    most: int,
    dims: int,
    after: int = AFTER_SUCCESS,
) -> Played:
    """Let a policy act at most ``most`` times; ``after`` more frames once it has succeeded, for a judge to see it.

    Actions that are no numbers are counted and replaced by standing still.
    """
    scene.begin(seed, physics)
    frames, bad, done_at = [scene.frame()], 0, None
    for step in range(most):
        action, sound = usable(policy(frames[-1], step), dims)
        bad += not sound
        if scene.act(action) and done_at is None:
            done_at = step
        frames.append(scene.frame())
        if done_at is not None and step >= done_at + after:
            break
    return Played(np.stack(frames), done_at is not None, bad)
