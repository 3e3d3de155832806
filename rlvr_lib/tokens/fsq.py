"""Finite scalar quantisation (arXiv 2309.15505): a codebook that is a grid, with nothing to learn and nothing to lose.

Each of d scalars is squashed and rounded to one of ``levels[i]`` values; the index enumerates the grid with the first
scalar running fastest (definition B.1). Always computed in float32, also under mixed precision.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-3


class FSQ(nn.Module):
    """Quantiser for vectors of ``len(levels)`` scalars; ``size`` codes (4 375 for levels 7, 5, 5, 5, 5)."""

    def __init__(self, levels: Sequence[int] = (7, 5, 5, 5, 5)):
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels: at least one, each at least 2, not {tuple(levels)}")
        self.levels = tuple(levels)
        sizes = torch.tensor(self.levels)
        self.size = math.prod(self.levels)
        self.register_buffer("_basis", torch.cumprod(torch.tensor((1, *self.levels[:-1])), 0), persistent=False)
        self.register_buffer("_sizes", sizes, persistent=False)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """float [..., d] -> codes float32 [..., d] in [-1, 1] (straight-through gradient), index int64 [...]."""
        if latent.shape[-1] != len(self.levels):
            raise ValueError(f"FSQ: {latent.shape[-1]} scalars for {len(self.levels)} levels")
        with torch.autocast(latent.device.type, enabled=False):
            bounded = self._bound(latent.float())
            rounded = bounded + (bounded.round() - bounded).detach()
            half = self._half
            index = ((rounded.detach() + half).round().long() * self._basis).sum(-1)
            return rounded / half, index

    def codes_of(self, index: Tensor) -> Tensor:
        """int [...] -> codes float32 [..., d]. Periodic: an index beyond the codebook wraps round (B.1, trap H.13)."""
        level = index.unsqueeze(-1).div(self._basis, rounding_mode="floor") % self._sizes
        return (level - self._half).float() / self._half

    def unrounded(self, latent: Tensor) -> Tensor:
        """float [..., d] -> codes float32 [..., d] as they are just before rounding, in about [-1, 1]."""
        with torch.autocast(latent.device.type, enabled=False):
            return self._bound(latent.float()) / self._half

    def nearest(self, codes: Tensor) -> Tensor:
        """float [..., d] -> the nearest codes that the decoder knows, float32 [..., d]; outside values to the ends."""
        levels = (codes.float() * self._half).round()
        return levels.clamp(-self._half, self._sizes - 1 - self._half) / self._half

    @property
    def _half(self) -> Tensor:
        return self._sizes.div(2, rounding_mode="floor")

    def _bound(self, latent: Tensor) -> Tensor:
        """Squash to the open interval whose roundings are the levels; even ones are shifted by half a step."""
        half = (self._sizes - 1) * (1 + EPSILON) / 2
        offset = torch.where(self._sizes % 2 == 0, 0.5, 0.0)
        return torch.tanh(latent + torch.atanh(offset / half)) * half - offset
