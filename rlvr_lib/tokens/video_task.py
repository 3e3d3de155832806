"""A video world model's task: clips to ids, ids to frames, with a frozen tokenizer, action bins and a layout.

Single-step: history frames and their actions, then the next frame. Multi-step: a context frame, the current frame, then
``horizon`` frames with the actions between them given. Both kinds answer to the same four calls.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.frozen import even, freeze_for_inference, is_fast
from rlvr_lib.tokens.video_layouts import MultiStepLayout, SingleStepLayout
from rlvr_lib.worlds.video_clips import Clip

AT_ONCE = {"cuda": 32 * 256 * 320, "cpu": 16 * 64 * 80}  # pixels that go through a tokenizer at once


def frames_at_once(size: tuple[int, int], device: torch.device) -> int:
    """Frames of ``size`` that a tokenizer takes together: enough to fill a GPU within 6 GB; what a CPU's caches hold.

    One core decodes 64 x 80 frames 1.3 times faster by 16 than by 64.
    """
    return max(1, AT_ONCE["cuda" if device.type == "cuda" else "cpu"] // (size[0] * size[1]))


class VideoTask:
    """What training and evaluation need to know of the tokens. ``clip_frames`` frames make a clip."""

    tokenizer: FrameTokenizer | CompressiveTokenizer
    layout: SingleStepLayout | MultiStepLayout
    has_context: bool
    clip_frames: int  # without the context frame

    def __init__(self, tokenizer: FrameTokenizer | CompressiveTokenizer, bins: ActionBins, device: str = "cpu"):
        self.tokenizer = freeze_for_inference(tokenizer, device)
        self.bins, self.device = bins, torch.device(device)
        self.at_once = frames_at_once(tokenizer.size, self.device)
        self._kept: dict[tuple[str, int], tuple[Clip, Tensor]] | None = None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within, a clip is tokenised once for :meth:`encode` and once for :meth:`prompt`, not at every call."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None

    def _once(self, what: str, clips: Sequence[Clip], work: Callable[[Sequence[Clip]], Tensor]) -> Tensor:
        """``work`` of the clips, or what is kept of it, a row each. Clips are kept too: their addresses stay theirs."""
        if self._kept is None:
            return work(clips)
        new = [clip for clip in clips if (what, id(clip)) not in self._kept]
        if new:
            self._kept |= {(what, id(clip)): (clip, row) for clip, row in zip(new, work(new), strict=True)}
        return torch.stack([self._kept[what, id(clip)][1] for clip in clips])

    def half(self) -> torch.autocast:
        """The frozen tokenizer's precision: bfloat16 passes on a GPU (E.3, F.2), float32 on a CPU.

        A tokenizer frozen the fast way minds its precision itself.
        """
        wanted = self.device.type == "cuda" and not is_fast(self.tokenizer)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    def action_bins(self, clips: Sequence[Clip]) -> Tensor:
        """Actions of clips as bins, int64 [B, L, A]."""
        return torch.from_numpy(self.bins.to_bins(np.stack([clip.actions for clip in clips])))

    def frames(self, clips: Sequence[Clip], part: slice = slice(None)) -> Tensor:
        """The clips' frames, or ``part`` of them, [B, L, 3, H, W]: nothing else travels to the device."""
        return torch.stack([clip.frames[part].to(self.device) for clip in clips])

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
        """What of :meth:`encode` a model is given [B, P]; frames that it is to predict are not tokenised."""
        raise NotImplementedError


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
        rows = frames.flatten(0, -4)
        parts = rows.split(even(len(rows), self.at_once))
        with self.half():
            return torch.cat([self.tokenizer.encode(part) for part in parts]).unflatten(0, frames.shape[:-3])

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        return self._once("encode", clips, self._encode)

    def prompt(self, clips: Sequence[Clip]) -> Tensor:
        return self._once("prompt", clips, self._prompt)

    def _encode(self, clips: Sequence[Clip]) -> Tensor:
        return self.layout.encode(self.codes(self.frames(clips)).cpu(), self.action_bins(clips))

    def _prompt(self, clips: Sequence[Clip]) -> Tensor:
        codes, actions = self.codes(self.frames(clips, slice(-1))).cpu(), self.action_bins(clips)
        return self.layout.encode_prompt(codes, actions[:, : self.layout.context])

    def given(self, clips: Sequence[Clip]) -> None:
        return None

    def decode(self, prompt: Tensor, response: Tensor) -> Tensor:
        return self.frames_of(self.layout.predicted(response.to(self.device)))

    @torch.no_grad()
    def frames_of(self, codes: Tensor) -> Tensor:
        """Codes [n, ..., N] -> frames float32 [n, ..., 3, H, W]."""
        with self.half():
            parts = codes.split(even(len(codes), self.at_once))
            return torch.cat([self.tokenizer.decode(part) for part in parts]).float()

    def truth(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips, slice(-1, None))

    def last_seen(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips, slice(-2, -1))[:, 0]


