"""Claims about robot video: RLVR against the base (C5, C6), rejecting repeated samples (C7), more likelihood (C8).

Paired over the same held-out segments. MSE, MAE, SSIM and the perceptual metric are in hundredths, as
the paper's tables are; PSNR is in dB, repetition in percentage points.
"""

from typing import Any

import numpy as np
import pandas as pd

from rlvr_lib.evaluation.statistics import paired_difference
from rlvr_lib.evaluation.video import LONGER, REJECTION
from rlvr_lib.report.claims import INCONCLUSIVE, Evidence, Outcome, Part, claim, verdict
from rlvr_lib.report.video_tables import perceptual_column, read_video_scores

EVALUATION = "video_evaluation"
HIGHER = {"psnr": True, "ssim": True}
SHARED_NOISE = "repetition, one noise for a whole rollout (the released evaluator's way)"


@claim("C5")
def single_step_gains(evidence: Evidence) -> Outcome:
    """Every metric of the single-step model with RLVR minus the base."""
    return _compare(evidence, "single_step", "base", "RLVR")


@claim("C6")
def multi_step_gains(evidence: Evidence) -> Outcome:
    """The same for seven frames, and the repetition rate; beside it that under one noise for a whole rollout (H.4)."""
    parts, why = _compare(evidence, "multi_step", "base", "RLVR", repetition=True)
    shared = _shared_noise(evidence)
    return [*parts, *([shared] if parts and shared else [])], why


def _shared_noise(evidence: Evidence) -> Part | None:
    """Repetition of the last pair of frames, RLVR minus base, sampled as the released evaluator does."""
    path = evidence.runs / EVALUATION / "repetition.csv"
    if not path.exists():
        return None
    rows = pd.read_csv(path)
    last = rows[(rows["noise"] == "shared") & (rows["frame"] == rows["frame"].max())]
    return score_part(last, "repeats", "base", "RLVR", evidence.seed, SHARED_NOISE, decides=False)


@claim("C7")
def rejection_helps_less(evidence: Evidence) -> Outcome:
    """Perceptual metric of RLVR minus the base with repeated samples drawn again; what rejection brings, beside."""
    frame = _scores(evidence, "multi_step")
    if isinstance(frame, str):
        return [], frame
    name = f"base{REJECTION}"
    if name not in set(frame["model"]):
        return [], "no sample of the base was drawn again"
    metric = perceptual_column(frame)
    part = score_part(frame, metric, name, "RLVR", evidence.seed, f"{metric}, RLVR minus rejection")
    beside = score_part(frame, metric, "base", name, evidence.seed, f"{metric}, rejection minus base", decides=False)
    return [part, beside], ""


@claim("C8")
def likelihood_goes_on(evidence: Evidence) -> Outcome:
    """Perceptual metric of RLVR minus the base after a third more likelihood, and after likelihood for RLVR's time."""
    frame = _scores(evidence, "multi_step")
    if isinstance(frame, str):
        return [], frame
    third, same_time = LONGER.values()
    if third not in set(frame["model"]):
        return [], "the base has not been trained further"
    metric = perceptual_column(frame)
    parts = [score_part(frame, metric, third, "RLVR", evidence.seed, f"{metric}, RLVR minus a third more likelihood")]
    parts += [
        score_part(frame, metric, "base", third, evidence.seed, f"{metric}, a third more minus base", decides=False)
    ]
    if same_time in set(frame["model"]):
        words = f"{metric}, RLVR minus likelihood for RLVR's time"
        parts.insert(1, score_part(frame, metric, same_time, "RLVR", evidence.seed, words))
    return parts, ""


def _compare(evidence: Evidence, kind: str, a: str, b: str, repetition: bool = False) -> Outcome:
    frame = _scores(evidence, kind)
    if isinstance(frame, str):
        return [], frame
    parts = [score_part(frame, "repetition", a, b, evidence.seed, "repetition")] if repetition else []
    names = {"mse": "MSE", "psnr": "PSNR", "ssim": "SSIM", perceptual_column(frame): perceptual_column(frame)}
    parts += [score_part(frame, column, a, b, evidence.seed, name) for column, name in names.items()]
    parts += [score_part(frame, "mae", a, b, evidence.seed, "MAE", decides=False)]
    greedy = score_part(
        frame, perceptual_column(frame), f"{a}, greedy", f"{b}, greedy", evidence.seed, "both decoded greedily"
    )
    return [*parts, _context(greedy)], ""


def _context(part: Part) -> Part:
    return Part(part.name, part.interval, part.verdict, unit=part.unit, decides=False)


def _scores(evidence: Evidence, kind: str) -> pd.DataFrame | str:
    """Scores of a kind, or why there are none."""
    path = evidence.runs / EVALUATION / f"{kind}.csv"
    if not path.exists():
        return "no RLVR model has been evaluated yet"
    frame = read_video_scores(path)
    missing = {"base", "RLVR"} - set(frame["model"])
    return f"no scores of {sorted(missing)[0]}" if missing else frame


def score_part(frame: pd.DataFrame, column: str, a: str, b: str, seed: int, name: str, decides: bool = True) -> Part:
    """Row ``b`` minus row ``a`` of per-segment scores in one column, paired over segments, with its verdict."""
    values: list[Any] = [
        frame[frame["model"] == model].set_index("segment").sort_index()[column].to_numpy(float) for model in (a, b)
    ]
    if len(values[0]) != len(values[1]) or not len(values[0]) or np.isnan(values).any():
        return Part(name, None, INCONCLUSIVE, decides=decides)
    gap = paired_difference(values[0], values[1], seed)
    higher = HIGHER.get(column, False)
    unit: Any = {"psnr": "plain", "repetition": "points", "repeats": "points"}.get(column, "hundredths")
    return Part(name, gap, verdict(gap, higher), unit=unit, decides=decides)
