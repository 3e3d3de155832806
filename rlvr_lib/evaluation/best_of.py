"""Test-time scaling (F.4): how good the best of N sampled predictions is, the best picked with the truth at hand.

Every metric picks its own winner. From S samples of a segment the expected best of n <= S is known without drawing
again: with values sorted from the best, the i-th (from 0) is the best of a random subset of n with probability
C(S - 1 - i, n - 1) / C(S, n).
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from rlvr_lib.evaluation.statistics import bootstrap_mean
from rlvr_lib.evaluation.video_scores import group_scores, metric_columns
from rlvr_lib.progress import track
from rlvr_lib.tokens.video_task import VideoTask
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.perceptual import Perceptual
from rlvr_lib.worlds.video_clips import Clip
from rlvr_lib.worlds.video_metrics import HIGHER_IS_BETTER

ROWS = 400  # predictions sampled at a time


def expected_best(values: NDArray[np.float64], n: int, higher: bool = False) -> NDArray[np.float64]:
    """Values of S samples [segments, S] -> the expected best of n of them [segments]. ValueError unless 1 <= n <= S."""
    samples = values.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"the best of {n} needs at least as many samples, not {samples}")
    ordered = np.sort(-values if higher else values, axis=1)
    weights = np.array([math.comb(samples - 1 - i, n - 1) / math.comb(samples, n) for i in range(samples)])
    best = ordered @ weights
    return -best if higher else best


def per_segment(frame: pd.DataFrame, model: str, metric: str, n: int) -> NDArray[np.float64]:
    """Rows (model, segment, sample, metrics ...) -> the expected best of ``n`` of a model's samples, per segment."""
    table = frame[frame["model"] == model].pivot(index="segment", columns="sample", values=metric)
    return expected_best(table.to_numpy(float), n, HIGHER_IS_BETTER.get(metric, False))


def best_of_curve(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Mean and 95 % interval over segments of the best of n, by model, metric and n."""
    samples, rows = int(frame["sample"].max()) + 1, []
    for model in frame["model"].unique():
        for metric in metric_columns(frame):
            for n in steps_of_n(samples):
                found = bootstrap_mean(per_segment(frame, model, metric, n), seed)
                facts = {"model": model, "metric": metric, "n": n}
                rows.append({**facts, "mean": found.mean, "low": found.low, "high": found.high, "segments": found.n})
    return pd.DataFrame(rows)


def crossing(curve: pd.DataFrame, metric: str, behind: str, ahead: str) -> int | None:
    """The first N at which ``behind`` is at least as good as ``ahead`` on the mean; None when it never is."""
    rows = curve[curve["metric"] == metric].pivot(index="n", columns="model", values="mean")
    sign = -1 if HIGHER_IS_BETTER.get(metric, False) else 1
    caught = rows.index[sign * (rows[behind] - rows[ahead]) <= 0]
    return int(caught[0]) if len(caught) else None


def steps_of_n(samples: int) -> list[int]:
    """N at which curves are drawn: 1, 2, 3, 5, 7, 10 and so on, and ``samples`` itself."""
    wanted = [step * 10**power for power in range(6) for step in (1, 2, 3, 5, 7)]
    return sorted({n for n in wanted if n < samples} | {samples})


def sampled_scores(
    model: LlamaForCausalLM,
    task: VideoTask,
    clips: Sequence[Clip],
    samples: int,
    distance: Perceptual,
    *,
    seed: int,
    first_clip: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    label: str = "best of N",
) -> dict[str, NDArray[np.float64]]:
    """``samples`` predictions of every clip, scored: each metric [clips, samples], mean over a prediction's frames.

    ``first_clip``: the first clip's number. A clip draws with random numbers of its own number, so that a part of the
    clips scores as it would among all.
    """
    step, parts = max(1, ROWS // samples), []
    for first in track(range(0, len(clips), step), -(-len(clips) // step), label, "batches"):
        some = clips[first : first + step]
        prompt, given = task.prompt(some), task.given(some)
        numbers = range(first_clip + first, first_clip + first + len(some))
        drawn = [np.random.default_rng((seed, number)).random((samples, task.layout.response)) for number in numbers]
        uniforms = torch.from_numpy(np.stack(drawn)).float().clamp(max=1 - 2**-24)  # float32 may round up to 1
        options = {"temperature": temperature, "top_k": top_k, "uniforms": uniforms}
        ids = sample_response(model, task.layout, prompt.to(model.device), given, group=samples, **options)
        frames = task.decode_groups(prompt, ids.unflatten(0, (len(some), samples)))
        parts.append(group_scores(task.truth(some), frames, distance))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


__all__ = [
    "best_of_curve",
    "crossing",
    "expected_best",
    "per_segment",
    "sampled_scores",
    "steps_of_n",
]
