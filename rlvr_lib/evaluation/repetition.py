"""The repetition study (spec H.4): does a world model stand still, and how much of that is the evaluator's noise?

The released evaluator asks for one frame at a time with the same seed, so the k-th id of every frame of every rollout
is drawn with the same random numbers. Two frames with similar distributions then come out equal far more often than
with fresh noise. Both ways are measured here, for every pair of neighbouring frames and not only for the last one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rlvr_lib.evaluation.statistics import bootstrap_mean
from rlvr_lib.profile import Profile
from rlvr_lib.tokens.video_layouts import MultiStepLayout
from rlvr_lib.tokens.video_task import MultiStepTask
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.video_clips import Clip

NOISES = ("independent", "shared")


def shared_race(layout: MultiStepLayout, seed: int) -> Tensor:
    """Exponential numbers [R, V] of a rollout in which every frame meets the same ones, position by position."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.empty(layout.tokens, layout.vocabulary).exponential_(generator=generator)
    race = torch.ones(layout.response, layout.vocabulary)
    race[layout.frame_at[1:] - layout.prompt] = frame
    return race


def standing_still(codes: Tensor, current: Tensor) -> np.ndarray:
    """Predicted codes [n, K, N] and those of the current frame [n, N] -> bool [n, K]: frame k equals the one before."""
    frames = torch.cat([current[:, None], codes], 1)
    return (frames[:, 1:] == frames[:, :-1]).all(-1).cpu().numpy()


def true_pairs(task: MultiStepTask, ids: Tensor) -> np.ndarray:
    """The same for the true tokens of whole sequences [n, S]."""
    frames = task.layout.visual(ids[:, task.layout.frame_at])
    return standing_still(frames[:, 1:], frames[:, 0])


def repetition_study(
    models: dict[str, LlamaForCausalLM], task: MultiStepTask, clips: Sequence[Clip], profile: Profile
) -> pd.DataFrame:
    """One row per (model, noise, frame, segment): ``repeats``; the truth has the noise ``none``.

    Sampled as the tables are: temperature and top-k of ``video.evaluation``.
    """
    settings, layout = profile.video.evaluation, task.layout
    ids = task.encode(clips)
    prompt, given = ids[:, : layout.prompt], task.given(clips)
    current = layout.visual(ids[:, layout.frame_at[0]])
    found = [_rows("truth", "none", true_pairs(task, ids))]
    for name, model in models.items():
        device = model.device
        for noise in NOISES:
            source = {"race": shared_race(layout, profile.seed)} if noise == "shared" else {}
            if noise == "independent":
                source = {"generator": torch.Generator().manual_seed(profile.seed)}
            options = {"temperature": settings.temperature, "top_k": settings.top_k, **source}
            response = sample_response(model, layout, prompt.to(device), given, **options)
            codes = layout.predicted(response).cpu()
            found.append(_rows(name, noise, standing_still(codes, current)))
    return pd.concat(found, ignore_index=True)


def _rows(model: str, noise: str, still: np.ndarray) -> pd.DataFrame:
    segments, frames = still.shape
    return pd.DataFrame(
        {
            "model": model,
            "noise": noise,
            "frame": np.tile(np.arange(1, frames + 1), segments),
            "segment": np.repeat(np.arange(segments), frames),
            "repeats": still.ravel().astype(float),
        }
    )


def repetition_curve(study: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share of repeating frames with its 95 % interval over segments, per model, noise and frame number."""
    rows = []
    for (model, noise, frame), part in study.groupby(["model", "noise", "frame"], sort=False):
        interval = bootstrap_mean(part["repeats"].to_numpy(), seed)
        facts = {"model": model, "noise": noise, "frame": frame, "n": len(part)}
        rows.append({**facts, "rate": interval.mean, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


__all__ = ["NOISES", "repetition_curve", "repetition_study", "shared_race", "standing_still", "true_pairs"]
