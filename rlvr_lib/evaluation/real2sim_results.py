"""Figure 5 as numbers with intervals, from the episodes' rows and the judge's held-out ones; no model is needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.real2sim import REAL
from rlvr_lib.evaluation.real2sim_metrics import METRICS, Array, Confusion, Draws, agreement, closer, interval
from rlvr_lib.evaluation.statistics import Interval
from rlvr_lib.training.success_judge import CAMERA, SCORES, UNDECIDED

JUDGED = "real, judged from pictures"
COLUMNS = ("simulator", "policy", "task", "episode", "success", "frames", "bad_actions", "probability", "verdict")
ALL = "all tasks"


def scores_of(verdicts: pd.Series) -> Array:
    """1 for success, 0 for failure, one half for undecided."""
    return verdicts.map(SCORES).to_numpy(float)


@dataclass(eq=False)
class Real2SimResults:
    """What Figure 5 shows. Names are in the order of the table's rows.

    Rates are arrays [1 + D, P, T]: the estimate, then D bootstrap draws, of P policies and T tasks.
    """

    episodes: pd.DataFrame
    judged: pd.DataFrame
    draws: Draws
    decides: str  # the hand-made simulator that claim C13 is decided against
    scores: dict[str, Array] = field(default_factory=dict)  # simulator -> [P, T, E]

    @classmethod
    def read(cls, folder: Path, seed: int) -> "Real2SimResults":
        """From episodes.csv, judge.csv and about.csv; UserError naming the file when one is not as it should be."""
        (about,) = _table(folder / "about.csv", ("decides", "bootstrap_draws")).to_dict("records")
        episodes, judged = _table(folder / "episodes.csv", COLUMNS), _table(folder / "judge.csv", ("task", "look"))
        real = episodes[episodes["simulator"] == REAL]
        seen = real.assign(simulator=JUDGED, success=scores_of(real["verdict"]))
        episodes = pd.concat([episodes, seen], ignore_index=True)
        tasks, number = episodes["task"].nunique(), episodes["episode"].nunique()
        draws = Draws(tasks, number, about["bootstrap_draws"], seed)
        if (folder / "published.csv").exists():
            published = _table(folder / "published.csv", ("policy", "real_open", "real_close", "trials"))
            results: Real2SimResults = PublishedResults(episodes, judged, draws, about["decides"], published=published)
        else:
            results = cls(episodes, judged, draws, about["decides"])
        for name in dict.fromkeys(episodes["simulator"]):
            results.scores[name] = results._array(name, folder)
        return results

    def _array(self, simulator: str, folder: Path) -> Array:
        rows = self.episodes[self.episodes["simulator"] == simulator]
        shape = (len(self.policies), len(self.tasks), self.episodes["episode"].nunique())
        order = [pd.Categorical(rows[name], categories=names) for name, names in
                 (("policy", self.policies), ("task", self.tasks))]  # fmt: skip
        rows = rows.assign(policy=order[0], task=order[1]).sort_values(["policy", "task", "episode"])
        if len(rows) != np.prod(shape) or rows[["policy", "task", "episode"]].duplicated().any():
            raise UserError(f"{folder}: {simulator} lacks episodes or has one twice; run notebook 37 again")
        return rows["success"].to_numpy(float).reshape(shape)

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(self.episodes["policy"]))

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(self.episodes["task"]))

    @property
    def compared(self) -> list[str]:
        """The panels of the figure."""
        return self.tasks

    @property
    def evaluated(self) -> list[str]:
        """Everything that stands on the y-axis, in the order of the episodes."""
        return [name for name in self.scores if name != REAL]

    def is_judged(self, simulator: str) -> bool:
        """Whether success was read from pictures there."""
        rows = self.episodes[self.episodes["simulator"] == simulator]
        return simulator != REAL and len(rows) > 0 and bool(rows["verdict"].notna().all())

    def confusion(self, task: str, look: str = CAMERA) -> Confusion:
        """The judge on held-out real episodes of a task."""
        rows = self.judged[(self.judged["task"] == task) & (self.judged["look"] == look)]
        truth = rows["success"].astype(bool)
        return Confusion(scores_of(rows[truth]["verdict"]), scores_of(rows[~truth]["verdict"]))

    def rates(self, simulator: str, corrected: bool = True) -> Array:
        """Success rates [1 + D, P, T]; judged ones corrected for the judge's errors unless ``corrected`` is False."""
        if corrected and self.is_judged(simulator):
            return self._corrected[simulator]
        return self.draws.rates(self.scores[simulator])

    @cached_property
    def _corrected(self) -> dict[str, Array]:
        confusions = [self.confusion(task) for task in self.tasks]
        judged = [name for name in self.evaluated if self.is_judged(name)]
        return {name: self.draws.corrected(self.scores[name], confusions) for name in judged}

    def rate(self, simulator: str, policy: str, task: str, corrected: bool = True) -> Interval | None:
        """One point of the figure with its interval."""
        rates = self.rates(simulator, corrected)[:, self.policies.index(policy), self.compared.index(task)]
        return interval(rates, self._episodes(simulator, task) // len(self.policies))

    def metric(self, name: str, simulator: str, task: str = ALL, corrected: bool = True) -> Interval | None:
        """``mae``, ``pearson``, ``mmrv`` or ``spearman`` of a simulator on one task, or over all policy-task pairs."""
        pick = slice(None) if task == ALL else [self.compared.index(task)]
        evaluated, real = self.rates(simulator, corrected)[:, :, pick], self.rates(REAL)[:, :, pick]
        return agreement(evaluated, real, self._episodes(simulator, task), name)

    def gain(self, a: str, b: str, corrected: bool = True) -> Interval | None:
        """Mean absolute error of ``b`` minus that of ``a``, all policies and tasks: negative where ``b`` is closer."""
        return closer(self.rates(a, corrected), self.rates(b, corrected), self.rates(REAL), self._episodes(b, ALL))

    def _episodes(self, simulator: str, task: str) -> int:
        size = self.scores[simulator].size
        return size if task == ALL else size // len(self.compared)

    def oddities(self, simulator: str) -> dict[str, float]:
        """Episodes that were undecided, had actions that are no numbers, or sampled ids that are no code; all: n."""
        rows = self.episodes[self.episodes["simulator"] == simulator]
        found = {"undecided": float((rows["verdict"] == UNDECIDED).sum()) if self.is_judged(simulator) else np.nan}
        found["bad_actions"] = float((rows["bad_actions"] > 0).sum())
        ids = rows["invalid_ids"] if "invalid_ids" in rows else pd.Series(np.nan, rows.index)
        return found | {"invalid_ids": float((ids > 0).sum()) if ids.notna().any() else np.nan, "n": float(len(rows))}


@dataclass(eq=False)
class PublishedResults(Real2SimResults):
    """RT-1: real rates, and those of hand-made simulators, are published averages over drawers (spec G).

    Real rates are drawn as binomial counts of their trials; simulators' have no interval. World models' rates are
    averaged over the commands.
    """

    published: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def compared(self) -> list[str]:
        return [f"drawers, mean of {len(self.tasks)} commands"]

    @property
    def hand_made(self) -> list[str]:
        return [name for name in self.published if name not in ("policy", "real_open", "real_close", "trials")]

    @property
    def evaluated(self) -> list[str]:
        return [*self.hand_made, *self.scores]

    def rates(self, simulator: str, corrected: bool = True) -> Array:
        """[1 + D, P, 1], policies in the order of the episodes."""
        rows = self.published.set_index("policy").loc[self.policies]
        if simulator == REAL:
            parts = [
                self._trials(rows[column], rows["trials"], at) for at, column in enumerate(("real_open", "real_close"))
            ]
            return np.mean(parts, axis=0)
        if simulator in self.hand_made:
            return np.repeat(rows[simulator].to_numpy(float)[None, :, None], self.draws.number + 1, 0)
        return super().rates(simulator, corrected).mean(-1, keepdims=True)

    def _trials(self, rates: pd.Series, trials: pd.Series, stream: int) -> Array:
        rng = np.random.default_rng((self.draws.seed, 2, stream))
        drawn = rng.binomial(trials.to_numpy(int), rates.to_numpy(float), (self.draws.number, len(rates)))
        return np.concatenate([rates.to_numpy(float)[None], drawn / trials.to_numpy(float)])[..., None]

    def _episodes(self, simulator: str, task: str) -> int:
        if simulator in self.scores:
            return self.scores[simulator].size
        return 2 * int(self.published["trials"].sum())


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"verdict": "object"})
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error}); run notebook 37 again") from None
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        raise UserError(f"{path}: {f'no column {missing[0]}' if missing else 'no rows'}; run notebook 37 again")
    return table


__all__ = ["ALL", "JUDGED", "METRICS", "Real2SimResults", "scores_of"]
