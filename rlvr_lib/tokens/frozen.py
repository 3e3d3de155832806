"""A tokenizer that is only used: on a GPU its encoders and decoders run in bfloat16 with channels last.

The decoder of predicted frames is most of an iteration at the paper's size (8.3 of 12.2 petaflops, cost model I.5).
`FastEncoder` and `FastDecoder` stand in the places of a tokenizer's `Encoder` and `Decoder` and run the same weights:
convolutions and matrix products in bfloat16, normalisation statistics and additions in float32, the convolutions and
the quantiser between the two halves wholly in float32 (B.1). Training and checkpoints know nothing of it.

On a CPU the modules run as they are, in float32. On a GPU ``RLVR_FROZEN`` overrides the choice: plain (the modules as
they are, under autocast), eager (nothing compiled), fused (the default), whole (encoders and decoders compiled as one).
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from rlvr_lib.compiled import Compiled, compiled, cudnn
from rlvr_lib.tokens.channels_last import attended, four_kernels, interleaved, joined, joined_rows, normalised
from rlvr_lib.tokens.video_blocks import CrossAttention, Decoder, Encoder

HOW = ("plain", "eager", "fused", "whole")
MULTIPLE = 8  # tensor cores take channels by eights; the three colours are filled up
TAIL = 8  # frames at once from the last doubling on, where features are largest (42 MB a frame at the paper's size)
STEPS = (normalised, joined, joined_rows, interleaved)
FUSED = tuple(map(Compiled, STEPS))
Model = TypeVar("Model", bound=nn.Module)


def freeze_for_inference(tokenizer: Model, device: str | torch.device, how: str | None = None) -> Model:
    """A copy for use only on ``device``: no gradients, no dropout; on a GPU the fast way (or ``how``).

    It encodes, decodes and answers to the same names as the original, which stays as it is.
    """
    if how is None:
        how = os.environ.get("RLVR_FROZEN", "fused") if torch.device(device).type == "cuda" else "plain"
    frozen = copy.deepcopy(tokenizer).to(device).eval().requires_grad_(False)
    return frozen if how == "plain" else quickened(frozen, how)


def quickened(tokenizer: Model, how: str, dtype: torch.dtype = torch.bfloat16) -> Model:
    """Put fast encoders and decoders in the places of a frozen tokenizer's own; in place."""
    if how not in HOW[1:]:
        raise ValueError(f"RLVR_FROZEN: {how!r} is none of {', '.join(HOW)}")
    for name, part in list(tokenizer.named_children()):
        if isinstance(part, Encoder | Decoder):
            kind = FastEncoder if isinstance(part, Encoder) else FastDecoder
            setattr(tokenizer, name, kind(part, how, dtype))
    return tokenizer


def is_fast(tokenizer: nn.Module) -> bool:
    """Whether it minds its own precision, so that autocast must stay away."""
    return any(isinstance(part, _Fast) for part in tokenizer.children())


