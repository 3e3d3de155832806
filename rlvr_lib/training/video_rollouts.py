"""Rollouts of video RLVR: prompts from clips, and the reward of decoded frames (E.1 to E.3).

Clip i is drawn from (seed, i). It gives the prompt, the actions that are put into the response, and the camera frames
that the reward compares with (never their reconstructions). Tokenizer and perceptual metric are frozen.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from rlvr_lib.artifacts import UserError, atomic_write_text
from rlvr_lib.profile_schema_video import RewardWeights
from rlvr_lib.tokens.video_task import VideoTask
from rlvr_lib.worlds.perceptual import Perceptual
from rlvr_lib.worlds.video_clips import ClipSource
from rlvr_lib.worlds.video_metrics import FRAME_METRICS

GAINS = ("psnr", "ssim")  # higher is better
COMPARED = 4  # times as many frames as are decoded at once are compared at once on a GPU (LPIPS-VGG: 5 GB)


@dataclass(frozen=True)
class Prompt:
    """One clip as RLVR sees it: ``ids`` [P], ``given`` [n] or None, ``truth`` frames [K, 3, H, W]."""

    ids: Tensor
    given: Tensor | None
    truth: Tensor


class RolloutClips:
    """Prompts by item number; the newest are kept, since a rollout batch asks for each several times."""

    def __init__(self, task: VideoTask, source: ClipSource, seed: int, keep: int = 512):
        self.task, self.source, self.seed, self.keep = task, source, seed, keep
        self._kept: OrderedDict[int, Prompt] = OrderedDict()

    def prompts(self, items: Sequence[int]) -> list[Prompt]:
        """The prompts of these items, in their order; new ones are tokenised together."""
        missing = [item for item in dict.fromkeys(items) if item not in self._kept]
        if missing:
            clips = [self.source.draw(np.random.default_rng((self.seed, item))) for item in missing]
            ids, given, truth = self.task.prompt(clips), self.task.given(clips), self.task.truth(clips)
            for place, item in enumerate(missing):
                self._kept[item] = Prompt(ids[place], None if given is None else given[place], truth[place])
        found = [self._kept[item] for item in items]
        while len(self._kept) > max(self.keep, len(set(items))):
            self._kept.popitem(last=False)
        return found

    def dataset(self, length: int) -> Dataset:
        """Columns of GRPO, tokenised when asked for: ``prompt`` (ids) and ``item``."""

        def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
            return {"prompt": [prompt.ids.tolist() for prompt in self.prompts(batch["item"])], "item": batch["item"]}

        return Dataset.from_dict({"item": list(range(length))}).with_transform(rows)


class FrameReward:
    """Reward function of `GRPOTrainer`: decode the responses, compare every predicted frame with the camera's.

    R = -mean over frames of (weights x errors, gains with the other sign). Ids that are no codes are clamped (E.2).
    If a response makes it raise, that response is saved in ``folder``/failed_reward.json before the run stops.
    """

    __name__ = "frames"  # TRL's name for it in the log

    def __init__(
        self, task: VideoTask, clips: RolloutClips, distance: Perceptual, weights: RewardWeights, folder: Path
    ):
        self.task, self.clips, self.distance, self.folder = task, clips, distance, folder
        self.weights = {name: weight for name, weight in weights.model_dump().items() if weight}

    def __call__(
        self, completion_ids: Sequence[Sequence[int]], item: Sequence[int], log_metric: Any = None, **_: Any
    ) -> list[float]:
        """One reward per response; neighbours with the same ``item`` are a group."""
        parts: dict[str, list[Tensor]] = {}
        for first, last in self._chunks(item):
            try:
                values = self.metrics(item[first:last], completion_ids[first:last])
            except Exception as error:
                raise self._saved(item[first], completion_ids[first:last], error) from error
            for name, value in values.items():
                parts.setdefault(name, []).append(value)
        found = {name: torch.cat(values).cpu() for name, values in parts.items()}  # a GPU is waited for once
        for name, value in found.items() if log_metric is not None else ():
            log_metric(name, float(value.double().mean()))
        return self.reward(found).tolist()

    def reward(self, values: dict[str, Tensor]) -> Tensor:
        """Means over a response's frames, by metric -> rewards."""
        parts = [(weight if name in GAINS else -weight) * values[name] for name, weight in self.weights.items()]
        return torch.stack(parts).sum(0)

    def metrics(self, items: Sequence[int], responses: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Each metric's mean over the predicted frames, one value per response; groups of equal size, side by side."""
        names = list(dict.fromkeys(items))
        group = len(items) // len(names)
        prompts = self.clips.prompts(names)
        ids = torch.stack([prompt.ids for prompt in prompts])
        truth = torch.stack([prompt.truth for prompt in prompts])
        rows = torch.from_numpy(np.array(responses, dtype=np.int64))
        frames = self.task.decode_groups(ids, rows.unflatten(0, (len(names), group)))
        return self.compare(truth, frames)

    def compare(self, truth: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Truth [P, K, 3, H, W] and predictions [P, G, K, 3, H, W] -> each metric's mean over K frames, [P x G].

        Float32, on the frames' device.
        """
        same = truth[:, None].expand_as(frames)
        wanted = [name for name in FRAME_METRICS if name in self.weights or name == "mae"]
        values = {name: FRAME_METRICS[name](same, frames) for name in wanted}
        values["lpips"] = self.distance.to_group(truth, frames)
        return {name: value.mean(-1).flatten().float() for name, value in values.items()}

    def _chunks(self, item: Sequence[int]) -> list[tuple[int, int]]:
        """Rows of whole groups, as many as are decoded at once."""
        starts = [row for row in range(len(item)) if row == 0 or item[row] != item[row - 1]]
        sizes = {last - first for first, last in pairwise([*starts, len(item)])}
        if len(sizes) != 1:
            return list(pairwise([*starts, len(item)]))
        frames = self.task.layout.horizon if self.task.has_context else 1
        most = self.task.at_once * (COMPARED if self.task.device.type == "cuda" else 1)
        step = max(1, most // (sizes.pop() * frames))
        bounds = [*starts[::step], len(item)]
        return list(pairwise(bounds))

    def _saved(self, item: int, responses: Sequence[Sequence[int]], error: Exception) -> UserError:
        path = self.folder / "failed_reward.json"
        text = json.dumps({"item": item, "seed": self.clips.seed, "responses": [list(map(int, r)) for r in responses]})
        atomic_write_text(path, text)
        return UserError(f"the reward of item {item} failed ({type(error).__name__}: {error}); it is saved in {path}")
