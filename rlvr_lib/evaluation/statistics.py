"""Means with 95 % bootstrap intervals, and paired differences between two models on the same cases.

The paper prints single numbers without intervals; every number of ours carries one (a claim counts as
reproduced only when its interval excludes no effect). Percentile bootstrap over held-out cases: cases are drawn with
replacement, the mean is taken, and the interval spans the central 95 % of those means. With ``groups`` whole groups
(say, all cases of one game layout) are drawn instead, which is the honest choice when cases of a group resemble each
other. Neither covers the spread between training seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
LEVEL = 0.95
_CHUNK = 2_000_000  # resampled numbers held in memory at a time (16 MB)
_FEW = 64  # up to this many distinct rows, drawing their counts is cheaper than drawing every case


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval over ``n`` cases, in the unit of the values (fractions, not percent)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """True when the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def text(self, scale: float = 100, digits: int = 1, sign: bool = False) -> str:
        """``57.0 [55.2, 58.8]``: all three numbers times ``scale``; ``sign`` prints a plus where due (differences)."""
        form = f"{'+' if sign else ''}.{digits}f"
        # Adding 0.0 after rounding turns "-0.0" into "0.0".
        mean, low, high = (format(round(scale * x, digits) + 0.0, form) for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def __format__(self, spec: str) -> str:
        """Format each number with ``spec``: ``f"{interval:.3f}"`` is ``0.570 [0.552, 0.588]``; default ``.3f``."""
        mean, low, high = (format(x, spec or ".3f") for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self, "")


def bootstrap_mean(
    values: ArrayLike, seed: int, draws: int = DRAWS, groups: Sequence[Any] | ArrayLike | None = None
) -> Interval:
    """Mean of ``values`` (N,) with its 95 % percentile interval.

    ``groups`` (N,), if given, names each case's group; whole groups are resampled and ``n`` stays the number of
    cases. The same values, seed and draws give the same interval. Raises ValueError for no values or non-finite ones.
    """
    values = _checked(values)
    weights = np.ones_like(values)
    sums, sizes = (values, weights) if groups is None else _group_sums(values, weights, groups)
    means = _resampled_means(sums, sizes, np.random.default_rng(seed), draws)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def paired_difference(
    a: ArrayLike, b: ArrayLike, seed: int, draws: int = DRAWS, groups: Sequence[Any] | ArrayLike | None = None
) -> Interval:
    """Mean of ``b - a`` over the same cases (N,) with its interval: positive means that ``b`` is higher.

    Pairing removes the spread that both share, because some cases are hard for every model. Raises ValueError when
    the lengths differ; the caller sees to equal order.
    """
    a, b = _checked(a), _checked(b)
    if len(a) != len(b):
        raise ValueError(f"paired_difference needs the same cases twice, got {len(a)} and {len(b)} values")
    return bootstrap_mean(b - a, seed, draws, groups)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"a bootstrap needs a non-empty list of numbers, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("a bootstrap needs finite numbers; drop missing cases first")
    return array


def _group_sums(values: NDArray, weights: NDArray, groups: Any) -> tuple[NDArray, NDArray]:
    """Sum and size of every group (M,), in the order of the sorted group names."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    if len(index) != len(values):
        raise ValueError(f"{len(values)} values but {len(index)} group names")
    return np.bincount(index, weights=values), np.bincount(index, weights=weights)


def _resampled_means(sums: NDArray, sizes: NDArray, rng: np.random.Generator, draws: int) -> NDArray:
    """Means (draws,) of resampled units (M,), each given by the sum and the number of its cases.

    Exact answers are zeros and ones, so usually few distinct units exist: then only how often each kind is drawn
    matters, a multinomial count, which is the same bootstrap at a hundredth of the work.
    """
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    total = len(sums)
    if len(kinds) <= _FEW:
        drawn = rng.multinomial(total, counts / total, size=draws) @ kinds
        return drawn[:, 0] / drawn[:, 1]
    means = []
    rows = max(1, _CHUNK // total)
    for start in range(0, draws, rows):
        picked = rng.integers(0, total, size=(min(rows, draws - start), total))
        means.append(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1))
    return np.concatenate(means)
