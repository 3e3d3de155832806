"""Scores of video predictions: per-segment values, reference rows, and `rlvr score video` for anybody's frames (F.1).

A segment is an array of K frames; every metric is taken per frame and averaged over the segment's frames, so that
intervals are over segments. Reference rows tell what a number means (F.6): the tokenizer's own ceiling, and copying the
last seen frame, raw and through the tokenizer.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.statistics import bootstrap_mean
from rlvr_lib.tokens.video_task import VideoTask
from rlvr_lib.worlds.perceptual import Perceptual
from rlvr_lib.worlds.video_clips import Clip
from rlvr_lib.worlds.video_metrics import FRAME_METRICS
from rlvr_lib.worlds.video_segments import to_float

CHUNK = 32
LEAST_SIDE = 32  # LPIPS halves a frame four times
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
COPY = "copy last frame, through the tokenizer"
CASES = ("model", "segment", "sample", "behaviour", "moving", "repetition")  # columns of score tables beside metrics


def segment_scores(truth: Tensor, prediction: Tensor, perceptual: Perceptual) -> pd.DataFrame:
    """Frames [n, K, 3, H, W] twice -> one row per segment: mse, mae, psnr, ssim, and the perceptual metric by name."""
    if truth.shape != prediction.shape:
        raise UserError(f"truth {list(truth.shape)} and prediction {list(prediction.shape)} must have one shape")
    return pd.DataFrame({name: one[:, 0] for name, one in group_scores(truth, prediction[:, None], perceptual).items()})


def group_scores(truth: Tensor, predictions: Tensor, perceptual: Perceptual) -> dict[str, np.ndarray]:
    """Frames [n, K, 3, H, W] and G predictions of each [n, G, K, 3, H, W] -> each metric's mean over K, [n, G]."""
    parts, step = [], max(1, CHUNK // predictions.shape[1])
    with torch.no_grad():
        for first in range(0, len(truth), step):
            some, groups = truth[first : first + step].float(), predictions[first : first + step].float().clamp(0, 1)
            values = {name: metric(some[:, None].expand_as(groups), groups) for name, metric in FRAME_METRICS.items()}
            values[perceptual.name] = perceptual.to_group(some, groups, exact=True)
            parts.append({name: value.mean(-1).double().cpu().numpy() for name, value in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """The metrics of a table of scores, the perceptual one (whatever its name) last."""
    return [name for name in frame.columns if name not in CASES]


def reference_predictions(task: VideoTask, clips: Sequence[Clip]) -> dict[str, Tensor]:
    """Predictions that need no world model, [n, K, 3, H, W] each: the tokenizer's ceiling, copies of the last frame."""
    truth = task.truth(clips)
    copied = task.last_seen(clips)[:, None].expand_as(truth)
    ids = task.encode(clips)
    prompt, response = ids[:, : task.layout.prompt], ids[:, task.layout.prompt :]
    still = [Clip(_standing(clip, task), clip.actions) for clip in clips]
    still_ids = task.encode(still)
    return {
        "tokenizer ceiling": task.decode(prompt, response),
        "copy last frame": copied,
        COPY: task.decode(prompt, still_ids[:, task.layout.prompt :]),
    }


def _standing(clip: Clip, task: VideoTask) -> Tensor:
    """The clip's frames with everything after the last seen one replaced by it."""
    frames = clip.frames.clone()
    last = 1 if task.has_context else len(frames) - 2
    frames[last + 1 :] = frames[last]
    return frames


def moving(clips: Sequence[Clip], task: VideoTask, least: float = 0.01) -> np.ndarray:
    """bool [n]: segments whose last true frame differs from the last seen one by more than ``least`` in mean pixels."""
    truth, seen = task.truth(clips)[:, -1], task.last_seen(clips)
    return ((truth - seen).abs().mean((1, 2, 3)) > least).cpu().numpy()


def summary(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean with 95 % interval over segments per metric, and n."""
    rows = []
    for name in scores.columns:
        interval = bootstrap_mean(scores[name].to_numpy(), seed)
        rows.append(
            {"metric": name, "mean": interval.mean, "low": interval.low, "high": interval.high, "n": len(scores)}
        )
    return pd.DataFrame(rows)


def score_folders(truth: Path, prediction: Path, perceptual: Perceptual, seed: int = 0) -> pd.DataFrame:
    """Compare two folders of equal file names; one row per segment.

    A segment is an ``.npz``/``.npy`` file (uint8 [K, H, W, 3], key ``image``), a sub-folder of pictures in the order of
    their names, or a single picture. UserErrors name what does not match.
    """
    names = [_segments(folder) for folder in (truth, prediction)]
    if set(names[0]) != set(names[1]):
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise UserError(f"{len(odd)} segments stand in one folder only, the first: {odd[0]}")
    tables = []
    for name in sorted(names[0]):
        pair = [to_float(_read(paths[name]))[None] for paths in names]
        if pair[0].shape != pair[1].shape:
            raise UserError(
                f"{name}: the truth has {list(pair[0].shape[1:])}, the prediction {list(pair[1].shape[1:])}"
            )
        tables.append(segment_scores(*pair, perceptual).assign(segment=name))
    return pd.concat(tables, ignore_index=True).set_index("segment")


def _segments(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    found = {
        path.name.split(".")[0]: path
        for path in sorted(folder.iterdir())
        if path.is_dir() or path.suffix.lower() in (*PICTURES, ".npz", ".npy")
    }
    if not found:
        raise UserError(f"{folder} holds no segments (.npz, .npy, pictures, or folders of pictures)")
    return found


def _read(path: Path) -> np.ndarray:
    try:
        if path.is_dir():
            pictures = sorted(item for item in path.iterdir() if item.suffix.lower() in PICTURES)
            frames = np.stack([np.asarray(Image.open(item).convert("RGB")) for item in pictures])
        elif path.suffix in (".npz", ".npy"):
            loaded = np.load(path, allow_pickle=False)
            frames = loaded["image"] if path.suffix == ".npz" else loaded
        else:
            frames = np.asarray(Image.open(path).convert("RGB"))[None]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as frames ({type(error).__name__}: {error})") from None
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise UserError(f"{path}: frames must be uint8 [K, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    if min(frames.shape[1:3]) < LEAST_SIDE:
        raise UserError(
            f"{path}: frames must be at least {LEAST_SIDE} pixels high and wide, not {list(frames.shape[1:3])}"
        )
    return frames
