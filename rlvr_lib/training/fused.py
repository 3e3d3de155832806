"""Norms, rotary embeddings, SwiGLU and the softmax over the vocabulary as one kernel each, on a GPU.

At width 768 the eager versions of these move more bytes than the matrix products do arithmetic: every `to(float32)`,
square and product is a trip to memory. Here each is an autograd function of two plain functions of tensors, forward
and backward, that `torch.compile` turns into one or two kernels. Nothing of the model changes but the `forward` of its
own module objects: classes, other models, state dict and saved files stay as they are.

Fail-safe: the first result of each compiled function is compared with the eager one; a fault or a difference is said
once, and that function stays eager. ``RLVR_FUSE=0`` switches everything here off.
"""

import inspect
import os
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvr_lib.compiled import Compiled

ENABLED = os.environ.get("RLVR_FUSE", "1") != "0"
DEVICES = {"cuda"}  # where fused modules leave the eager way (tests name "cpu")
COMPILING = {"cuda"}  # where functions are compiled
FAMILIES = ("llama", "qwen2")  # their norm is weight * x / rms(x), their MLP down(silu(gate) * up)
_MIN_TOKENS = 4096  # below (decoding) launches cost more than memory, and another shape would be compiled
_MIN_ELEMENTS = 1 << 20  # the same for one function: small trials stay eager and compile nothing
_COMPARED = 1 << 24  # entries looked at in the comparison, so that it needs little memory
_ALLOWED = 0.02  # relative difference from eager, in norm: bfloat16 results round at 0.4 %
_fused: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class Fused(Compiled):
    """A pure function of tensors in training: one kernel for every number of tokens, its first result compared.

    It gets detached tensors and runs without gradients; ``dim`` is the dimension that counts tokens. Small inputs, and
    all of them after a fault or a difference, go to ``eager``.
    """

    def __init__(self, function: Callable[..., Any], eager: Callable[..., Any] | None = None, dim: int = 0):
        super().__init__(function, eager)
        self.dim, self.checked = dim, False

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> Any:
        return super().__call__(*(x.detach() if isinstance(x, Tensor) else x for x in inputs))

    def worthwhile(self, first: Tensor) -> bool:
        return ENABLED and first.device.type in COMPILING and first.numel() >= _MIN_ELEMENTS

    def run(self, inputs: tuple[Any, ...]) -> Any:
        if self._fused is None:
            self._fused = torch.compile(self.function)
            self._mark(inputs)
        result = self._fused(*inputs)
        if not self.checked:
            compare(result, self.eager(*inputs))
            self.checked = True
        return result

    def _mark(self, inputs: tuple[Any, ...]) -> None:
        """Before the first compilation: token counts may vary, all other sizes are constants of the model."""
        size = inputs[0].shape[self.dim]
        for x in inputs:
            if isinstance(x, Tensor) and x.dim() > self.dim and x.shape[self.dim] == size:
                torch._dynamo.maybe_mark_dynamic(x, self.dim)


def compare(found: Any, expected: Any, allowed: float = _ALLOWED) -> None:
    """Raise ArithmeticError if one of the tensors differs from what is expected by more than rounding, in norm."""
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for one, other in pairs:
        some = max(1, _COMPARED // max(1, other[:1].numel()))
        one, other = one[:some].float(), other[:some].float()
        difference = float((one - other).norm() / other.norm().clamp(min=1e-20))
        if not difference <= allowed:
            raise ArithmeticError(f"differs from the plain computation by {difference:.2g}")


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _norm_forward(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, D) -> weight * x / rms(x) as `dtype`, and 1 / rms(x) (N, 1) in at least float32."""
    wide = _wide(x)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (_wide(weight) * (wide * scale)).to(dtype), scale


def _norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients for x (N, D) and weight (D,)."""
    unit, gradient = _wide(x) * scale, _wide(gradient)
    inner = gradient * _wide(weight)
    back = scale * (inner - unit * (inner * unit).mean(-1, keepdim=True))
    return back.to(x.dtype), (gradient * unit).sum(0).to(weight.dtype)


def _rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, heads, width) turned by angles given as (B or 1, N, width); dtypes stay."""
    cos, sin = cos[:, :, None], sin[:, :, None]

    def turned(x: Tensor) -> Tensor:
        first, second = _wide(x).chunk(2, -1)
        return (_wide(x) * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)

    return turned(query), turned(key)


def _swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    return (F.silu(_wide(gate)) * _wide(up)).to(up.dtype)


def _swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    gradient, wide = _wide(gradient), _wide(gate)
    share = torch.sigmoid(wide)
    back = gradient * _wide(up) * share * (1 + wide * (1 - share))
    return back.to(gate.dtype), (gradient * wide * share).to(up.dtype)


norm_forward, norm_backward = Fused(_norm_forward), Fused(_norm_backward)
swiglu_forward, swiglu_backward = Fused(_swiglu_forward), Fused(_swiglu_backward)
rotate = Fused(_rotate, dim=1)


class RMSNorm(torch.autograd.Function):
    """(..., D) -> (..., D) in `dtype`; keeps x and one number a row."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        result, scale = norm_forward(flat, weight, epsilon, dtype)
        ctx.save_for_backward(flat, weight, scale)
        return result.view(x.shape)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        flat, weight, scale = ctx.saved_tensors
        back, for_weight = norm_backward(gradient.reshape(flat.shape), flat, weight, scale)
        return back.view(gradient.shape), for_weight, None, None


