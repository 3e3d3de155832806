"""What PushT, rope and granular share: a table of 512 x 512 units seen from above, its pictures, its recordings.

Pictures are drawn with Pillow at four times their size and averaged down, so that edges are smooth and a shape that
moves by a part of a pixel changes the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from rlvr_lib.artifacts import UserError

TABLE = 512.0
FINER = 4  # drawn that many times larger
GENERATOR = 1  # raise it when equal settings no longer give equal episodes
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class TabletopRecording:
    """What decides about the content of a set; two sets with equal values are equal, file by file."""

    domain: str
    seed: int
    height: int = 64
    width: int = 64
    frame_every: int = 1
    most_frames: int = 20
    renderer: str = "pillow"
    generator: int = GENERATOR

    def __post_init__(self) -> None:
        if self.height != self.width:
            raise UserError(f"{self.domain}: the table is square, so frames must be: {self.height} x {self.width}")


class Picture:
    """A drawing of the table; places and radii in table units."""

    def __init__(self, side: int, background: Colour):
        self.scale = FINER * side / TABLE
        self.image = Image.new("RGB", (FINER * side, FINER * side), background)
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, corners: ArrayLike, colour: Colour) -> None:
        """Filled; corners float [n, 2]."""
        self.draw.polygon([tuple(corner) for corner in np.asarray(corners) * self.scale], fill=colour)

    def disc(self, centre: ArrayLike, radius: float, colour: Colour) -> None:
        x, y = np.asarray(centre) * self.scale
        r = radius * self.scale
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def thread(self, places: ArrayLike, radius: float, colour: Colour) -> None:
        """A line through places float [n, 2], with round ends and joints."""
        points = [tuple(place) for place in np.asarray(places) * self.scale]
        self.draw.line(points, fill=colour, width=round(2 * radius * self.scale), joint="curve")
        for place in (places[0], places[-1]):
            self.disc(place, radius, colour)

    def frame(self) -> NDArray[np.uint8]:
        """uint8 [side, side, 3]."""
        return np.asarray(self.image.reduce(FINER)).copy()


def push_of(action: ArrayLike, name: str) -> NDArray[np.float64]:
    """A push of four numbers in [-1, 1] (from x, y to x, y) in table units, float [2, 2]; UserError for others."""
    values = np.asarray(action, dtype=np.float64)
    if values.shape != (4,) or not np.isfinite(values).all() or np.abs(values).max() > 1:
        raise UserError(f"{name}: a push is four numbers from -1 to 1 (start x, y, end x, y), not {values.tolist()}")
    return (values.reshape(2, 2) + 1) / 2 * TABLE


def action_of(push: ArrayLike) -> NDArray[np.float32]:
    """The inverse of :func:`push_of`: start and end in table units -> float32 [4]; outside is brought to the rim."""
    return (np.clip(np.asarray(push), 0, TABLE) / TABLE * 2 - 1).astype(np.float32).reshape(4)


def random_push(rng: np.random.Generator, aim: NDArray | None, error: float, reach: float) -> NDArray[np.float32]:
    """A push of ``reach`` units through ``aim``, missed by ``error`` (standard deviation); without ``aim`` any push."""
    if aim is None:
        return action_of(rng.uniform(0.05, 0.95, (2, 2)) * TABLE)
    middle = aim + rng.normal(0, error, 2)
    angle = rng.uniform(0, 2 * np.pi)
    half = reach / 2 * np.array([np.cos(angle), np.sin(angle)])
    return action_of([middle - half, middle + half])


def grade_of(seed: int, number: int, grades: Sequence[str]) -> str:
    """The grade of episode ``number``: each once in every block of as many episodes, in an order of the block's own.

    In a fixed order every n-th episode, which is how test sets are drawn (A.1), would always be of the same grade.
    """
    block, place = divmod(number, len(grades))
    return grades[np.random.default_rng((seed, block, len(grades))).permutation(len(grades))[place]]