class _Fast(nn.Module):
    """What both halves share: the blocks of diffusers, run on features with channels last."""

    def __init__(self, plain: nn.Module, how: str, dtype: torch.dtype):
        super().__init__()
        self.plain, self.dtype, self.how = plain, dtype, how
        self.norm, self.join, self.join_rows, self.interleave = FUSED if how == "fused" else STEPS
        self._prepare()
        for module in plain.modules():
            if isinstance(module, nn.Conv2d):  # biases stay float32: they are added between convolutions
                module.weight.data = module.weight.data.to(dtype, memory_format=torch.channels_last)
            elif isinstance(module, nn.Linear):
                module.to(dtype)
        self._steps = compiled(self.steps) if how == "whole" else self.steps

    def _prepare(self) -> None:
        """Weights in another form, made from those in float32."""

    def steps(self, *inputs: Any) -> Any:
        """The computation itself."""
        raise NotImplementedError

    def _keep(self, name: str, value: Tensor, kind: torch.dtype | None = None) -> None:
        layout = torch.channels_last if value.dim() == 4 else torch.preserve_format
        self.register_buffer(name, value.to(kind or self.dtype, memory_format=layout), persistent=False)

    def _cast(self, features: Tensor) -> Tensor:
        return features.to(self.dtype, memory_format=torch.channels_last)

    def normalise(self, x: Tensor, norm: nn.GroupNorm, shift: Tensor | None = None, activate: bool = True) -> Tensor:
        return self.norm(x, shift, norm.weight, norm.bias, norm.num_groups, norm.eps, activate)

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block of a stage, or the middle."""
        if isinstance(block, ResnetBlock2D):
            return self._residual(block, x)
        if isinstance(block, Downsample2D):
            return _with_bias(functional.pad(x, (0, 1, 0, 1)), block.conv, stride=2)
        if isinstance(block, UNetMidBlock2D):
            return self._middle(block, x)
        raise TypeError(f"no fast way through {type(block).__name__}")

    def _residual(self, block: ResnetBlock2D, x: Tensor) -> Tensor:
        shift, shortcut = block.conv2.bias, block.conv_shortcut
        y = functional.conv2d(self.normalise(x, block.norm1), block.conv1.weight, padding=1)
        y = functional.conv2d(self.normalise(y, block.norm2, block.conv1.bias), block.conv2.weight, padding=1)
        if shortcut is not None:
            x, shift = functional.conv2d(x, shortcut.weight), shift + shortcut.bias
        return self.join(x, y, shift)

    def _middle(self, block: UNetMidBlock2D, x: Tensor) -> Tensor:
        x = self._residual(block.resnets[0], x)
        for attention, residual in zip(block.attentions, block.resnets[1:], strict=True):
            x = self._residual(residual, x if attention is None else self._self_attention(attention, x))
        return x

    def _self_attention(self, layer: Attention, x: Tensor) -> Tensor:
        rows = _rows(self.normalise(x, layer.group_norm, activate=False))
        read = _heads(layer.to_q(rows), layer.to_k(rows), layer.to_v(rows), layer.heads)
        return self.join_rows(x, layer.to_out[0](read), False)

    def _cross_attention(self, layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
        queries = _rows(self.normalise(x, layer.norm_target, activate=False)) + layer.place_target.to(x.dtype)
        keys = _rows(self.normalise(context, layer.norm_context, activate=False)) + layer.place_context.to(x.dtype)
        read = _heads(layer.query(queries), layer.key(keys), layer.value(keys), layer.heads)
        return self.join_rows(x, layer.out(read), True)


class FastEncoder(_Fast):
    """`Encoder` for use: float frames -> latent float32 (for the quantiser), features in ``dtype``."""

    plain: Encoder

    @property
    def cross(self) -> nn.ModuleDict:
        return self.plain.cross

    @torch.no_grad()
    def forward(self, frames: Tensor, seen: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        with tuned(frames.device):
            latent, features = self._steps(frames, list(seen))
        return latent.float(), features

    def _prepare(self) -> None:
        weight = self.plain.first.weight
        self._keep("first", functional.pad(weight, (0, 0, 0, 0, 0, -weight.shape[1] % MULTIPLE)))

    def steps(self, frames: Tensor, seen: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        frames = self._cast(functional.pad(frames, (0, 0, 0, 0, 0, -frames.shape[1] % MULTIPLE)))
        bias = self.plain.first.bias.to(self.dtype)
        features, hidden = [], functional.conv2d(frames, self.first, bias, padding=1)
        for number, stage in enumerate(self.plain.stages):
            for block in stage:
                hidden = self.block(block, hidden)
            if str(number) in self.plain.cross:
                hidden = self._cross_attention(self.plain.cross[str(number)], hidden, seen[number])
            features.append(hidden)
        norm, _, last = self.plain.last
        return _with_bias(self.normalise(self.block(self.plain.middle, hidden), norm), last, padding=1), features


class FastDecoder(_Fast):
    """`Decoder` for use: latent -> frames (unbounded, in ``dtype``) and the feature after the middle.

    From the last doubling on, features are largest: that part runs `TAIL` frames at a time.
    """

    plain: Decoder

    def __init__(self, plain: Decoder, how: str, dtype: torch.dtype, tail: int = TAIL):
        super().__init__(plain, how, dtype)
        self.tail = tail
        self._tail = compiled(self.tail_steps) if how == "whole" else self.tail_steps

    @torch.no_grad()
    def forward(self, latent: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        middle = self.start(latent)
        with tuned(latent.device):
            hidden = self._steps(middle, None if seen is None else self._cast(seen))
            frames = [self._tail(part) for part in hidden.split(even(len(hidden), self.tail))]
        return torch.cat(frames), middle

    @torch.no_grad()
    def start(self, latent: Tensor) -> Tensor:
        """The feature after the middle."""
        with tuned(latent.device):
            return self.block(self.plain.middle, _with_bias(self._cast(latent), self.plain.first, padding=1))

    def _prepare(self) -> None:
        self._blocks = [block for stage in self.plain.stages for block in stage]
        ups = [place for place, block in enumerate(self._blocks) if isinstance(block, Upsample2D)]
        self._cut = ups[-1] if ups else len(self._blocks)
        for place in ups:
            self._keep(f"up_{place}", four_kernels(self._blocks[place].conv.weight))
        head = self.plain.last[-1]
        self._keep("head", functional.pad(head.weight, (0, 0, 0, 0, 0, 0, 0, -len(head.weight) % MULTIPLE)))
        self._keep("head_bias", functional.pad(head.bias, (0, -len(head.bias) % MULTIPLE)))

    def steps(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        """Everything between the middle and the last doubling."""
        if self.plain.cross is not None:
            hidden = self._cross_attention(self.plain.cross, hidden, seen)
        return self._through(hidden, 0, self._cut)

    def tail_steps(self, hidden: Tensor) -> Tensor:
        """From the last doubling to the frames."""
        hidden = self.normalise(self._through(hidden, self._cut, len(self._blocks)), self.plain.last[0])
        return functional.conv2d(hidden, self.head, self.head_bias, padding=1)[:, : len(self.plain.last[-1].weight)]

    def _through(self, hidden: Tensor, first: int, last: int) -> Tensor:
        for place in range(first, last):
            block = self._blocks[place]
            if isinstance(block, Upsample2D):
                y = functional.conv2d(hidden, getattr(self, f"up_{place}"), padding=1)
                hidden = self.interleave(y, block.conv.bias)
            else:
                hidden = self.block(block, hidden)
        return hidden


def even(count: int, most: int) -> int:
    """Rows at a time, at most ``most``: as many as make equal parts (one shape for all) unless that is below half."""
    if count <= most:
        return max(1, count)
    return next((size for size in range(most, most // 2, -1) if count % size == 0), most)


def _with_bias(x: Tensor, layer: nn.Conv2d, **options: int) -> Tensor:
    return functional.conv2d(x, layer.weight, layer.bias.to(x.dtype), **options)


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] with channels last -> [B, H W, C], without moving anything."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _heads(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention over rows [B, n, C]."""
    parts = (rows.unflatten(2, (heads, -1)).transpose(1, 2) for rows in (query, key, value))
    return attended(*parts).transpose(1, 2).flatten(2)


@contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """Autocast off, the fastest convolutions on."""
    with torch.autocast(device.type, enabled=False), cudnn(benchmark=True):
        yield
