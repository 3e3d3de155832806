"""Rope and granular material on a table (pymunk), pushed about: stand-ins for DINO-WM's deformable sets.

Motion is quasi-static: everything stops when the tool does. An action is a push of four numbers in [-1, 1]: where the
tool is put down (x, y) and where it is lifted again. It is lifted before a picture is taken, so pictures show the
material alone. Episodes are of mixed quality: pushes anywhere, roughly at the material, or right through it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.tabletop import TABLE, Picture, TabletopRecording, grade_of, push_of, random_push
from rlvr_lib.worlds.video_episodes import Episode

STEP = 0.01  # seconds of a physics step
SPEED = 500.0  # of the tool, table units a second
ITERATIONS = 30  # of the solver: with its ten the rope stretches
FIRM = 1e-20  # what is left of a gap between the rope's pieces after a second
REST = 10  # physics steps after a push
REACH = 200.0  # length of an aimed push
GRADES = {"random": None, "rough": 60.0, "aimed": 8.0}  # how far a push's aim misses the material
CLOTH, ROPE, ROPE_END = (226, 214, 192), (158, 62, 44), (52, 70, 120)
SAND, GRAINS = (74, 84, 92), ((238, 196, 92), (228, 168, 70), (214, 146, 58), (244, 216, 130))
SEGMENTS, SEGMENT, THICK = 30, 13.0, 11.0  # the rope: pieces, length of one, half its thickness (3 of 64 pixels in all)
DISCS = 100


class Material:
    """A table with walls and one material; subclasses lay it out (:meth:`lay`), name their tool, draw themselves."""

    name = ""

    def __init__(self) -> None:
        self.pymunk = _pymunk()
        self.reset(np.random.default_rng(0))

    def reset(self, rng: np.random.Generator) -> None:
        """A fresh table with the material somewhere on it, at rest."""
        self.space = self.pymunk.Space()
        self.space.damping, self.space.iterations = 0.0, ITERATIONS
        corners = [(0, 0), (TABLE, 0), (TABLE, TABLE), (0, TABLE)]
        for start, end in zip(corners, [*corners[1:], corners[0]], strict=True):
            self.space.add(self.pymunk.Segment(self.space.static_body, start, end, 4))
        self.bodies: list = []
        self.lay(rng)
        for _ in range(20):  # what overlaps moves apart
            self.space.step(STEP)

    def lay(self, rng: np.random.Generator) -> None:
        raise NotImplementedError

    def tool(self, body: object, direction: NDArray) -> object:
        """The tool's shape on its body; ``direction`` is the unit vector of the push."""
        raise NotImplementedError

    def frame(self, side: int) -> NDArray[np.uint8]:
        """The picture, uint8 [side, side, 3]."""
        raise NotImplementedError

    def points(self) -> NDArray[np.float64]:
        """Where the material is, float [n, 2] in table units."""
        return np.array([tuple(body.position) for body in self.bodies])

    def act(self, action: ArrayLike) -> None:
        """Put the tool down, drag it in a straight line, lift it. UserError when it is no push."""
        start, end = push_of(action, self.name)
        length = float(np.linalg.norm(end - start))
        if length < 1:
            return
        body = self.pymunk.Body(body_type=self.pymunk.Body.KINEMATIC)
        body.position = tuple(start)
        body.velocity = tuple((end - start) / length * SPEED)
        shape = self.tool(body, (end - start) / length)
        self.space.add(body, shape)
        for _ in range(round(length / SPEED / STEP)):
            self.space.step(STEP)
        self.space.remove(shape, body)
        for _ in range(REST):  # what was stretched or pressed comes to rest
            self.space.step(STEP)


