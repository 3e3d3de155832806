"""Robot video of our own: a Sawyer arm opens and closes a drawer (Meta-World on MuJoCo), filmed by a free camera.

Stands in for RT-1 where that is out of reach. The policies are graded: a scripted expert that sees the handle in a
wrong place (one error per episode, the same for its whole length) and whose moves are noisy. An action (dx, dy, dz,
gripper, each in [-1, 1]) is held for ``frame_every`` simulator steps, so that one action drives one frame to the next.
"""

import os
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError
from rlvr_lib.progress import say
from rlvr_lib.worlds.recording import record_episodes
from rlvr_lib.worlds.renderers import choose_renderer, make_renderer, prepare
from rlvr_lib.worlds.video_episodes import Episode

GENERATOR = 3  # raise it when equal settings no longer give equal episodes
TASKS = ("drawer-open", "drawer-close")
# Standard deviation in metres of the error in the seen handle, by task, from good to bad.
GRADES = {
    "expert": {"drawer-open": 0.0, "drawer-close": 0.0},
    "good": {"drawer-open": 0.02, "drawer-close": 0.02},
    "fair": {"drawer-open": 0.03, "drawer-close": 0.04},
    "poor": {"drawer-open": 0.04, "drawer-close": 0.06},
    "bad": {"drawer-open": 0.08, "drawer-close": 0.10},
}
NOISE = 0.2  # standard deviation of the noise on each move
AFTER_SUCCESS = 3  # frames still recorded
CAMERA = {"lookat": (0.0, 0.70, 0.10), "distance": 0.8, "azimuth": 160.0, "elevation": -25.0}
UNSEEN = ("pedestal", "right_arm_base_link", "head", "right_l0", "right_l1", "right_l2", "right_l3")
UNDER_TABLE = ("torso", "pedestal_feet", "controller_box", "mocap", "screen")  # behind what is seen, or see-through
NOT_DRAWN = 5  # a geom group that no renderer draws


@dataclass(frozen=True)
class Recording:
    """What decides about the content of a set; two sets with equal values are equal, file by file."""

    seed: int
    height: int = 64
    width: int = 80
    frame_every: int = 4
    most_frames: int = 36
    renderer: str = "egl"
    generator: int = GENERATOR


