"""Attention of packed responses as two flash calls whose results are merged by their log-sum-exps.

(a) All G responses of a group, laid end to end as one long query, attend to the group's prompt: no mask, and the
    prompt's keys are neither copied per response nor read per response.
(b) Each response attends causally to itself.

With l = logaddexp(l_a, l_b) the softmax over both sets of keys is exp(l_a - l) out_a + exp(l_b - l) out_b. The flash
backward of each part, given the merged output and the merged l, is exact: it forms P = exp(s - l) and
dS = P * (dP - rowsum(dO * O)), which are the entries of the whole softmax that belong to its own keys.

``RLVR_ATTENTION`` chooses the engine of a GPU: flash (default), cudnn, or plain for keys copied per row; a CPU has one
engine, which plain switches off. An engine is tried on a small case against plain attention, gradients included, before
its first use; if it fails, that is said, and plain is used. The private operators of torch are reached through one
adapter each.
"""

import functools
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvr_lib.progress import say
from rlvr_lib.training.fused import Fused, compare

ENGINE = os.environ.get("RLVR_ATTENTION", "flash")
_HALF = (torch.bfloat16, torch.float16)


class FlashEngine:
    """torch's FlashAttention: queries (B, heads, N, width), log-sum-exps (B, heads, N) in float32."""

    dtypes = _HALF

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, ...]:
        """Output, log-sum-exps, and what else the backward operator wants."""
        run = torch.ops.aten._scaled_dot_product_flash_attention.default
        out, logsumexp, _, _, _, _, state, unused, _ = run(query, key, value, 0.0, causal, False, scale=scale)
        return out, logsumexp, state, unused

    @staticmethod
    def backward(gradient, query, key, value, out, logsumexp, extra, causal, scale) -> tuple[Tensor, Tensor, Tensor]:
        run = torch.ops.aten._scaled_dot_product_flash_attention_backward.default
        lengths, state = (query.shape[2], key.shape[2]), (extra[0], extra[1])
        tensors = (gradient, query, key, value, out, logsumexp)
        return run(*tensors, None, None, *lengths, 0.0, causal, *state, scale=scale)


class CudnnEngine:
    """cuDNN's attention, the faster one on Hopper for some shapes."""

    dtypes = _HALF

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, ...]:
        run = torch.ops.aten._scaled_dot_product_cudnn_attention.default
        results = run(query, key, value, None, True, 0.0, causal, False, scale=scale)
        return results[0], results[1], results[6], results[7]

    @staticmethod
    def backward(gradient, query, key, value, out, logsumexp, extra, causal, scale) -> tuple[Tensor, Tensor, Tensor]:
        run = torch.ops.aten._scaled_dot_product_cudnn_attention_backward.default
        lengths = (query.shape[2], key.shape[2])
        tensors = (gradient, query, key, value, out, logsumexp, *extra)
        return run(*tensors, None, None, None, *lengths, 0.0, causal, scale=scale)


class CpuEngine:
    """torch's flash kernels for CPUs: log-probabilities and update take a tenth less time than by plain attention."""

    dtypes = (torch.float32, torch.float64, *_HALF)

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple[Tensor, ...]:
        run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        return run(query, key, value, 0.0, causal, scale=scale)

    @staticmethod
    def backward(gradient, query, key, value, out, logsumexp, extra, causal, scale) -> tuple[Tensor, Tensor, Tensor]:
        run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
        return run(gradient, query, key, value, out, logsumexp, 0.0, causal, scale=scale)


ENGINES: dict[str, dict[str, type]] = {
    "flash": {"cuda": FlashEngine, "cpu": CpuEngine},
    "cudnn": {"cuda": CudnnEngine, "cpu": CpuEngine},
}


def _merge(prompt: Tensor, own: Tensor, prompt_sum: Tensor, own_sum: Tensor) -> Tensor:
    """Outputs (rows, S, heads, width) of the two parts, log-sum-exps (rows, heads, S) -> the output over both."""
    share = torch.sigmoid(own_sum - prompt_sum).transpose(1, 2)[..., None]
    return (prompt + share * (own - prompt)).to(own.dtype)


merge = Fused(_merge)


def _long(x: Tensor, groups: int) -> Tensor:
    """(rows, S, heads, width) -> (groups, heads, G * S, width): a view where rows follow each other in memory."""
    return x.reshape(groups, -1, *x.shape[2:]).transpose(1, 2)


