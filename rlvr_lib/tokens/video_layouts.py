"""How a clip becomes one token sequence: the single-step and the multi-step layout (C.2 to C.5).

A layout is a set of index maps, built once and asserted to partition the sequence. Everything that needs to know where
a frame or an action stands (targets of likelihood training, prompt and response of RLVR, inserted actions, decoding)
asks the layout; there are no offsets elsewhere.

Shapes: B clips, N tokens per frame, A action dimensions, S the sequence. All ids are int64.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

IGNORED = -100  # the label that torch's cross-entropy leaves out


class Layout(ABC):
    """What the two layouts share. ``prompt`` ids come first; the rest is the response."""

    kind: ClassVar[str]
    frame_at: Tensor  # [frames, N]: where the tokens of each frame stand
    action_at: Tensor  # [actions, A]
    supervised: Tensor  # bool [S]: positions whose id likelihood training predicts
    history: Tensor  # bool [S]: frames of the prompt that it may learn to predict as well
    sampled: Tensor  # bool [R]: response positions that the model writes itself (the others are given actions)
    prompt: int
    length: int
    action_offset: int
    vocabulary: int

    def __init__(self, tokens: int, action_dims: int, codes: int, bins: int):
        if min(tokens, action_dims, codes, bins) < 1:
            raise ValueError("tokens, action_dims, codes and bins must be positive")
        self.tokens, self.action_dims, self.codes, self.bins = tokens, action_dims, codes, bins

    def _check(self, *maps: Tensor) -> None:
        """The maps together must name every position exactly once."""
        named = torch.cat([part.flatten() for part in maps])
        if not torch.equal(named.sort().values, torch.arange(self.length)):
            raise AssertionError(f"{self.kind} layout: its maps do not partition the sequence")

    @property
    def response(self) -> int:
        """Length of the response."""
        return self.length - self.prompt

    @cached_property
    def given(self) -> Tensor:
        """int64: response positions (from 0) that hold given actions."""
        return (~self.sampled).nonzero().flatten()

    def labels(self, ids: Tensor, history: bool = False) -> Tensor:
        """[B, S] -> targets of likelihood training: the ids where supervised, IGNORED elsewhere.

        ``history`` adds the frames of the prompt that something came before (our own, not the paper's).
        """
        counted = self.supervised | self.history if history else self.supervised
        return torch.where(counted.to(ids.device), ids, IGNORED)

    def visual(self, ids: Tensor) -> Tensor:
        """Any ids -> codes 0..codes-1: everything that is no visual id becomes the last code (E.2, invalid ids)."""
        return ids.clamp(0, self.codes - 1)

    def _actions(self, bins: Tensor, needed: int) -> Tensor:
        if bins.shape[-2] < needed or bins.shape[-1] != self.action_dims:
            raise ValueError(f"{self.kind} layout: needs {needed} actions of {self.action_dims}, got {bins.shape[-2:]}")
        if bins.min() < 0 or bins.max() >= self.bins:
            raise ValueError(f"{self.kind} layout: action bins must lie in 0..{self.bins - 1}")
        return bins[..., :needed, :] + self.action_offset

    def _codes(self, codes: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(codes.shape[-len(shape) :]) != shape:
            raise ValueError(f"{self.kind} layout: expected tokens [..., {shape}], got {tuple(codes.shape)}")
        if codes.min() < 0 or codes.max() >= self.codes:
            raise ValueError(f"{self.kind} layout: codes must lie in 0..{self.codes - 1}")
        return codes

    @abstractmethod
    def describe(self) -> dict[str, int | str]:
        """The constructor's arguments and ``kind``: what a checkpoint has to remember."""


class SingleStepLayout(Layout):
    """``[v_1 a_1] ... [v_c a_c] BOS v_{c+1} EOS`` (C.3): history frames with their actions, then the next frame."""

    kind = "single-step"

    def __init__(self, tokens: int = 320, action_dims: int = 13, context: int = 4, codes: int = 4375, bins: int = 256):
        super().__init__(tokens, action_dims, codes, bins)
        self.context, self.block = context, tokens + action_dims
        self.action_offset, self.bos, self.eos = codes, codes + bins, codes + bins + 1
        self.vocabulary = codes + bins + 2
        self.prompt = context * self.block + 1
        self.length = self.prompt + tokens + 1
        starts = torch.arange(context + 1)[:, None] * self.block
        starts[context] += 1  # BOS stands between the history and the predicted frame
        self.frame_at = starts + torch.arange(tokens)
        self.action_at = starts[:context] + tokens + torch.arange(action_dims)
        self.special_at = torch.tensor([self.prompt - 1, self.length - 1])
        self._check(self.frame_at, self.action_at, self.special_at)
        self.supervised = torch.zeros(self.length, dtype=torch.bool)
        self.supervised[self.special_at] = True
        self.supervised[self.frame_at[context]] = True
        self.history = torch.zeros(self.length, dtype=torch.bool)
        self.history[self.frame_at[1:context]] = True  # the first frame has nothing to be predicted from
        self.sampled = torch.ones(self.response, dtype=torch.bool)

    def encode(self, frames: Tensor, actions: Tensor) -> Tensor:
        """Codes [B, c + 1, N] and action bins [B, at least c, A] -> ids [B, S]; a last action, if given, is unused."""
        self._codes(frames, (self.context + 1, self.tokens))
        ids = frames.new_empty(*frames.shape[:-2], self.length)
        ids[..., self.frame_at] = frames
        ids[..., self.action_at] = self._actions(actions, self.context)
        ids[..., self.special_at] = ids.new_tensor([self.bos, self.eos])
        return ids

    def encode_prompt(self, frames: Tensor, actions: Tensor) -> Tensor:
        """History codes [B, c, N] and action bins [B, c, A] -> prompt ids [B, P], BOS included."""
        padded = torch.cat([frames, torch.zeros_like(frames[..., :1, :])], dim=-2)
        return self.encode(padded, actions)[..., : self.prompt]

    def decode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B, S] -> codes [B, c + 1, N] and action bins [B, c, A]; the inverse of :meth:`encode`."""
        return self.visual(ids[..., self.frame_at]), ids[..., self.action_at] - self.action_offset

    def predicted(self, response: Tensor) -> Tensor:
        """Response ids [B, R] (or without the EOS slot) -> codes of the predicted frame [B, 1, N]."""
        return self.visual(response[..., None, : self.tokens])

    def describe(self) -> dict[str, int | str]:
        names = ("kind", "tokens", "action_dims", "context", "codes", "bins")
        return {name: getattr(self, name) for name in names}


class MultiStepLayout(Layout):
    """``c [d_1 a_1] [d_2 a_2] ... [d_T a_T]`` (C.4): one context frame, then compressed frames with their actions.

    The first frame and its action belong to the prompt; ``horizon`` = T - 1 frames are predicted, and the actions
    between them are given, not sampled. The last action is appended although nothing follows it (trap H.15).
    """

    kind = "multi-step"

    def __init__(
        self,
        context_tokens: int = 1280,
        tokens: int = 80,
        action_dims: int = 13,
        horizon: int = 7,
        codes: int = 4375,
        bins: int = 256,
    ):
        super().__init__(tokens, action_dims, codes, bins)
        self.context_tokens, self.horizon, self.block = context_tokens, horizon, tokens + action_dims
        self.context_offset, self.action_offset = codes, 2 * codes
        self.vocabulary = 2 * codes + bins + 2  # the last two ids never occur in data, but can be sampled
        self.prompt = context_tokens + self.block
        self.length = context_tokens + (horizon + 1) * self.block
        self.context_at = torch.arange(context_tokens)
        starts = context_tokens + torch.arange(horizon + 1)[:, None] * self.block
        self.frame_at = starts + torch.arange(tokens)
        self.action_at = starts + tokens + torch.arange(action_dims)
        self._check(self.context_at, self.frame_at, self.action_at)
        self.supervised = torch.zeros(self.length, dtype=torch.bool)
        self.supervised[self.frame_at[1:]] = True
        self.history = torch.zeros(self.length, dtype=torch.bool)
        self.history[self.frame_at[0]] = True
        self.sampled = self.supervised[self.prompt :].clone()

    def encode(self, context: Tensor, frames: Tensor, actions: Tensor) -> Tensor:
        """Codes [B, Nc] and [B, T, N], action bins [B, T, A] (the context frame's own left out) -> ids [B, S]."""
        self._codes(frames, (self.horizon + 1, self.tokens))
        ids = frames.new_empty(*frames.shape[:-2], self.length)
        ids[..., self.context_at] = self._codes(context, (self.context_tokens,)) + self.context_offset
        ids[..., self.frame_at] = frames
        ids[..., self.action_at] = self._actions(actions, self.horizon + 1)
        return ids

    def encode_prompt(self, context: Tensor, frame: Tensor, action: Tensor) -> Tensor:
        """Codes [B, Nc] and [B, N], action bins [B, A] -> prompt ids [B, P]."""
        parts = (
            self._codes(context, (self.context_tokens,)) + self.context_offset,
            self._codes(frame, (self.tokens,)),
            self._actions(action.unsqueeze(-2), 1).squeeze(-2),
        )
        return torch.cat(parts, dim=-1)

    def given_ids(self, actions: Tensor) -> Tensor:
        """Action bins [B, T, A] of a clip -> the ids at :attr:`given`, [B, horizon x A]: actions 2 to T."""
        return self._actions(actions, self.horizon + 1)[..., 1:, :].flatten(-2)

    def decode(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ids [B, S] -> context codes, frame codes, action bins; the inverse of :meth:`encode`."""
        context = (ids[..., self.context_at] - self.context_offset).clamp(0, self.codes - 1)
        return context, self.visual(ids[..., self.frame_at]), ids[..., self.action_at] - self.action_offset

    def predicted(self, response: Tensor) -> Tensor:
        """Response ids [B, R] -> codes of the predicted frames [B, horizon, N]."""
        return self.visual(response[..., self.frame_at[1:] - self.prompt])

    def describe(self) -> dict[str, int | str]:
        names = ("kind", "context_tokens", "tokens", "action_dims", "horizon", "codes", "bins")
        return {name: getattr(self, name) for name in names}


def layout_from(description: dict[str, int | str]) -> SingleStepLayout | MultiStepLayout:
    """The layout that :meth:`Layout.describe` described."""
    arguments = {name: value for name, value in description.items() if name != "kind"}
    for layout in (SingleStepLayout, MultiStepLayout):
        if layout.kind == description.get("kind"):
            return layout(**arguments)
    raise ValueError(f"no layout of kind {description.get('kind')!r}")
