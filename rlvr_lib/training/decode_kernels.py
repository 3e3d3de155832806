"""Triton kernels of one decoding step: a new token per row attends to its group's prompt and to its own suffix.

The step is read from device memory, so one captured CUDA graph serves all steps, and a row's suffix is read exactly as
far as it goes. The prompt's keys are read once per group. Accumulation is in float32, and the softmax over both parts
is one (the suffix kernel goes on from the prompt's result and log-sum-exp). Importing this module needs Triton.

Shapes: rows = groups * G, prompt-major; H heads, K key heads, W width of a head, P prompt tokens, C capacity.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PREFIX_CONFIG = {"BLOCK": 128, "num_warps": 4, "num_stages": 3}  # the fastest of those tried on an H100
SUFFIX_CONFIG = {"BLOCK": 64, "num_warps": 2}


@triton.jit
def _prefix(
    query, key, value, out, lse, scale, tokens, row_stride, head_stride,
    G: tl.constexpr, H: tl.constexpr, K: tl.constexpr, W: tl.constexpr, QUERIES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per (group, key head): its G * H / K queries against the prompt's keys."""
    program = tl.program_id(0).to(tl.int64)
    group = program // K
    place = tl.arange(0, QUERIES)
    real = place < G * (H // K)
    row = group * G + place // (H // K)
    head = (program % K) * (H // K) + place % (H // K)
    width = tl.arange(0, W)
    queries = tl.load(query + (row * row_stride + head * head_stride)[:, None] + width[None], real[:, None], other=0.0)
    start_of = program * tokens * W
    top = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, W), tl.float32)
    for start in range(0, tokens, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < tokens
        offset = start_of + at[:, None] * W + width[None]
        keys = tl.load(key + offset, there[:, None], other=0.0)
        values = tl.load(value + offset, there[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys)) * scale
        scores = tl.where(there[None], scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - new[:, None])
        fade = tl.exp(top - new)
        total = total * fade + tl.sum(weights, 1)
        sums = tl.dot(weights.to(values.dtype), values, sums * fade[:, None])
        top = new
    to = row * H + head
    tl.store(out + to[:, None] * W + width[None], sums / total[:, None], real[:, None])
    tl.store(lse + to, top + tl.log(total), real)


@triton.jit
def _suffix(
    query, key, value, seen, lse, out, step, scale, capacity, row_stride, head_stride,
    H: tl.constexpr, K: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per (row, head): goes on from the prompt's part over the row's own tokens 0..step."""
    program = tl.program_id(0).to(tl.int64)
    row, head = program // H, program % H
    width = tl.arange(0, W)
    one = tl.load(query + row * row_stride + head * head_stride + width).to(tl.float32) * scale
    sums = tl.load(seen + program * W + width)
    top = tl.load(lse + program)
    total = top - top + 1.0
    start_of = (row * K + head // (H // K)) * capacity * W
    count = tl.load(step).to(tl.int32) + 1
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        there = at < count
        offset = start_of + at[:, None] * W + width[None]
        keys = tl.load(key + offset, there[:, None], other=0.0).to(tl.float32)
        values = tl.load(value + offset, there[:, None], other=0.0).to(tl.float32)
        scores = tl.where(there, tl.sum(keys * one[None], 1), float("-inf"))
        new = tl.maximum(top, tl.max(scores, 0))
        weights = tl.exp(scores - new)
        fade = tl.exp(top - new)
        total = total * fade + tl.sum(weights, 0)
        sums = sums * fade + tl.sum(weights[:, None] * values, 0)
        top = new
    tl.store(out + program * W + width, (sums / total).to(out.dtype.element_ty))


@triton.jit
def _rotate(source, target, source_at, target_at, cosine, sine, place, real, HALF: tl.constexpr):
    """Rotary positions of heads (n, 2 * HALF) from `source` to `target`."""
    first = tl.load(source + source_at + place, real, other=0.0).to(tl.float32)
    second = tl.load(source + source_at + place + HALF, real, other=0.0).to(tl.float32)
    kind = target.dtype.element_ty
    tl.store(target + target_at + place, (first * cosine - second * sine).to(kind), real)
    tl.store(target + target_at + place + HALF, (second * cosine + first * sine).to(kind), real)


@triton.jit
def _place(
    query, key, value, cosine, sine, out, suffix_key, suffix_value, step, capacity,
    H: tl.constexpr, K: tl.constexpr, W: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """One program per row: rotate its query, rotate its key into the suffix, copy its value there."""
    row = tl.program_id(0).to(tl.int64)
    half = tl.arange(0, W // 2)[None]
    cos = tl.load(cosine + half).to(tl.float32)
    sin = tl.load(sine + half).to(tl.float32)
    head = tl.arange(0, HEADS)[:, None]
    here = row * H * W + head * W
    _rotate(query, out, here, here, cos, sin, half, head < H, W // 2)
    here = row * K * W + head * W
    there = ((row * K + head) * capacity + tl.load(step)) * W
    _rotate(key, suffix_key, here, there, cos, sin, half, head < K, W // 2)
    whole = tl.arange(0, W)[None]
    tl.store(suffix_value + there + whole, tl.load(value + here + whole, head < K), head < K)


def attend_prefix(query: Tensor, key: Tensor, value: Tensor, scale: float, config: dict | None = None):
    """Queries (rows, H, W), keys and values (groups, K, P, W) -> float32 output (rows, H, W), log-sum-exp (rows, H)."""
    rows, heads, width = query.shape
    groups, kv_heads, tokens, _ = key.shape
    out = torch.empty(rows, heads, width, dtype=torch.float32, device=query.device)
    lse = torch.empty(rows, heads, dtype=torch.float32, device=query.device)
    queries = max(16, triton.next_power_of_2(rows // groups * heads // kv_heads))
    _prefix[(groups * kv_heads,)](
        query, key, value, out, lse, scale, tokens, query.stride(0), query.stride(1),
        G=rows // groups, H=heads, K=kv_heads, W=width, QUERIES=queries, **(config or PREFIX_CONFIG),
    )  # fmt: skip
    return out, lse


def attend_suffix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor,
    lse: Tensor,
    step: Tensor,
    scale: float,
    config: dict | None = None,
) -> Tensor:
    """Queries (rows, H, W), suffixes (rows * K, C, W) that hold tokens 0..step, the prompt's part -> (rows, H, W)."""
    rows, heads, width = query.shape
    out = torch.empty(rows, heads, width, dtype=query.dtype, device=query.device)
    _suffix[(rows * heads,)](
        query, key, value, seen, lse, out, step, scale, key.shape[1], query.stride(0), query.stride(1),
        H=heads, K=len(key) // rows, W=width, **(config or SUFFIX_CONFIG),
    )  # fmt: skip
    return out


def rotate_and_place(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosine: Tensor,
    sine: Tensor,
    suffix_key: Tensor,
    suffix_value: Tensor,
    step: Tensor,
) -> Tensor:
    """Rotated queries (rows, H, W); keys and values (rows, K, W), all contiguous, go to suffix column `step`."""
    rows, heads, width = query.shape
    out = torch.empty_like(query)
    _place[(rows,)](
        query, key, value, cosine, sine, out, suffix_key, suffix_value, step, suffix_key.shape[1],
        H=heads, K=key.shape[1], W=width, HEADS=triton.next_power_of_2(heads), num_warps=4,
    )  # fmt: skip
    return out
