"""The parts of both visual tokenizers, of diffusers' convolution blocks, and cross-attention (B.2, B.3).

A stage is a run of residual blocks at one width; between stages the picture is halved (padded right and below) or
doubled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Cut:
    """Sizes shared by the parts of a tokenizer; ``groups`` is that of every GroupNorm."""

    widths: tuple[int, ...]
    encoder_blocks: int
    decoder_blocks: int
    latent: int
    groups: int = 32


def _residual(inside: int, outside: int, groups: int) -> ResnetBlock2D:
    return ResnetBlock2D(in_channels=inside, out_channels=outside, temb_channels=None, groups=groups, eps=1e-6)


def _middle(width: int, groups: int, attention: bool) -> UNetMidBlock2D:
    return UNetMidBlock2D(
        in_channels=width,
        temb_channels=None,
        resnet_groups=groups,
        resnet_eps=1e-6,
        attention_head_dim=width,
        add_attention=attention,
    )


class _Head(nn.Sequential):
    """GroupNorm, SiLU, conv3x3: how encoder and decoder end."""

    def __init__(self, inside: int, outside: int, groups: int):
        super().__init__(nn.GroupNorm(groups, inside, eps=1e-6), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1))


class Encoder(nn.Module):
    """float [B, 3, H, W] -> latent [B, C, H / f, W / f], f = 2 ** (stages - 1).

    ``forward`` also returns the features after each stage; ``cross`` places read another encoder's features there.
    """

    def __init__(self, cut: Cut, attention: bool, cross: Sequence[int] = (), positions: int = 0, heads: int = 4):
        super().__init__()
        self.first = nn.Conv2d(3, cut.widths[0], 3, padding=1)
        self.stages, self.cross = nn.ModuleList(), nn.ModuleDict()
        inside = cut.widths[0]
        for number, width in enumerate(cut.widths):
            blocks = [
                _residual(inside if place == 0 else width, width, cut.groups) for place in range(cut.encoder_blocks)
            ]
            if number + 1 < len(cut.widths):
                blocks.append(Downsample2D(width, use_conv=True, out_channels=width, padding=0))
            self.stages.append(nn.ModuleList(blocks))
            inside = width
            if number in cross:
                self.cross[str(number)] = CrossAttention(width, positions, heads, cut.groups)
        self.middle = _middle(inside, cut.groups, attention)
        self.last = _Head(inside, cut.latent, cut.groups)

    def forward(self, frames: Tensor, seen: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        features, hidden = [], self.first(frames)
        for number, stage in enumerate(self.stages):
            for block in stage:
                hidden = _through(block, hidden)
            if str(number) in self.cross:
                hidden = self.cross[str(number)](hidden, seen[number])
            features.append(hidden)
        return self.last(self.middle(hidden, None)), features


class Decoder(nn.Module):
    """Latent [B, C, h, w] -> frames [B, 3, H, W] (unbounded), and the feature after the middle.

    ``widths`` are those of the stages in their order; ``ups`` names the stages after which the picture doubles.
    """

    def __init__(
        self,
        cut: Cut,
        start: int,
        widths: Sequence[int],
        ups: Sequence[int],
        attention: bool,
        positions: int = 0,
        heads: int = 4,
    ):
        super().__init__()
        self.first = nn.Conv2d(cut.latent, start, 3, padding=1)
        self.middle = _middle(start, cut.groups, attention)
        self.cross = CrossAttention(start, positions, heads, cut.groups) if positions else None
        self.stages = nn.ModuleList()
        inside = start
        for number, width in enumerate(widths):
            blocks = [
                _residual(inside if place == 0 else width, width, cut.groups) for place in range(cut.decoder_blocks)
            ]
            if number in ups:
                blocks.append(Upsample2D(width, use_conv=True, out_channels=width))
            self.stages.append(nn.ModuleList(blocks))
            inside = width
        self.last = _Head(inside, 3, cut.groups)

    def forward(self, latent: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden = middle = self.start(latent)
        if self.cross is not None:
            hidden = self.cross(hidden, seen)
        for stage in self.stages:
            for block in stage:
                hidden = _through(block, hidden)
        return self.last(hidden), middle

    def start(self, latent: Tensor) -> Tensor:
        """The feature after the middle."""
        return self.middle(self.first(latent), None)


def _through(block: nn.Module, hidden: Tensor) -> Tensor:
    return block(hidden, None) if isinstance(block, ResnetBlock2D) else block(hidden)


class CrossAttention(nn.Module):
    """Target features read the context's: SiLU(target + attention), both normalised and given learned positions."""

    def __init__(self, width: int, positions: int, heads: int, groups: int, dropout: float = 0.1):
        super().__init__()
        self.norm_target, self.norm_context = (nn.GroupNorm(groups, width, eps=1e-6) for _ in range(2))
        self.place_target, self.place_context = (nn.Parameter(torch.zeros(positions, width)) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.dropout = heads, dropout

    def forward(self, target: Tensor, context: Tensor) -> Tensor:
        """[B, C, h, w] twice, ``h * w`` the number of positions."""
        batch, width, height, columns = target.shape
        if height * columns != len(self.place_target):
            raise ValueError(f"cross-attention: made for {len(self.place_target)} positions, got {height} x {columns}")
        queries = self.norm_target(target).flatten(2).mT + self.place_target
        keys = self.norm_context(context).flatten(2).mT + self.place_context
        query, key, value = (
            layer(rows).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for layer, rows in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        drop = self.dropout if self.training else 0.0
        read = functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        read = self.out(read.transpose(1, 2).reshape(batch, -1, width))
        read = functional.dropout(read, self.dropout, self.training).mT.reshape_as(target)
        return functional.silu(target + read)
