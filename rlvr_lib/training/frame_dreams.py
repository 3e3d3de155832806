"""Episodes inside a single-step world model: what dreams.py does for a multi-step one, frame by frame.

Other domains have a single-step model only (spec A.3). Its prompt is the newest ``context`` frames with their actions,
so nothing is cut back: the oldest frame goes when a new one comes. The history before the start is the start frame,
standing still.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rlvr_lib.profile_schema_real2sim import Real2Sim
from rlvr_lib.tokens.video_task import SingleStepTask, VideoTask
from rlvr_lib.training.dreams import Dreamer, Dreams, Observer
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.video_clips import Clip


class FrameDreamer(Dreamer):
    """One single-step world model with the episodes that are dreamt in it; a round is a frame."""

    task: SingleStepTask  # type: ignore[assignment]
    horizon = 1  # type: ignore[assignment]

    @property
    def newest(self) -> int:  # type: ignore[override]
        return self.layout.context - 1

    def begin(self, starts: Tensor) -> Dreams:
        """All of the history is the start frame; its newest action is still to come."""
        context, at_once = self.layout.context, max(1, self.task.at_once // self.layout.context)
        still = np.zeros((context + 1, self.layout.action_dims), dtype=np.float32)
        clips = [Clip(torch.stack([frame] * (context + 1)), still) for frame in starts]
        parts = [self.task.prompt(clips[first : first + at_once]) for first in range(0, len(clips), at_once)]
        return self._fresh(torch.cat(parts))

    def _features(self, prompt: Tensor) -> Tensor:
        return prompt[:, :0]  # codes say all

    def _frames(self, features: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        return self.task.frames_of(codes.to(self.task.device))

    def _round(self, dreams: Dreams, features: Tensor, number: int, seed: int) -> None:
        """One more frame of every episode; then the history moves on by one."""
        layout = self.layout
        response = sample_response(
            self.model,
            layout,
            dreams.prompt,
            temperature=self.settings.temperature,
            top_k=self.settings.top_k,
            generator=torch.Generator().manual_seed(seed * 1000 + number),
            max_rows=self.settings.batch,
            penalty=self.settings.repetition_penalty,
        ).cpu()
        dreams.invalid += self._strange(response[:, : layout.tokens])
        codes = layout.predicted(response)
        dreams.codes = torch.cat([dreams.codes, codes], 1)
        for places in (layout.frame_at[: layout.context], layout.action_at):
            dreams.prompt[:, places[:-1]] = dreams.prompt[:, places[1:]]
        dreams.prompt[:, layout.frame_at[self.newest]] = codes[:, 0]
        self._look(dreams, features, torch.arange(len(codes)), codes[:, 0], number + 1)


def dreamer_of(
    model: LlamaForCausalLM, task: VideoTask, observer: Observer, settings: Real2Sim, folder: Path
) -> Dreamer:
    """The dreamer that fits the task's layout."""
    kind = FrameDreamer if isinstance(task, SingleStepTask) else Dreamer
    return kind(model, task, observer, settings, folder)  # type: ignore[arg-type]


__all__ = ["FrameDreamer", "dreamer_of"]