class Rope(Material):
    """Thirty stiff pieces with springs between them, and a round tool."""

    name = "rope"

    def lay(self, rng: np.random.Generator) -> None:
        pymunk, angle = self.pymunk, rng.uniform(-np.pi, np.pi)
        turns = angle + np.cumsum(rng.normal(0, 0.12, SEGMENTS)) + rng.normal(0, 0.06) * np.arange(SEGMENTS)
        joints = np.concatenate([np.zeros((1, 2)), np.cumsum(_unit(turns) * SEGMENT, axis=0)])
        joints += np.clip(rng.uniform(180, TABLE - 180, 2), 0, TABLE) - joints.mean(0)
        joints += np.clip(20 - joints.min(0), 0, None) - np.clip(joints.max(0) - (TABLE - 20), 0, None)
        for place, turn in zip((joints[1:] + joints[:-1]) / 2, turns, strict=True):
            self.bodies.append(self._piece(place, float(turn)))
        for one, two in zip(self.bodies, self.bodies[1:], strict=False):
            pin = pymunk.PivotJoint(one, two, (SEGMENT / 2, 0), (-SEGMENT / 2, 0))
            pin.error_bias = FIRM
            spring = pymunk.DampedRotarySpring(one, two, 0.0, 4e3, 2e3)
            self.space.add(pin, spring, pymunk.RotaryLimitJoint(one, two, -0.7, 0.7))

    def _piece(self, place: NDArray, turn: float) -> object:
        pymunk = self.pymunk
        ends = (-SEGMENT / 2, 0), (SEGMENT / 2, 0)
        body = pymunk.Body(1.0, pymunk.moment_for_segment(1.0, *ends, THICK))
        body.angle = turn
        body.position = tuple(place)
        shape = pymunk.Segment(body, *ends, THICK)
        shape.friction = 0.3
        shape.filter = pymunk.ShapeFilter(group=1)  # the rope may lie across itself
        self.space.add(body, shape)
        return body

    def tool(self, body: object, direction: NDArray) -> object:
        return self.pymunk.Circle(body, 14.0)

    def points(self) -> NDArray[np.float64]:
        """The rope's joints and ends, float [31, 2]."""
        first = [tuple(self.bodies[0].local_to_world((-SEGMENT / 2, 0)))]
        return np.array(first + [tuple(body.local_to_world((SEGMENT / 2, 0))) for body in self.bodies])

    def frame(self, side: int) -> NDArray[np.uint8]:
        picture, places = Picture(side, CLOTH), self.points()
        picture.thread(places, THICK, ROPE)
        for place in (places[0], places[-1]):
            picture.disc(place, THICK + 1, ROPE_END)
        return picture.frame()


class Granular(Material):
    """A pile of a hundred grains of several sizes, and a bar across the push."""

    name = "granular"

    def lay(self, rng: np.random.Generator) -> None:
        pymunk, middle = self.pymunk, rng.uniform(170, TABLE - 170, 2)
        self.radii = rng.uniform(7, 13, DISCS)
        stretch = rng.uniform(45, 85, 2)
        for radius in self.radii:
            body = pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0, radius))
            body.position = tuple(np.clip(middle + rng.normal(0, 1, 2) * stretch, 20, TABLE - 20))
            shape = pymunk.Circle(body, radius)
            shape.friction = 0.6
            self.space.add(body, shape)
            self.bodies.append(body)
        for _ in range(60):
            self.space.step(STEP)

    def tool(self, body: object, direction: NDArray) -> object:
        across = 60.0 * np.array([-direction[1], direction[0]])
        return self.pymunk.Segment(body, tuple(-across), tuple(across), 5.0)

    def frame(self, side: int) -> NDArray[np.uint8]:
        picture = Picture(side, SAND)
        for number, (place, radius) in enumerate(zip(self.points(), self.radii, strict=True)):
            picture.disc(place, radius, GRAINS[number % len(GRAINS)])
        return picture.frame()


MATERIALS: dict[str, Callable[[], Material]] = {"rope": Rope, "granular": Granular}


def record_material(recording: TabletopRecording, number: int) -> Episode:
    """Episode ``number``; the last frame's action is the one that would have come next."""
    rng = np.random.default_rng((recording.seed, number))
    grade = grade_of(recording.seed, number, list(GRADES))
    material, frames, actions, moved = MATERIALS[recording.domain](), [], [], []
    material.reset(rng)
    while len(frames) < recording.most_frames:
        frames.append(material.frame(recording.height))
        before, error = material.points(), GRADES[grade]
        aim = None if error is None else before[rng.integers(len(before))]
        actions.append(random_push(rng, aim, error or 0.0, REACH))
        if len(frames) < recording.most_frames:
            material.act(actions[-1])
            moved.append(float(np.linalg.norm(material.points() - before, axis=1).mean()))
    facts = {"task": recording.domain, "policy": grade, "moved": round(float(np.mean(moved or [0.0])), 2)}
    return Episode(np.stack(frames), np.stack(actions), {**facts, "seed": [recording.seed, number]})


def _unit(angles: NDArray) -> NDArray[np.float64]:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _pymunk() -> object:
    try:
        import pymunk
    except ImportError as error:
        raise UserError(f"rope and granular need pymunk ({error}): run make setup again") from None
    return pymunk
