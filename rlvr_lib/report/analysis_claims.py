"""Claims of Figure 4: group size (C9), one metric as the reward (C10), best of N (C11). All single-step.

Differences are in hundredths of the metric (PSNR in dB), paired over the same held-out segments.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from rlvr_lib.evaluation.best_of import per_segment
from rlvr_lib.evaluation.statistics import Interval, paired_difference
from rlvr_lib.evaluation.video_scores import metric_columns
from rlvr_lib.report.analysis_tables import BASE, TUNED, values
from rlvr_lib.report.claims import Evidence, Outcome, Part, claim, verdict
from rlvr_lib.worlds.video_metrics import HIGHER_IS_BETTER

BEST_OF = Path("video_best_of_evaluation/best_of.csv")
GROUP_SIZES = Path("video_group_size_evaluation/group_sizes.csv")
METRIC_REWARDS = Path("video_metric_reward_evaluation/metric_rewards.csv")
FEW = 5  # samples of the base that one sample of RLVR is held against


@claim("C9")
def larger_groups(evidence: Evidence) -> Outcome:
    """Perceptual metric of the largest group minus the smallest, after equal prompts; rollouts and time beside."""
    path = evidence.runs / GROUP_SIZES
    if not path.exists():
        return [], "no group sizes have been compared yet"
    frame = pd.read_csv(path)
    small, large = int(frame["size"].min()), int(frame["size"].max())
    words = f"G = {large} minus G = {small}"
    pairs = {
        key: group_difference(frame, key, small, large, evidence.seed) for key in ("prompts", "samples", "seconds")
    }
    return [
        Part(f"{words}, equal {key}", gap, verdict(gap, higher=False), decides=key == "prompts")
        for key, gap in pairs.items()
    ], ""


def group_difference(frame: pd.DataFrame, key: str, small: int, large: int, seed: int) -> Interval:
    """``large`` minus ``small`` where both have spent equally much of ``key``: as much as every training reached, on
    the line between the validations around it; mean over training seeds, paired over segments."""
    most = frame.groupby(["size", "seed"])[key].max().min()
    found = []
    for size in (small, large):
        trainings = frame[frame["size"] == size].groupby("seed")
        found.append(np.mean([validation_at(one, key, most) for _, one in trainings], axis=0))
    return paired_difference(found[0], found[1], seed)


def validation_at(training: pd.DataFrame, key: str, spent: float) -> np.ndarray:
    """What a training's segments had come to when it had spent so much of ``key``, [segments]."""
    curves, costs = (
        training.pivot(index="step", columns="segment", values="lpips"),
        training.groupby("step")[key].first(),
    )
    return np.array([np.interp(spent, costs, curves[segment]) for segment in curves])


@claim("C10")
def own_metric_is_best(evidence: Evidence) -> Outcome:
    """By each metric: the model rewarded with it minus the best of the other four (picked by their means)."""
    path = evidence.runs / METRIC_REWARDS
    if not path.exists():
        return [], "no models with a single metric as the reward have been trained yet"
    frame, parts = pd.read_csv(path), []
    for metric in metric_columns(frame):
        reward = metric if metric in set(frame["model"]) else "lpips"  # the perceptual column carries its trunk's name
        higher = HIGHER_IS_BETTER.get(metric, False)
        means = {
            name: values(frame, name, metric).mean() for name in frame["model"].unique() if name not in (BASE, reward)
        }
        rival = (max if higher else min)(means, key=lambda name: means[name])
        gap = paired_difference(values(frame, rival, metric), values(frame, reward, metric), evidence.seed)
        unit = "plain" if metric == "psnr" else "hundredths"
        parts.append(Part(f"{metric}, own minus {rival}", gap, verdict(gap, higher), unit=unit))
    return parts, ""


@claim("C11")
def few_samples(evidence: Evidence) -> Outcome:
    """One sample of RLVR against the best of five of the base, and whether that lead shrinks with N."""
    path = evidence.runs / BEST_OF
    if not path.exists():
        return [], "no best-of-N samples have been drawn yet"
    frame = pd.read_csv(path)
    if TUNED not in set(frame["model"]):
        return [], "no samples of the RLVR model"
    metric, samples = metric_columns(frame)[-1], int(frame["sample"].max()) + 1
    few = min(FEW, samples)
    best = {(model, n): per_segment(frame, model, metric, n) for model in (BASE, TUNED) for n in {1, few, samples}}
    one = paired_difference(best[BASE, few], best[TUNED, 1], evidence.seed)
    lead = [best[TUNED, n] - best[BASE, n] for n in (1, samples)]
    shrinks = paired_difference(lead[1], lead[0], evidence.seed)
    equal = paired_difference(best[BASE, 1], best[TUNED, 1], evidence.seed)
    at_most = paired_difference(best[BASE, samples], best[TUNED, samples], evidence.seed)
    cooler = {
        model: paired_difference(per_segment(frame, model, metric, 1), best[TUNED, 1], evidence.seed)
        for model in frame["model"].unique()
        if model not in (BASE, TUNED)
    }
    return [
        Part(f"{metric}, RLVR once minus the base's best of {few}", one, verdict(one, False)),
        Part(f"{metric}, RLVR's lead once minus its lead at {samples}", shrinks, verdict(shrinks, False)),
        Part(f"{metric}, RLVR minus base, once", equal, verdict(equal, False), decides=False),
        Part(f"{metric}, RLVR minus base, best of {samples}", at_most, verdict(at_most, False), decides=False),
        *(Part(f"{metric}, RLVR minus {m}, once", x, verdict(x, False), decides=False) for m, x in cooler.items()),
    ], ""


__all__ = ["few_samples", "group_difference", "larger_groups", "own_metric_is_best"]
