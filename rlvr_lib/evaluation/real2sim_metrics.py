"""How well success rates measured in a simulator or world model tell the real ones (spec G).

Mean absolute error, Pearson r, mean maximum rank violation and Spearman's rank correlation over policies, each with a
bootstrap interval over episodes. Where a judge read success from pictures, its own errors on held-out real episodes are
drawn anew as well, and rates are corrected for them (Rogan and Gladen's estimator), beside the raw ones.

Shapes: P policies, T tasks, E episodes, D bootstrap draws; K = P x T (or P) pairs that a metric compares.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rlvr_lib.evaluation.statistics import LEVEL, Interval

Array = NDArray[np.float64]


def mean_absolute_error(evaluated: Array, real: Array) -> Array:
    """Mean distance to the diagonal: rates [..., K] twice -> [...]."""
    return np.abs(evaluated - real).mean(-1)


def pearson(evaluated: Array, real: Array) -> Array:
    """SIMPLER's r: 1 if the two are identical after centring, else 1e-8 is added to the denominator."""
    a, b = (x - x.mean(-1, keepdims=True) for x in np.broadcast_arrays(evaluated, real))
    found = (a * b).sum(-1) / (np.sqrt((a**2).sum(-1) * (b**2).sum(-1)) + 1e-8)
    return np.where((a == b).all(-1), 1.0, found)


def mmrv(evaluated: Array, real: Array) -> Array:
    """Mean over i of max over j of |real_i - real_j| where sim_i > sim_j and real_i > real_j disagree (both strict)."""
    evaluated, real = np.broadcast_arrays(evaluated, real)
    higher, truly = (x[..., :, None] > x[..., None, :] for x in (evaluated, real))
    gap = np.abs(real[..., :, None] - real[..., None, :])
    return np.where(higher != truly, gap, 0.0).max(-1).mean(-1)


def spearman(evaluated: Array, real: Array) -> Array:
    """Pearson r of the ranks, ties at their mean rank."""
    return pearson(rankdata(evaluated, axis=-1), rankdata(real, axis=-1))


METRICS: dict[str, Callable[[Array, Array], Array]] = {
    "mae": mean_absolute_error,
    "pearson": pearson,
    "mmrv": mmrv,
    "spearman": spearman,
}


def rogan_gladen(rate: Array, sensitivity: Array, specificity: Array) -> Array:
    """The true rate behind a judge's rate, within [0, 1]; NaN where the judge tells nothing (sum of both at most 1)."""
    rate, sensitivity, specificity = (np.asarray(x, dtype=np.float64) for x in (rate, sensitivity, specificity))
    tells = sensitivity + specificity - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(tells > 0, np.clip((rate + specificity - 1) / tells, 0, 1), np.nan)


@dataclass(frozen=True, eq=False)
class Confusion:
    """What a judge says of held-out episodes: its scores (1, 0, undecided 0.5) of true successes and of failures."""

    of_successes: Array
    of_failures: Array

    def rates(self) -> tuple[float, float]:
        """Sensitivity and specificity; without episodes of a kind, NaN."""
        hit, alarm = (float(x.mean()) if len(x) else np.nan for x in (self.of_successes, self.of_failures))
        return hit, 1 - alarm

    def drawn(self, rng: np.random.Generator, draws: int) -> tuple[Array, Array]:
        """The same for ``draws`` bootstrap samples of the held-out episodes, [D] each."""
        hit, alarm = (_means(x, rng, draws) for x in (self.of_successes, self.of_failures))
        return hit, 1 - alarm


def _means(values: Array, rng: np.random.Generator, draws: int) -> Array:
    if not len(values):
        return np.full(draws, np.nan)
    return values[rng.integers(len(values), size=(draws, len(values)))].mean(-1)


class Draws:
    """Which episodes each bootstrap draw holds: how often each start, [D, T, E], the same for all simulators.

    Starts are shared, so that a hard one counts as often in the real world as in every copy of it.
    """

    def __init__(self, tasks: int, episodes: int, draws: int, seed: int):
        rng = np.random.default_rng(seed)
        self.counts = rng.multinomial(episodes, np.full(episodes, 1 / episodes), size=(draws, tasks))
        self.number, self.seed = draws, seed

    def rates(self, scores: Array) -> Array:
        """Scores [P, T, E] -> rates [1 + D, P, T]; the first is that of the episodes as they are."""
        drawn = np.einsum("dte,pte->dpt", self.counts, scores) / scores.shape[-1]
        return np.concatenate([scores.mean(-1)[None], drawn])

    def corrected(self, scores: Array, confusions: list[Confusion]) -> Array:
        """The same with every task's judge corrected for, its errors drawn anew in each draw."""
        rates, rng = self.rates(scores), np.random.default_rng((self.seed, 1))
        for task, confusion in enumerate(confusions):
            drawn = confusion.drawn(rng, self.number)
            hit, right = (
                np.concatenate([[now], later])[:, None] for now, later in zip(confusion.rates(), drawn, strict=True)
            )
            rates[:, :, task] = rogan_gladen(rates[:, :, task], hit, right)
        return rates


def interval(values: Array, n: int) -> Interval | None:
    """``values`` [1 + D], the estimate first -> its 95 % interval; None where it, or a twentieth, is no number."""
    sound = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(sound) < 0.95 * (len(values) - 1):
        return None
    low, high = np.quantile(sound, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values[0]), float(low), float(high), n)


def agreement(evaluated: Array, real: Array, n: int, metric: str) -> Interval | None:
    """A metric between rates [1 + D, ...] twice, all pairs together, with its interval."""
    evaluated, real = evaluated.reshape(len(evaluated), -1), real.reshape(len(real), -1)
    values = METRICS[metric](evaluated, real)
    return interval(np.where(np.isfinite(evaluated).all(-1), values, np.nan), n)  # NaN is neither above nor below


def closer(a: Array, b: Array, real: Array, n: int) -> Interval | None:
    """Mean absolute error of ``b`` minus that of ``a``, draw by draw: negative where ``b`` is closer to the real."""
    errors = [mean_absolute_error(x.reshape(len(x), -1), real.reshape(len(real), -1)) for x in (a, b)]
    return interval(errors[1] - errors[0], n)
