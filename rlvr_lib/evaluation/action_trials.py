"""Does a world model mind its actions? Unusual behaviour, and several actions from one history (ours, not the paper's).

Unusual behaviour is scored like any segment. For actions from one history the question is whether predictions differ
as the simulator's frames do: by the cosine between both differences from their mean over the actions (1: the same
change, 0: the action does not matter), and by the displacement of what moves.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rlvr_lib.evaluation.video import CHANGED
from rlvr_lib.evaluation.video_scores import COPY, reference_predictions, segment_scores
from rlvr_lib.profile import Profile
from rlvr_lib.tokens.video_task import VideoTask
from rlvr_lib.training.video_pretrain import predict
from rlvr_lib.worlds.drawer_trials import ACTIONS, Branches
from rlvr_lib.worlds.perceptual import Perceptual
from rlvr_lib.worlds.video_clips import Clip
from rlvr_lib.worlds.video_episodes import Episode
from rlvr_lib.worlds.video_segments import to_float

FARTHEST = 8  # pixels that a displacement is looked for in, each way


def unusual_scores(
    models: Mapping[str, LlamaForCausalLM],
    task: VideoTask,
    episodes: Mapping[str, Sequence[Episode]],
    profile: Profile,
    distance: Perceptual,
) -> pd.DataFrame:
    """One row per (behaviour, model, segment), and the row that copies the last frame through the tokenizer."""
    settings, tables = profile.video.evaluation, []
    options = {"temperature": settings.temperature, "top_k": settings.top_k, "batch": settings.batch}
    for kind, short in episodes.items():
        some = [Clip(to_float(episode.frames), episode.actions) for episode in short]
        frames = {COPY: reference_predictions(task, some)[COPY]}
        frames |= {name: predict(model, task, some, seed=profile.seed, **options) for name, model in models.items()}
        for name, predicted in frames.items():
            scores = segment_scores(task.truth(some), predicted, distance)
            tables.append(scores.assign(behaviour=kind, model=name, segment=range(len(some))))
    return pd.concat(tables, ignore_index=True)


def obedience(
    models: Mapping[str, LlamaForCausalLM], task: VideoTask, found: Sequence[Branches], profile: Profile
) -> pd.DataFrame:
    """One row per (model, history, action): agreement with the simulator, true and predicted displacement in pixels."""
    clips = [clip for one in found for clip in one.clips()]
    settings, rows = profile.video.evaluation, []
    still = reference_predictions(task, clips)[COPY][:, 0].unflatten(0, (len(found), -1))
    for name, model in models.items():
        options = {"temperature": settings.temperature, "top_k": settings.top_k, "batch": settings.batch}
        frames = predict(model, task, clips, seed=profile.seed, **options)[:, 0].unflatten(0, (len(found), -1))
        for number, (one, predicted, copied) in enumerate(zip(found, frames.cpu(), still.cpu(), strict=True)):
            rows += _rows(one, predicted, copied[0], {"model": name, "history": number})
    return pd.DataFrame(rows)


def _rows(one: Branches, predicted: Tensor, last: Tensor, head: dict) -> list[dict]:
    outcomes, now = to_float(one.outcomes), to_float(one.history[-1:])[0]
    agreement = agreements(outcomes, predicted)
    mask = ((outcomes - now).abs().amax((0, 1)) > CHANGED).numpy()
    rows = []
    for place, action in enumerate(ACTIONS):
        true = displacement(now, outcomes[place], mask)
        guess = displacement(last, predicted[place], mask)
        moved = {"true_x": true[0], "true_y": true[1], "x": guess[0], "y": guess[1]}
        rows.append({**head, "action": action, "agreement": float(agreement[place]), **moved})
    return rows


def agreements(truth: Tensor, predicted: Tensor) -> Tensor:
    """Frames after each of M actions, twice [M, 3, H, W] -> the cosine of each action's own change, [M] in [-1, 1].

    An action's own change is its frame minus the mean over the actions. Equal predictions agree by 0.
    """
    pair = [(frames - frames.mean(0, keepdim=True)).flatten(1).double() for frames in (truth, predicted)]
    return torch.nn.functional.cosine_similarity(*pair, dim=1, eps=1e-9)


def displacement(before: Tensor, after: Tensor, mask: np.ndarray, most: int = FARTHEST) -> tuple[int, int]:
    """Whole pixels (right, down) by which the masked pixels [H, W] of ``before`` [3, H, W] are found in ``after``.

    The shift of least mean absolute difference, the smallest of equals; pixels shifted out of the picture do not count.
    (0, 0) without a mask.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0, 0
    first, second = before.numpy()[:, rows, columns], after.numpy()
    height, width = second.shape[1:]
    shifts = [(dx, dy) for dx in range(-most, most + 1) for dy in range(-most, most + 1)]
    shifts.sort(key=lambda shift: shift[0] ** 2 + shift[1] ** 2)

    def error(shift: tuple[int, int]) -> float:
        at, along = rows + shift[1], columns + shift[0]
        inside = (at >= 0) & (at < height) & (along >= 0) & (along < width)
        if inside.sum() < len(rows) / 2:
            return float("inf")
        return float(np.abs(second[:, at[inside], along[inside]] - first[:, inside]).mean())

    return min(shifts, key=error)


__all__ = ["agreements", "displacement", "obedience", "unusual_scores"]