class Rotary(torch.autograd.Function):
    """Queries and keys (B, heads, N, width); backward turns back, which is the same kernel with -sin."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return tuple(x.transpose(1, 2) for x in rotate(query.transpose(1, 2), key.transpose(1, 2), cos, sin))

    @staticmethod
    def backward(ctx, for_query: Tensor, for_key: Tensor):
        cos, sin = ctx.saved_tensors
        turned = rotate(for_query.transpose(1, 2), for_key.transpose(1, 2), cos, -sin)
        return *(x.transpose(1, 2) for x in turned), None, None


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up, all (..., D); keeps its inputs only."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return swiglu_forward(gate.flatten(0, -2), up.flatten(0, -2)).view(gate.shape)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        results = swiglu_backward(*(x.flatten(0, -2) for x in (gradient, *ctx.saved_tensors)))
        return tuple(x.view(gradient.shape) for x in results)


def working_dtype(x: Tensor, default: torch.dtype | None = None) -> torch.dtype:
    """What a matrix product makes of x: autocast's type where that is on, else `default` or x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else default or x.dtype


def _worth(x: Tensor, tokens: int) -> bool:
    return ENABLED and x.device.type in DEVICES and tokens >= _MIN_TOKENS


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if not _worth(hidden_states, hidden_states.numel() // hidden_states.shape[-1]):
        return type(self).forward(self, hidden_states)
    # Linear layers would round to this type at once, each of them anew.
    dtype = working_dtype(hidden_states, torch.promote_types(hidden_states.dtype, self.weight.dtype))
    return RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, dtype)


def _mlp(self: Any, x: Tensor) -> Tensor:
    if not _worth(x, x.numel() // x.shape[-1]):
        return type(self).forward(self, x)
    return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


def _attention(kind: type) -> Callable | None:
    """The class's own `forward` with a fused rotary embedding; None if it applies that in another way."""
    forward = inspect.unwrap(kind.forward)
    plain = forward.__globals__.get("apply_rotary_pos_emb")
    if plain is None or "apply_rotary_pos_emb" not in forward.__code__.co_names:
        return None

    def apply(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        if rest or not _worth(query, query.shape[0] * query.shape[2]):
            return plain(query, key, cos, sin, *rest)
        return Rotary.apply(query, key, cos, sin)

    names = {**forward.__globals__, "apply_rotary_pos_emb": apply}
    bound = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    bound.__kwdefaults__ = forward.__kwdefaults__
    return bound


def fuse(model: nn.Module) -> None:
    """Let a transformers LLaMA or Qwen2 run its element-wise work fused where `DEVICES` and size say so. Idempotent."""
    if model in _fused or getattr(model.config, "model_type", None) not in FAMILIES:
        return
    _fused.add(model)
    attentions: dict[type, Callable | None] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_norm, module)
        elif kind.__name__.endswith("MLP") and type(getattr(module, "act_fn", None)).__name__.startswith("SiLU"):
            module.forward = MethodType(_mlp, module)
        elif kind.__name__.endswith("Attention"):
            forward = attentions.setdefault(kind, attentions.get(kind) or _attention(kind))
            if forward is not None:
                module.forward = MethodType(forward, module)
