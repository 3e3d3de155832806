"""Attention of a decoding step over static buffers: prompts once per group, suffixes per row, merged by log-sum-exp.

Two ways with the same result: plain torch operations (any device, any number of new tokens), and Triton kernels for one
new token per row in half precision (decode_kernels.py). Neither asks the host anything: the step is a device tensor.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
_FUSED_QUERIES = 64  # queries of a group and key head that one program of the prefix kernel takes


@dataclass
class LayerBuffers:
    """Keys and values of one layer: prompts (groups, K, P, W), suffixes (groups * G * K, capacity, W)."""

    prefix_key: Tensor
    prefix_value: Tensor
    suffix_key: Tensor
    suffix_value: Tensor

    def append(self, key: Tensor, value: Tensor, at: Tensor) -> None:
        """Put keys and values (rows, K, n, W) into suffix columns `at` (n,)."""
        self.suffix_key.index_copy_(1, at, key.reshape(-1, *key.shape[2:]))
        self.suffix_value.index_copy_(1, at, value.reshape(-1, *value.shape[2:]))


def attend_prefix(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Queries (groups, K, M, W) against (groups, K, P, W), all of it visible: output, log-sum-exp (groups, K, M)."""
    if query.is_cuda and query.dtype in HALF:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[:2]
        return out, lse[..., : query.shape[2]]
    scores = _accurate((query * scale) @ key.transpose(-1, -2))
    lse = scores.logsumexp(-1)
    return scores.sub_(lse[..., None]).exp_().to(query.dtype) @ value, lse


def attend_plain(
    layer: LayerBuffers, query: Tensor, key: Tensor, value: Tensor, scale: float, step: Tensor, span: int
) -> Tensor:
    """n new tokens per row, (rows, heads, n, W), at suffix columns step.. -> (rows, n, heads, W).

    `step` is a device tensor (1,); the suffix is read up to column `span`, at least step + n, and masked beyond step.
    """
    rows, heads, new, width = query.shape
    groups, kv_heads = layer.prefix_key.shape[:2]
    repeats = heads // kv_heads * new
    at = step + torch.arange(new, device=step.device)
    layer.append(key, value, at)
    own = query.reshape(rows * kv_heads, repeats, width)
    grouped = own.view(groups, -1, kv_heads, repeats, width).transpose(1, 2).reshape(groups, kv_heads, -1, width)
    seen, seen_lse = attend_prefix(grouped, layer.prefix_key, layer.prefix_value, scale)
    seen, seen_lse = (_per_row(x, rows // groups, repeats) for x in (seen, seen_lse[..., None]))
    scores = _accurate(torch.bmm(own * scale, layer.suffix_key[:, :span].transpose(1, 2)))
    hidden = torch.arange(span, device=step.device) > at[:, None]  # (n, span)
    scores.masked_fill_(hidden.repeat(heads // kv_heads, 1), float("-inf"))
    lse = torch.logaddexp(seen_lse, scores.logsumexp(-1, keepdim=True))
    out = torch.bmm(scores.sub_(lse).exp_().to(query.dtype), layer.suffix_value[:, :span])
    out = out + (seen_lse - lse).exp_().to(query.dtype) * seen
    return out.view(rows, heads, new, width).transpose(1, 2)


def attend_fused(
    layer: LayerBuffers, query: Tensor, key: Tensor, value: Tensor, scale: float, step: Tensor, flash: bool = False
) -> Tensor:
    """The same for one new token per row by the Triton kernels; `flash` takes torch's kernel for the prompts."""
    layer.append(key, value, step)
    return fused_sums(layer, query[:, :, 0], scale, step, flash)[:, None]


def fused_sums(layer: LayerBuffers, query: Tensor, scale: float, step: Tensor, flash: bool = False) -> Tensor:
    """Queries (rows, heads, W), their own key in column `step` already -> (rows, heads, W)."""
    from rlvr_lib.training import decode_kernels as kernels

    if flash:
        seen, lse = _flash_prefix(layer, query, scale)
    else:
        seen, lse = kernels.attend_prefix(query, layer.prefix_key, layer.prefix_value, scale)
    return kernels.attend_suffix(query, layer.suffix_key, layer.suffix_value, seen, lse, step, scale)


def _flash_prefix(layer: LayerBuffers, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`attend_prefix` for queries (rows, heads, W), in the float32 layout that the suffix kernel reads."""
    rows, heads, width = query.shape
    groups, kv_heads = layer.prefix_key.shape[:2]
    grouped = query.reshape(groups, -1, kv_heads, heads // kv_heads, width).transpose(1, 2)
    out, lse = attend_prefix(grouped.flatten(2, 3), layer.prefix_key, layer.prefix_value, scale)
    out, lse = (_per_row(x.float(), rows // groups, heads // kv_heads) for x in (out, lse[..., None]))
    return out.reshape(rows, heads, width).contiguous(), lse.reshape(rows, heads).contiguous()


def _per_row(x: Tensor, group: int, repeats: int) -> Tensor:
    """(groups, K, G * repeats, ...) -> (groups * G * K, repeats, ...)."""
    groups, kv_heads = x.shape[:2]
    x = x.reshape(groups, kv_heads, group, repeats, x.shape[3]).transpose(1, 2)
    return x.reshape(groups * group * kv_heads, repeats, x.shape[4])


def _accurate(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


@functools.cache
def fused_fault(
    heads: int, kv_heads: int, width: int, group: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    """None if the Triton kernels work here for this shape, else one line why not (checked against the plain way)."""
    if dtype not in HALF or width < 16 or width & (width - 1) or group * heads // kv_heads > _FUSED_QUERIES:
        return "this shape or precision is not for them"
    try:
        return _compare(heads, kv_heads, width, group, dtype, device)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"


@torch.no_grad()
def _compare(heads: int, kv_heads: int, width: int, group: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Fused against plain on random numbers, in the middle and at the ends of a block, with a full scale of scores."""
    from rlvr_lib.training import decode_kernels as kernels

    source = torch.Generator().manual_seed(0)
    groups, tokens, capacity = 3, 150, 144
    rows = groups * group

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source).to(device, dtype)

    layer = LayerBuffers(*(noise(groups, kv_heads, tokens, width) for _ in range(2)),
                         *(noise(rows * kv_heads, capacity, width) for _ in range(2)))  # fmt: skip
    angle = torch.rand(1, 1, width // 2, generator=source).repeat(1, 1, 2).to(device) * 6
    cosine, sine = angle.cos().to(dtype), angle.sin().to(dtype)
    for column in (0, 63, 64, 130):
        step = torch.tensor([column], device=device)
        query, key, value = (
            noise(rows, 1, heads, width),
            noise(rows, 1, kv_heads, width),
            noise(rows, 1, kv_heads, width),
        )
        turned, turned_key = (_turned(x.transpose(1, 2), cosine[:, None], sine[:, None]) for x in (query, key))
        expected = attend_plain(layer, turned, turned_key, value.transpose(1, 2), width**-0.5, step, capacity)
        found = [attend_fused(layer, turned, turned_key, value.transpose(1, 2), width**-0.5, step)]
        layer.suffix_key[:, column], layer.suffix_value[:, column] = 0, 0
        mine = kernels.rotate_and_place(
            query[:, 0], key[:, 0], value[:, 0], cosine, sine, layer.suffix_key, layer.suffix_value, step
        )
        found.append(fused_sums(layer, mine, width**-0.5, step)[:, None])
        difference = max(float((one.float() - expected.float()).abs().max()) for one in found)
        if not difference < 0.05:
            return f"results differ by {difference:.2g}"
    return None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions as transformers computes them."""
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine
