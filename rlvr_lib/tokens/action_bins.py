"""Robot actions as tokens: each dimension is cut into 256 equal bins between its smallest and largest value (A.2).

All arithmetic is float32, as in the paper's code: in float64 about one in nine values on bin edges lands elsewhere.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlvr_lib.artifacts import UserError

# Ranges over the whole RT-1 set, dimensions in the alphabetical order of their names.
RT1_RANGES = (
    ("base_displacement_vector x", -0.39600885, 0.39600182),
    ("base_displacement_vector y", -0.00963103, 0.00367673),
    ("base_displacement_vertical_rotation", -0.40004528, 0.39991137),
    ("gripper_closedness_action", -1.0, 1.0),
    ("rotation_delta 0", -1.56991792, 1.57063651),
    ("rotation_delta 1", -1.56989217, 1.53210866),
    ("rotation_delta 2", -1.57041943, 1.56915224),
    ("terminate_episode 0", 0.0, 1.0),
    ("terminate_episode 1", 0.0, 1.0),
    ("terminate_episode 2", 0.0, 1.0),
    ("world_vector 0", -2.02045202, 2.99845934),
    ("world_vector 1", -5.49789953, 22.09052849),
    ("world_vector 2", -2.03166342, 2.75075245),
)


@dataclass(frozen=True, eq=False)
class ActionBins:
    """``low`` and ``high`` float32 [A]; ``source`` says whose ranges they are: ``rt1`` or ``measured``."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    bins: int = 256
    source: str = "measured"

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        if self.low.ndim != 1 or self.low.shape != self.high.shape or not (self.low <= self.high).all():
            raise UserError("action ranges: low and high must be vectors of one length with low <= high")

    @classmethod
    def rt1(cls) -> Self:
        """The ranges of RT-1, thirteen dimensions (they include its test set, trap H.16)."""
        return cls([low for _, low, _ in RT1_RANGES], [high for _, _, high in RT1_RANGES], source="rt1")

    @classmethod
    def measured(cls, actions: ArrayLike) -> Self:
        """Smallest and largest value per dimension of float [N, A]; give it training actions only."""
        values = np.asarray(actions, dtype=np.float32)
        if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
            raise UserError(f"action ranges: need finite actions [N, A], got shape {values.shape}")
        return cls(values.min(0), values.max(0))

    @property
    def dims(self) -> int:
        return len(self.low)

    def to_bins(self, actions: ArrayLike) -> NDArray[np.int64]:
        """float [..., A] -> int64 [..., A] in 0..bins-1; outside values go to the end bins, NaN is an error."""
        share = np.float32(self.bins) * self._share(actions)
        return np.minimum(np.floor(share), self.bins - 1).astype(np.int64)

    def scaled(self, actions: ArrayLike) -> NDArray[np.float32]:
        """float [..., A] -> float32 [..., A] in [-1, 1], for models that read numbers; NaN is an error."""
        return 2 * self._share(actions) - 1

    def _share(self, actions: ArrayLike) -> NDArray[np.float32]:
        """Where in its range each number lies, in [0, 1]."""
        values = np.asarray(actions, dtype=np.float32)
        if values.shape[-1:] != (self.dims,):
            raise UserError(f"actions have {values.shape[-1:]} dimensions, the ranges {self.dims}")
        if not np.isfinite(values).all():
            raise UserError("actions hold NaN or infinite values: repair or leave out the episode")
        share = (values - self.low) / (self.high - self.low + np.float32(1e-8))
        return share.clip(0, 1)

    @property
    def centres(self) -> NDArray[np.float32]:
        """float32 [bins, A]: the middle of each bin, the action that a bin stands for when it is read back."""
        steps = (np.arange(self.bins, dtype=np.float32) + np.float32(0.5)) / np.float32(self.bins)
        return self.low + steps[:, None] * (self.high - self.low)

    def outside(self, actions: ArrayLike) -> int:
        """How many values lie outside the ranges (they are clipped): to be reported by whoever discretises."""
        values = np.asarray(actions, dtype=np.float32)
        return int(((values < self.low) | (values > self.high)).sum())

    def to_dict(self) -> dict:
        """Plain values for a manifest; :meth:`from_dict` reads them back."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "bins": self.bins, "source": self.source}

    @classmethod
    def from_dict(cls, data: dict) -> Self:
        return cls(**data)
