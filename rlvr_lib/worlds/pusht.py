"""PushT (gym-pusht on pymunk): a round agent pushes a T towards its mark; mixed-quality planners drive it.

Physics are gym-pusht's. Ours are a setter of the state that is exact, a move without the costly coverage, and a faster
drawing in the same colours. One frame's action is ``frame_every`` simulator steps' targets, relative to the agent and
in units of 100, side by side, as DINO-WM has them (spec A.3): ten numbers for five steps.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.tabletop import TABLE, Picture, TabletopRecording, grade_of
from rlvr_lib.worlds.video_episodes import Episode

WHITE, GOAL, BLOCK, BLOCK_RIM = (255, 255, 255), (144, 238, 144), (142, 163, 183), (119, 136, 153)
AGENT, AGENT_RIM, WALL = (78, 126, 255), (65, 105, 225), (211, 211, 211)
AGENT_RADIUS, RIM = 15, 4
UNIT = 100.0  # table units per unit of an action
GENERATOR = 2  # raise it when equal settings no longer give equal episodes
STEADY = "steady"
GRADES = {"random": 1, "fair": 4, "good": 16, STEADY: 0}  # candidate pushes that the planner compares; 0: no planner
PUSH_STEPS = 10  # simulator steps of one push, 1 s
BESIDE, SPREAD = 110.0, 40.0  # where a push begins and ends: distance from the T's middle, and standard deviation
PLACED = 40.0  # the T lies where it should when its middle is so near the mark's (five pixels of 64); it may be turned
AROUND, ACROSS, TURN = (
    115.0,
    25.0,
    0.5,
)  # the steady policy's way around the T, how exactly behind it, its pace (radians)
FORWARD, WAY = 60.0, 70.0  # how far ahead it aims when it pushes, and at most when it goes around
TREMBLE = 15.0  # standard deviation of each of its targets: episodes then show the way back from small errors
RESTS = 3  # frames for which it leaves the T on its mark
MARGIN = 40.0  # pushes keep so far from the rim: the agent can press the T through a wall


class PushTScene:
    """The table: set, act, look. State: agent x, y, block x, y, angle, as gym-pusht's."""

    def __init__(self) -> None:
        self.env = _environment()
        self.env.reset(seed=0)
        bars = [np.array(shape.get_vertices(), dtype=float) for shape in self.env.block.shapes]
        self.corners = sorted(bars, key=lambda corners: corners.tolist())  # pymunk keeps shapes in no order
        goal = np.asarray(self.env.goal_pose, dtype=float)
        self.goal = [_placed(corners, goal[:2], goal[2]) for corners in self.corners]

    def reset(self, rng: np.random.Generator) -> None:
        """Agent and T somewhere, at rest, the T at any angle, not overlapping."""
        while True:
            agent, block = rng.uniform(50, 450, 2), rng.uniform(140, 370, 2)
            if np.linalg.norm(agent - block) > 130:
                break
        self.set_state([*agent, *block, rng.uniform(-np.pi, np.pi)])

    def set_state(self, state: ArrayLike, motion: ArrayLike | None = None) -> None:
        """Exact (gym-pusht's own setter is not): the angle before the position, since turning moves the T about its
        centre of mass; ``motion`` are the velocities of :meth:`motion`, at rest without."""
        x, y, block_x, block_y, angle = (float(value) for value in np.asarray(state))
        moving = np.zeros(5) if motion is None else np.asarray(motion)
        agent, block = self.env.agent, self.env.block
        agent.position, agent.velocity = (x, y), tuple(moving[:2])
        block.angle = angle
        block.position = (block_x, block_y)
        block.velocity, block.angular_velocity = tuple(moving[2:4]), float(moving[4])
        for body in (agent, block):
            self.env.space.reindex_shapes_for_body(body)

    @property
    def state(self) -> NDArray[np.float64]:
        """float [5]; the angle is not brought back to 0..2 pi."""
        return np.array([*self.env.agent.position, *self.env.block.position, self.env.block.angle])

    @property
    def motion(self) -> NDArray[np.float64]:
        """Velocities of agent and T, and how fast the T turns, float [5]."""
        return np.array([*self.env.agent.velocity, *self.env.block.velocity, self.env.block.angular_velocity])

    def step(self, target: ArrayLike) -> None:
        """One simulator step (0.1 s): gym-pusht's control of the agent towards ``target``, without the reward."""
        env = self.env
        goal_x, goal_y = (float(value) for value in np.asarray(target))
        for _ in range(int(1 / (env.dt * env.control_hz))):
            (x, y), (speed_x, speed_y) = env.agent.position, env.agent.velocity
            pull = env.k_p * (goal_x - x) - env.k_v * speed_x, env.k_p * (goal_y - y) - env.k_v * speed_y
            env.agent.velocity = speed_x + pull[0] * env.dt, speed_y + pull[1] * env.dt
            env.space.step(env.dt)

    def act(self, action: ArrayLike) -> None:
        """One frame's action, float [2 x steps]: relative targets of its simulator steps in units of 100."""
        values = np.asarray(action, dtype=float)
        if values.ndim != 1 or not len(values) or len(values) % 2 or not np.isfinite(values).all():
            raise UserError(f"pusht: an action is pairs of finite numbers, one pair per simulator step: {list(values)}")
        if np.abs(values).max() * UNIT > np.sqrt(2) * TABLE:
            raise UserError(f"pusht: relative targets beyond the table ({np.abs(values).max():g} x {UNIT:g} units)")
        for move in values.reshape(-1, 2):
            self.step(np.clip(self.state[:2] + UNIT * move, 0, TABLE))

    def distance(self) -> float:
        """Mean distance of the T's corners from their marks, table units."""
        gaps = [np.linalg.norm(a - b, axis=1) for a, b in zip(self.block(), self.goal, strict=True)]
        return float(np.concatenate(gaps).mean())

    def coverage(self) -> float:
        """Share of the mark that the T covers, 0 to 1."""
        return float(self.env._get_coverage())

    def block(self) -> list[NDArray[np.float64]]:
        """Corners of the T's two bars."""
        return [_placed(corners, np.array(self.env.block.position), self.env.block.angle) for corners in self.corners]

    def centre(self) -> NDArray[np.float64]:
        """The middle of the T, table units."""
        return np.array(self.env.block.local_to_world(self.env.block.center_of_gravity))

    def mark(self) -> NDArray[np.float64]:
        """The middle of the mark, table units."""
        goal = np.asarray(self.env.goal_pose, dtype=float)
        return _placed(np.array(self.env.block.center_of_gravity)[None], goal[:2], goal[2])[0]

    def placed(self) -> bool:
        """Whether the T's middle lies within PLACED of the mark's."""
        return bool(np.linalg.norm(self.centre() - self.mark()) < PLACED)

    def frame(self, side: int) -> NDArray[np.uint8]:
        """The picture, uint8 [side, side, 3], in gym-pusht's colours."""
        picture = Picture(side, WHITE)
        for corners in self.goal:
            picture.polygon(corners, GOAL)
        for start, end in (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506))):
            picture.thread([start, end], 2, WALL)
        picture.disc(self.env.agent.position, AGENT_RADIUS, AGENT_RIM)
        picture.disc(self.env.agent.position, AGENT_RADIUS - RIM, AGENT)
        for corners in self.block():
            picture.polygon(corners, BLOCK)
            picture.thread([*corners, corners[0]], 2, BLOCK_RIM)
        return picture.frame()


