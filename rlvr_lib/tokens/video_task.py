"""A video world model's task: clips to ids, ids to frames, with a frozen tokenizer, action bins and a layout.

Single-step: history frames and their actions, then the next frame. Multi-step: a context frame, the current frame, then
``horizon`` frames with the actions between them given. Both kinds answer to the same four calls.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.video_layouts import MultiStepLayout, SingleStepLayout
from rlvr_lib.worlds.video_clips import Clip

CHUNK = 64  # frames that go through a tokenizer at once


class VideoTask:
    """What training and evaluation need to know of the tokens. ``clip_frames`` frames make a clip."""

    tokenizer: FrameTokenizer | CompressiveTokenizer
    layout: SingleStepLayout | MultiStepLayout
    has_context: bool
    clip_frames: int  # without the context frame

    def __init__(self, tokenizer: FrameTokenizer | CompressiveTokenizer, bins: ActionBins, device: str = "cpu"):
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        self.bins, self.device = bins, torch.device(device)

    def half(self) -> torch.autocast:
        """The frozen tokenizer's precision: bfloat16 passes on a GPU (E.3, F.2), float32 on a CPU."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def action_bins(self, clips: Sequence[Clip]) -> Tensor:
        """Actions of clips as bins, int64 [B, L, A]."""
        return torch.from_numpy(self.bins.to_bins(np.stack([clip.actions for clip in clips])))

    def frames(self, clips: Sequence[Clip]) -> Tensor:
        return torch.stack([clip.frames for clip in clips]).to(self.device)

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        """Whole sequences [B, S]."""
        raise NotImplementedError

    def given(self, clips: Sequence[Clip]) -> Tensor | None:
        """Ids of the actions that are put into the response, [B, n], or None."""
        raise NotImplementedError

    def decode(self, prompt: Tensor, response: Tensor) -> Tensor:
        """Prompt [B, P] and response [B, R] -> predicted frames float32 [B, K, 3, H, W] in [0, 1]."""
        raise NotImplementedError

    def decode_groups(self, prompt: Tensor, responses: Tensor) -> Tensor:
        """Prompts [P, ...] and G responses to each [P, G, R] -> frames float32 [P, G, K, 3, H, W]."""
        frames = self.decode(prompt.repeat_interleave(responses.shape[1], 0), responses.flatten(0, 1))
        return frames.unflatten(0, responses.shape[:2])

    def truth(self, clips: Sequence[Clip]) -> Tensor:
        """The frames that a prediction is scored against (camera frames, not reconstructions), [B, K, 3, H, W]."""
        raise NotImplementedError

    def last_seen(self, clips: Sequence[Clip]) -> Tensor:
        """The newest frame that the prompt shows, [B, 3, H, W]: what copying would predict."""
        raise NotImplementedError

    def prompt(self, clips: Sequence[Clip]) -> Tensor:
        return self.encode(clips)[:, : self.layout.prompt]


class SingleStepTask(VideoTask):
    """Clips of ``context`` + 1 frames over the per-frame tokenizer (C.3)."""

    has_context = False

    def __init__(self, tokenizer: FrameTokenizer, bins: ActionBins, context: int = 4, device: str = "cpu"):
        super().__init__(tokenizer, bins, device)
        self.layout = SingleStepLayout(tokenizer.tokens, bins.dims, context, tokenizer.quantiser.size, bins.bins)
        self.clip_frames = context + 1

    @torch.no_grad()
    def codes(self, frames: Tensor) -> Tensor:
        """Frames [..., 3, H, W] -> codes [..., N], a chunk at a time."""
        parts = frames.flatten(0, -4).split(CHUNK)
        with self.half():
            return torch.cat([self.tokenizer.encode(part) for part in parts]).unflatten(0, frames.shape[:-3])

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        return self.layout.encode(self.codes(self.frames(clips)).cpu(), self.action_bins(clips))

    def given(self, clips: Sequence[Clip]) -> None:
        return None

    @torch.no_grad()
    def decode(self, prompt: Tensor, response: Tensor) -> Tensor:
        codes = self.layout.predicted(response.to(self.device))
        with self.half():
            return torch.cat([self.tokenizer.decode(part) for part in codes.split(CHUNK)]).float()

    def truth(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips)[:, -1:]

    def last_seen(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips)[:, -2]


class MultiStepTask(VideoTask):
    """Clips of a context frame and ``horizon`` + 1 frames over the compressive tokenizer (C.4)."""

    has_context = True

    def __init__(self, tokenizer: CompressiveTokenizer, bins: ActionBins, horizon: int = 7, device: str = "cpu"):
        super().__init__(tokenizer, bins, device)
        sizes = (tokenizer.context_tokens, tokenizer.tokens, bins.dims, horizon, tokenizer.quantiser.size, bins.bins)
        self.layout, self.clip_frames = MultiStepLayout(*sizes), horizon + 1

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        frames = self.frames(clips)
        rows = max(1, CHUNK // frames.shape[1])
        with torch.no_grad(), self.half():
            parts = [self.tokenizer.encode(part[:, 0], part[:, 1:]) for part in frames.split(rows)]
        context, codes = (torch.cat(items).cpu() for items in zip(*parts, strict=True))
        return self.layout.encode(context, codes, self._later_actions(clips))

    @torch.no_grad()
    def codes(self, context: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """A context frame [3, H, W] and frames [T, 3, H, W] -> their codes [Nc] and [T, N]."""
        with self.half():
            parts = [self.tokenizer.encode(context[None], part[None]) for part in frames.split(CHUNK)]
        return parts[0][0][0], torch.cat([codes[0] for _, codes in parts])

    def given(self, clips: Sequence[Clip]) -> Tensor:
        return self.layout.given_ids(self._later_actions(clips))

    def decode(self, prompt: Tensor, response: Tensor) -> Tensor:
        return self.decode_groups(prompt, response[:, None])[:, 0]

    @torch.no_grad()
    def decode_groups(self, prompt: Tensor, responses: Tensor) -> Tensor:
        """As above; a group's context frame is decoded once."""
        layout, group = self.layout, responses.shape[1]
        context = (prompt[:, layout.context_at] - layout.context_offset).clamp(0, layout.codes - 1).to(self.device)
        codes = layout.predicted(responses.to(self.device)).flatten(1, 2)  # [P, G x K, N]: frames know no order
        rows = max(1, CHUNK // codes.shape[1])
        pairs = zip(context.split(rows), codes.split(rows), strict=True)
        with self.half():
            frames = torch.cat([self.tokenizer.decode(*pair)[1] for pair in pairs]).float()
        return frames.unflatten(1, (group, layout.horizon))

    def truth(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips)[:, 2:]

    def last_seen(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips)[:, 1]

    def _later_actions(self, clips: Sequence[Clip]) -> Tensor:
        return self.action_bins(clips)[:, 1:]
