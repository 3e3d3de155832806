"""Arithmetic of a frozen tokenizer between its convolutions, for features [B, C, H, W] with the channels innermost.

A GPU's convolutions want bfloat16 with channels last; what stands between them moves memory and computes next to
nothing, so each step is one function that `rlvr_lib.compiled` makes into as few passes as possible. Convolutions run
without their bias: whatever reads the result next adds it in passing (``shift``). Statistics and sums are float32, and
features keep their type.
"""

import torch
from torch import Tensor
from torch.nn import functional

FLASH_WIDTH = 256  # widest attention head that the GPU has a fast kernel for


def normalised(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float, activate: bool
) -> Tensor:
    """GroupNorm of ``x + shift``, then SiLU if ``activate``. ``shift``, ``weight`` and ``bias`` float32 [C]."""
    rows = x.permute(0, 2, 3, 1)
    scale, offset = _affine(rows, shift, weight, bias, groups, eps)
    result = rows * scale[:, None, None] + offset[:, None, None]
    return (functional.silu(result) if activate else result).to(x.dtype).permute(0, 3, 1, 2)


def _affine(
    rows: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Features [B, H, W, C] -> float32 [B, C] twice: what they are multiplied by, and what is then added.

    Sums go over W first, channel by channel, as memory lies; then over H and the channels of a group.
    """
    _, height, columns, width = rows.shape
    total = rows.sum(2, dtype=torch.float32)
    square = torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32).square()
    if shift is not None:
        square = square + shift * (2 * total + columns * shift)
        total = total + columns * shift
    count = height * columns * (width // groups)
    mean, moment = (part.unflatten(2, (groups, -1)).sum((1, 3)) / count for part in (total, square))
    inverse = ((moment - mean.square()).clamp(min=0) + eps).rsqrt()
    scale = (weight.unflatten(0, (groups, -1)) * inverse[..., None]).flatten(1)
    mean = mean.repeat_interleave(width // groups, 1)
    return scale, bias - scale * (mean if shift is None else mean - shift)


def joined(x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """``x + y + shift``: where a residual block ends."""
    return (x.float() + y + shift[:, None, None]).to(x.dtype)


def joined_rows(x: Tensor, rows: Tensor, activate: bool) -> Tensor:
    """``x`` [B, C, H, W] + ``rows`` [B, H W, C], what attention read; then SiLU if ``activate``."""
    read = rows.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)
    result = x.float() + read
    return (functional.silu(result) if activate else result).to(x.dtype)


def four_kernels(weight: Tensor) -> Tensor:
    """The 3 x 3 kernel that follows a nearest doubling -> its four 2 x 2 kernels on the picture before it.

    [O, I, 3, 3] -> [4 O, I, 2, 2], ordered (row parity, column parity, O). Of three neighbours in the doubled picture
    two are the same pixel, so their weights add up: 4 instead of 9 products per output.
    """
    taps = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=weight.dtype, device=weight.device)
    return torch.einsum("atk,bsl,oikl->aboits", taps, taps, weight).flatten(0, 2)


def interleaved(y: Tensor, bias: Tensor) -> Tensor:
    """What `four_kernels` gave with padding 1, [B, 4 O, H + 1, W + 1] -> the doubled picture [B, O, 2 H, 2 W].

    An even row reads the pixels above and at its place, an odd one those at and below: one row further down in ``y``.
    """
    rows = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    height, width = rows.shape[1] - 1, rows.shape[2] - 1
    parts = [
        torch.stack([rows[:, a : a + height, b : b + width, a, b] for b in range(2)], dim=3) for a in range(2)
    ]  # fmt: skip
    return (torch.stack(parts, dim=2).flatten(3, 4).flatten(1, 2) + bias).to(y.dtype).permute(0, 3, 1, 2)


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention [B, heads, n, d]. A head too wide for the GPU's fused kernels is two matrix products and a softmax."""
    width = query.shape[-1]
    if width <= FLASH_WIDTH or query.dtype == torch.float32:
        return functional.scaled_dot_product_attention(query, key, value)
    shape = query.shape[:2]
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    scores = _products(query, key.mT) * width**-0.5
    return torch.bmm(scores.softmax(-1).to(value.dtype), value).unflatten(0, shape)


def _products(first: Tensor, second: Tensor) -> Tensor:
    """Batched matrix product in float32, not rounded in between."""
    try:
        return torch.bmm(first, second, out_dtype=torch.float32)
    except (RuntimeError, TypeError):  # this torch or device has no such product
        return torch.bmm(first, second).float()