class DrawerScene:
    """One drawer with its arm: reset, act, look. Positions in metres; seeds decide where the drawer stands."""

    def __init__(self, task: str, recording: Recording, camera: dict[str, Any] | None = None):
        if task not in TASKS:
            raise UserError(f"drawers: no task {task!r}; there are {', '.join(TASKS)}")
        self.task, self.recording = task, recording
        self.env = _environment(task)
        _hide(self.env.model, (*UNSEEN, *UNDER_TABLE))
        import mujoco

        eye = mujoco.MjvCamera()
        for name, value in (camera or CAMERA).items():
            if name == "lookat":
                eye.lookat[:] = value
            else:
                setattr(eye, name, value)
        self.renderer = make_renderer(recording.renderer, self.env.model, eye, recording.height, recording.width)

    def reset(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Put the drawer somewhere (10 cm to either side), the arm at its start; returns the observation [39]."""
        space = self.env._random_reset_space
        self.env._last_rand_vec = rng.uniform(space.low, space.high)
        self.env.seed(0)
        observation, _ = self.env.reset()
        return observation

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], bool]:
        """Hold an action for ``frame_every`` simulator steps; observation and whether the task is done."""
        success = False
        for _ in range(self.recording.frame_every):
            observation, _, _, _, info = self.env.step(np.asarray(action, dtype=np.float64))
            success = success or bool(info["success"])
        return observation, success

    def frame(self) -> NDArray[np.uint8]:
        """The picture now, uint8 [H, W, 3]."""
        return self.renderer.frame(self.env.data)

    def close(self) -> None:
        self.renderer.close()
        self.env.close()


def _environment(task: str) -> Any:
    with warnings.catch_warnings():  # Meta-World registers and checks itself aloud
        warnings.simplefilter("ignore")
        import metaworld

        env = metaworld.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"](seed=0)
    env._freeze_rand_vec = True
    env.max_path_length = 10**9  # episodes end where we end them
    return env


def _hide(model: Any, bodies: tuple[str, ...]) -> None:
    """Take shapes that no picture shows out of drawing: 42 000 of 68 000 triangles, and faint shadows."""
    for geom in range(model.ngeom):
        if model.body(model.geom_bodyid[geom]).name in bodies or model.geom_rgba[geom, 3] == 0:
            model.geom_group[geom] = NOT_DRAWN


class GradedPolicy:
    """Meta-World's scripted expert with an error of its own about where the handle is, and noise on its moves."""

    def __init__(self, task: str, grade: str, rng: np.random.Generator):
        from metaworld.policies import SawyerDrawerCloseV3Policy, SawyerDrawerOpenV3Policy

        self.expert = (SawyerDrawerOpenV3Policy if task == "drawer-open" else SawyerDrawerCloseV3Policy)()
        self.error = rng.normal(0, 1, 3) * GRADES[grade][task]
        self.rng = rng

    def __call__(self, observation: NDArray[np.float64]) -> NDArray[np.float32]:
        """Observation [39] -> action float32 [4] in [-1, 1]."""
        seen = observation.copy()
        seen[4:7] += self.error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            move = self.expert.get_action(seen)
        move[:3] += self.rng.normal(0, NOISE, 3)
        return np.clip(move, -1, 1).astype(np.float32)


def record_episode(scene: DrawerScene, grade: str, seed: tuple[int, ...]) -> Episode:
    """One episode; the last frame's action is the one that would have come next."""
    rng = np.random.default_rng(seed)
    observation = scene.reset(rng)
    policy = GradedPolicy(scene.task, grade, rng)
    frames, actions, done_at = [], [], None
    while len(frames) < scene.recording.most_frames:
        frames.append(scene.frame())
        actions.append(policy(observation))
        if done_at is not None and len(frames) > done_at + AFTER_SUCCESS:
            break
        observation, success = scene.step(actions[-1])
        if success and done_at is None:
            done_at = len(frames)
    facts = {"task": scene.task, "policy": grade, "success": done_at is not None, "seed": list(seed)}
    return Episode(np.stack(frames), np.stack(actions), facts)


def record_set(folder: Path, episodes: int, recording: Recording, workers: int = 1) -> dict[str, Any]:
    """Record episodes 0..n-1 into ``folder``; tasks and grades as :func:`cast_of` says. Returns facts of the set."""
    return record_episodes(
        folder,
        episodes,
        asdict(recording),
        partial(record_number, recording),
        workers=workers,
        label="drawer",
        prepare=partial(prepare_worker, recording.renderer),
    )


def prepare_worker(renderer: str) -> None:
    """Settings of a recording process: its OpenGL, and one thread."""
    prepare(renderer)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ[name] = "1"


_scenes: dict[tuple[str, Recording], DrawerScene] = {}  # one per process and task: making one takes a second


def cast_of(seed: int, number: int) -> tuple[str, str]:
    """Task and grade of an episode. Ten in a row hold each pair once, in an order of their own.

    In a fixed order every n-th episode, which is how test sets are drawn (A.1), would always be of the same few kinds.
    """
    kinds = [(task, grade) for grade in GRADES for task in TASKS]
    block, place = divmod(number, len(kinds))
    return kinds[np.random.default_rng((seed, block, len(kinds))).permutation(len(kinds))[place]]


def record_number(recording: Recording, number: int) -> Episode:
    """Episode ``number`` of a set."""
    task, grade = cast_of(recording.seed, number)
    if (task, recording) not in _scenes:
        _scenes[task, recording] = DrawerScene(task, recording)
    return record_episode(_scenes[task, recording], grade, (recording.seed, number))


def recording_for(seed: int, height: int, width: int, frame_every: int, renderer: str = "auto") -> Recording:
    """Settings with the renderer that works here; says so when it is the ray caster."""
    chosen = choose_renderer(renderer)
    if chosen == "rays":
        say("drawers: EGL does not open here, so a ray caster draws (flat colours, no shadows)")
    return Recording(seed, height, width, frame_every, renderer=chosen)