def _environment() -> Any:
    """gym-pusht's environment. It imports OpenCV for pictures that we do not take; without libGL that import fails."""
    try:
        importlib.import_module("cv2")
        stand_in = None
    except ImportError:
        stand_in = sys.modules["cv2"] = ModuleType("cv2")
    try:
        from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise UserError(f"pusht needs gym-pusht and what it brings ({error}): run make setup again") from None
    finally:
        if stand_in is not None:
            del sys.modules["cv2"]
    return PushTEnv(obs_type="state")


def _placed(corners: NDArray, place: NDArray, angle: float) -> NDArray[np.float64]:
    """Corners turned and moved; number by number, for a matrix product's last bit differs from call to call."""
    (x, y), cosine, sine = corners.T, np.cos(angle), np.sin(angle)
    return np.stack([cosine * x - sine * y + place[0], sine * x + cosine * y + place[1]], axis=1)


def plan(scene: PushTScene, candidates: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """The best of random pushes, tried in the true simulator, which is put back: targets [PUSH_STEPS, 2].

    A push goes to a place beside the T in half of its steps, and from there into it, in straight lines.
    """
    state, motion = scene.state, scene.motion
    pushes = [_random_push(state[:2], scene.centre(), rng) for _ in range(candidates)]
    if candidates == 1:
        return pushes[0]
    costs = []
    for push in pushes:
        for target in push:
            scene.step(target)
        costs.append(scene.distance())
        scene.set_state(state, motion)
    return pushes[int(np.argmin(costs))]


def _random_push(agent: NDArray, middle: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    angle, half = rng.uniform(0, 2 * np.pi), PUSH_STEPS // 2
    beside = middle + BESIDE * np.array([np.cos(angle), np.sin(angle)])
    end = middle + rng.normal(0, SPREAD, 2)
    beside, end = (np.clip(place, MARGIN, TABLE - MARGIN) for place in (beside, end))
    shares = np.linspace(1 / half, 1, half)[:, None]
    return np.concatenate([agent + shares * (beside - agent), beside + shares * (end - beside)])


def steady_push(agent: NDArray, middle: NDArray, mark: NDArray) -> NDArray[np.float64]:
    """Where a scripted policy sends the agent: around the T to its far side, then through it towards the mark.

    It needs nothing but the three places, which a picture shows; on the mark (half of PLACED) it stands still.
    """
    away, offset = middle - mark, agent - middle
    distance = float(np.linalg.norm(away))
    if distance < PLACED / 2:
        return agent.copy()
    behind = away / distance
    along = float(offset @ behind)
    if along > 0 and np.linalg.norm(offset - along * behind) < ACROSS:
        return agent - FORWARD * offset / np.linalg.norm(offset)
    angle = np.arctan2(offset[1], offset[0])
    turn = (np.arctan2(behind[1], behind[0]) - angle + np.pi) % (2 * np.pi) - np.pi
    angle += np.clip(turn, -TURN, TURN)
    step = middle + AROUND * np.array([np.cos(angle), np.sin(angle)]) - agent
    return np.clip(agent + step * min(1.0, WAY / max(float(np.linalg.norm(step)), 1e-9)), MARGIN, TABLE - MARGIN)


class Driver:
    """Decides target after target as a grade does. The steady one rests on the mark, then pushes at random once."""

    def __init__(self, scene: PushTScene, grade: str, rng: np.random.Generator):
        self.scene, self.candidates, self.rng = scene, GRADES[grade], rng
        self.left, self.rested = np.zeros((0, 2)), 0

    def target(self) -> NDArray[np.float64]:
        """The next simulator step's target."""
        if not len(self.left):
            if not self.candidates:
                target = steady_push(self.scene.state[:2], self.scene.centre(), self.scene.mark())
                return target + self.rng.normal(0, TREMBLE, 2)
            self.left = plan(self.scene, self.candidates, self.rng)
        target, self.left = self.left[0], self.left[1:]
        return target

    def looked(self, placed: bool) -> None:
        """Told once a frame whether the T lies on its mark."""
        self.rested = self.rested + 1 if placed else 0
        if not self.candidates and self.rested == RESTS:
            self.left, self.rested = plan(self.scene, 1, self.rng), 0


def record_pusht(recording: TabletopRecording, number: int) -> Episode:
    """Episode ``number``; the last frame's action is the one that would have come next.

    Facts: ``done`` has a 1 for every frame in which the T lies on its mark, else a 0; ``success``: in any of them.
    """
    rng = np.random.default_rng((recording.seed, number))
    grade = grade_of(recording.seed, number, list(GRADES))
    scene = PushTScene()
    scene.reset(rng)
    driver = Driver(scene, grade, rng)
    frames, actions, done, best = [], [], "", 0.0
    for _ in range(recording.most_frames):
        frames.append(scene.frame(recording.height))
        best = max(best, scene.coverage())
        done += str(int(scene.placed()))
        driver.looked(done[-1] == "1")
        moves = []
        for _ in range(recording.frame_every):
            target = driver.target()
            moves.append((target - scene.state[:2]) / UNIT)
            scene.step(target)
        actions.append(np.concatenate(moves).astype(np.float32))
    facts = {"task": "pusht", "policy": grade, "coverage": round(best, 4), "done": done, "success": "1" in done}
    return Episode(np.stack(frames), np.stack(actions), {**facts, "seed": [recording.seed, number]})


__all__ = ["GENERATOR", "GRADES", "PLACED", "STEADY", "PushTScene", "plan", "record_pusht", "steady_push"]
