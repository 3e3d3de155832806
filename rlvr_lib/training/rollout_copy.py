"""A copy of the policy to sample with, in the precision of rollouts (E.1: the rollout engine runs in bfloat16).

The trainer keeps float32 weights and computes under autocast, which casts every weight in every pass. Sampling makes
hundreds of passes with the same weights, so they are cast once: the copy is made at the first use and refreshed in
place before each rollout. It is free of the wrappers and hooks that a trainer puts on a model, so its normalisation and
attention can take fused kernels without touching the model that is trained.
"""

import copy
import functools
from types import MethodType
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvr_lib.training.shared_prompt import base_model

_copies: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def forget_copies() -> None:
    """Drop all copies (a quarter of a gigabyte each at the paper's size)."""
    _copies.clear()


@torch.no_grad()
def rollout_model(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """`model` without wrappers if it is of `dtype` and unpatched, else its refreshed copy in `dtype` (None: its own).

    A forward method of its own in the instance is accelerate's mixed precision: then None means bfloat16.
    """
    source = base_model(model)
    patched = "forward" in vars(source)
    dtype = dtype or (torch.bfloat16 if patched else source.dtype)
    if dtype == source.dtype and not patched:
        return source
    twin = _copies.get(source)
    if twin is None or twin.dtype != dtype or twin.device != source.device:
        twin = _copies[source] = _bare_copy(source, dtype)
    torch._foreach_copy_(list(twin.parameters()), [x.detach() for x in source.parameters()])
    return twin


def _bare_copy(source: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A deep copy without hooks and patched methods; buffers (rotary frequencies) keep their precision."""
    twin = copy.deepcopy(source).eval().requires_grad_(False)
    for module in twin.modules():
        for name in ("forward", "_original_forward"):
            vars(module).pop(name, None)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(dtype)
    _fuse(twin)
    return twin


def _fuse(twin: nn.Module) -> None:
    """One kernel for each normalisation, one for rotary positions; rounds once where transformers rounds twice."""
    for module in twin.modules():
        kind = type(module).__name__
        if kind in ("LlamaRMSNorm", "Qwen2RMSNorm"):
            options = {"normalized_shape": module.weight.shape, "eps": module.variance_epsilon}
            module.forward = functools.partial(F.rms_norm, weight=module.weight, **options)
        elif kind in ("LlamaAttention", "Qwen2Attention"):
            module.forward = MethodType(_attention, module)


def _attention(
    self: nn.Module,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    shared_prompt=None,
    **kw,
) -> tuple[Tensor, Tensor | None]:
    """Hands queries, keys and values (rows, heads, W) of one new token to an attender that rotates them itself."""
    sliding = getattr(self, "sliding_window", None) is not None
    if sliding or hidden_states.shape[1] != 1 or not getattr(shared_prompt, "rotates", False):
        return type(self).forward(self, hidden_states, position_embeddings, shared_prompt=shared_prompt, **kw)
    rows, width = len(hidden_states), self.head_dim
    query, key, value = (
        project(hidden_states).view(rows, -1, width) for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    out = shared_prompt.attend_unrotated(self, query, key, value, *position_embeddings)
    return self.o_proj(out.view(rows, 1, -1)), None