class MergedAttention(torch.autograd.Function):
    """Responses' queries, keys, values (rows, S, heads, width), prompts' (groups, P, heads, width) -> (rows, S, ...).

    Rows of a group follow each other; all of one type that `engine` knows.
    """

    @staticmethod
    def forward(ctx, query, key, value, prompt_key, prompt_value, scale: float | None, engine: type) -> Tensor:
        rows, length, heads, _ = query.shape
        groups = len(prompt_key)
        size = (groups, heads, rows // groups, length)
        prompt = engine.forward(
            _long(query, groups), prompt_key.transpose(1, 2), prompt_value.transpose(1, 2), False, scale
        )
        own = engine.forward(*(x.transpose(1, 2) for x in (query, key, value)), True, scale)
        prompt_sum = prompt[1].reshape(size).transpose(1, 2).reshape(rows, heads, length)
        own_sum = own[1].reshape(rows, heads, length)
        out = merge(prompt[0].transpose(1, 2).reshape(query.shape), own[0].transpose(1, 2), prompt_sum, own_sum)
        total = torch.logaddexp(prompt_sum, own_sum)
        ctx.save_for_backward(query, key, value, prompt_key, prompt_value, out, total, *prompt[2:], *own[2:])
        ctx.scale, ctx.engine, ctx.shapes = scale, engine, (prompt[1].shape, own[1].shape)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor):
        query, key, value, prompt_key, prompt_value, out, total, *extra = ctx.saved_tensors
        (rows, length, heads, _), groups, half = query.shape, len(prompt_key), len(extra) // 2
        gradient = gradient.to(out.dtype).contiguous()
        long_total = total.view(groups, rows // groups, heads, length).transpose(1, 2).reshape(ctx.shapes[0])
        back, for_prompt_key, for_prompt_value = ctx.engine.backward(
            _long(gradient, groups),
            _long(query, groups),
            prompt_key.transpose(1, 2),
            prompt_value.transpose(1, 2),
            _long(out, groups),
            long_total.contiguous(),
            extra[:half],
            False,
            ctx.scale,
        )
        own = (x.transpose(1, 2) for x in (gradient, query, key, value, out))
        own_back, for_key, for_value = ctx.engine.backward(
            *own, total.view(ctx.shapes[1]), extra[half:], True, ctx.scale
        )
        for_query = back.transpose(1, 2).reshape(query.shape) + own_back.transpose(1, 2)
        rest = (x.transpose(1, 2) for x in (for_key, for_value, for_prompt_key, for_prompt_value))
        return for_query, *rest, None, None


def plain_attention(query, key, value, prompt_key, prompt_value, scale: float | None = None) -> Tensor:
    """What `MergedAttention` computes, the slow obvious way: prompt keys copied per row, one masked softmax."""
    group = len(query) // len(prompt_key)
    key, value = (
        torch.cat([prompt.repeat_interleave(group, 0), own], 1).transpose(1, 2)
        for prompt, own in ((prompt_key, key), (prompt_value, value))
    )
    length, before = query.shape[1], prompt_key.shape[1]
    seen = torch.ones(length, before + length, dtype=torch.bool, device=query.device).tril(before)
    return F.scaled_dot_product_attention(query.transpose(1, 2), key, value, seen, scale=scale).transpose(1, 2)


def engine_for(query: Tensor, key: Tensor, dtype: torch.dtype) -> type | None:
    """The engine for queries and keys (N, heads, width) that will be `dtype`; None means the plain way."""
    engine, width = ENGINES.get(ENGINE, {}).get(query.device.type), query.shape[-1]
    if engine is None or dtype not in engine.dtypes or query.shape != key.shape or width % 8 or width > 128:
        return None
    return engine if works(engine, query.device, dtype, width) else None


@functools.cache
def works(engine: type, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Try `engine` on a small case, values and gradients, against plain attention in float32; say so if it fails."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 9, 2, width)] * 3 + [(2, 33, 2, width)] * 2 + [(6, 9, 2, width)]
    given = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    try:
        with torch.enable_grad(), torch.autocast(device.type, enabled=False):
            found = _with_gradients(lambda *x: MergedAttention.apply(*x, None, engine), given)
            compare(found, _with_gradients(plain_attention, [x.float() for x in given]), 0.03)
    except (RuntimeError, ArithmeticError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        say(f"attention copies the prompt's keys per response, {engine.__name__} fails its trial: {reason[:200]}")
        return False
    return True


def _with_gradients(function, given: list[Tensor]) -> tuple[Tensor, ...]:
    *inputs, gradient = (x.detach().requires_grad_() for x in given)
    out = function(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, gradient.detach())