class MultiStepTask(VideoTask):
    """Clips of a context frame and ``horizon`` + 1 frames over the compressive tokenizer (C.4)."""

    has_context = True

    def __init__(self, tokenizer: CompressiveTokenizer, bins: ActionBins, horizon: int = 7, device: str = "cpu"):
        super().__init__(tokenizer, bins, device)
        sizes = (tokenizer.context_tokens, tokenizer.tokens, bins.dims, horizon, tokenizer.quantiser.size, bins.bins)
        self.layout, self.clip_frames = MultiStepLayout(*sizes), horizon + 1

    def encode(self, clips: Sequence[Clip]) -> Tensor:
        return self._once("encode", clips, self._encode)

    def prompt(self, clips: Sequence[Clip]) -> Tensor:
        return self._once("prompt", clips, self._prompt)

    def _encode(self, clips: Sequence[Clip]) -> Tensor:
        return self.layout.encode(*self._codes(self.frames(clips)), self._later_actions(clips))

    def _prompt(self, clips: Sequence[Clip]) -> Tensor:
        context, codes = self._codes(self.frames(clips, slice(2)))
        return self.layout.encode_prompt(context, codes[:, 0], self._later_actions(clips)[:, 0])

    @torch.no_grad()
    def _codes(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Clips [B, 1 + T, 3, H, W], the context frame first -> codes [B, Nc] and [B, T, N], on the CPU."""
        rows = even(len(frames), max(1, self.at_once // frames.shape[1]))
        with self.half():
            parts = [self.tokenizer.encode(part[:, 0], part[:, 1:]) for part in frames.split(rows)]
        return tuple(torch.cat(items).cpu() for items in zip(*parts, strict=True))

    @torch.no_grad()
    def codes(self, context: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """A context frame [3, H, W] and frames [T, 3, H, W] -> their codes [Nc] and [T, N]."""
        with self.half():
            parts = [self.tokenizer.encode(context[None], part[None]) for part in frames.split(self.at_once)]
        return parts[0][0][0], torch.cat([codes[0] for _, codes in parts])

    def given(self, clips: Sequence[Clip]) -> Tensor:
        return self.layout.given_ids(self._later_actions(clips))

    def decode(self, prompt: Tensor, response: Tensor) -> Tensor:
        return self.decode_groups(prompt, response[:, None])[:, 0]

    @torch.no_grad()
    def decode_groups(self, prompt: Tensor, responses: Tensor) -> Tensor:
        """As above; a group's context frame is read once, up to where its frames need it."""
        layout, group = self.layout, responses.shape[1]
        codes = layout.predicted(responses.to(self.device)).flatten(0, 2)  # [P x G x K, N]: frames know no order
        owner = torch.arange(len(prompt), device=self.device).repeat_interleave(group * layout.horizon)
        frames = self.frames_of(self.context_features(prompt), owner, codes)
        return frames.unflatten(0, (len(prompt), group, layout.horizon))

    @torch.no_grad()
    def context_features(self, prompt: Tensor) -> Tensor:
        """What decoding any frame of a prompt [B, P] reads of its context frame, one row per prompt."""
        layout = self.layout
        context = (prompt[:, layout.context_at] - layout.context_offset).clamp(0, layout.codes - 1).to(self.device)
        with self.half():
            return torch.cat([self.tokenizer.context_feature(part) for part in context.split(self.at_once)])

    @torch.no_grad()
    def frames_of(self, features: Tensor, owner: Tensor, codes: Tensor) -> Tensor:
        """Codes [n, N] and the row of ``features`` that each belongs to [n] -> frames float32 [n, 3, H, W]."""
        rows = even(len(codes), self.at_once)
        with self.half():
            pairs = zip(owner.split(rows), codes.split(rows), strict=True)
            return torch.cat([self.tokenizer.decode_frames(features[at], part) for at, part in pairs])

    def truth(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips, slice(2, None))

    def last_seen(self, clips: Sequence[Clip]) -> Tensor:
        return self.frames(clips, slice(1, 2))[:, 0]

    def _later_actions(self, clips: Sequence[Clip]) -> Tensor:
        return self.action_bins(clips)[:, 1:]
