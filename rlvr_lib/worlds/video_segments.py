"""Which frames of an episode make a clip: training and evaluation segments, padding, colour jitter (A.1)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as color

REACH = 15  # how many frames before the segment its context frame may lie


@dataclass(frozen=True)
class Segment:
    """Frame indices of a clip: ``context`` (multi-step only) and ``frames`` [L]; a short episode repeats its last."""

    frames: NDArray[np.int64]
    context: int | None = None

    @property
    def indices(self) -> NDArray[np.int64]:
        """All indices in the clip's order: the context frame, if any, then the frames."""
        return self.frames if self.context is None else np.concatenate([[self.context], self.frames])


def training_segment(length: int, frames: int, rng: np.random.Generator, context: bool = False) -> Segment:
    """A random clip of an episode of ``length`` frames: start uniform, context uniform in [start - 15, start].

    An episode that is too short is read from a random start and padded, as the paper's RLVR loader does; pre-training
    draws another episode instead (the caller's business: compare ``length`` with ``frames``).
    """
    start = int(rng.integers(max(length - frames + 1, 1)))
    chosen = int(rng.integers(max(start - REACH, 0), start + 1)) if context else None
    return Segment(_padded(start, length, frames), chosen)


def evaluation_segment(length: int, frames: int, item: int, context: bool = False) -> Segment:
    """The one clip of test episode number ``item``: drawn from numpy's legacy generator seeded with that number."""
    rng = np.random.RandomState(item)
    start = rng.randint(max(length - frames + 1, 1))
    chosen = int(rng.randint(max(start - REACH, 0), start + 1)) if context else None
    return Segment(_padded(start, length, frames), chosen)


def _padded(start: int, length: int, frames: int) -> NDArray[np.int64]:
    if length < 1:
        raise ValueError("an episode without frames has no segment")
    return np.minimum(np.arange(start, start + frames), length - 1)


def to_float(frames: NDArray[np.uint8]) -> Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, -3).float().div_(255)


@dataclass(frozen=True)
class Jitter:
    """One random colour change for all frames of a clip (brightness, contrast, saturation 0.9 to 1.1, hue +-0.05)."""

    factors: tuple[float, float, float]
    hue: float
    order: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Jitter":
        factors = tuple(float(value) for value in rng.uniform(0.9, 1.1, 3))
        return cls(factors, float(rng.uniform(-0.05, 0.05)), tuple(int(step) for step in rng.permutation(4)))

    def __call__(self, frames: Tensor) -> Tensor:
        """float32 [..., 3, H, W] in [0, 1] -> the same, changed alike in every frame."""
        brightness, contrast, saturation = self.factors
        steps = (
            lambda image: color.adjust_brightness(image, brightness),
            lambda image: color.adjust_contrast(image, contrast),
            lambda image: color.adjust_saturation(image, saturation),
            lambda image: color.adjust_hue(image, self.hue),
        )
        for step in self.order:
            frames = steps[step](frames)
        return frames.clamp(0, 1)


def crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop: 0.8 to 1 of the area, aspect ratio log-uniform in 1 to 1.4 (A.1)."""
    for _ in range(10):
        area = height * width * rng.uniform(0.8, 1.0)
        aspect = np.exp(rng.uniform(np.log(1.0), np.log(1.4)))
        rows, columns = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if rows <= height and columns <= width:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return top, left, rows, columns
    return 0, 0, height, width
