"""A copy of a small model to decode with on a CPU: weights that read the same input lie side by side.

A decoding pass multiplies some dozens of rows by every weight; on a CPU more than half of its time goes around the many
small products of matrices, not into them. The copy makes one product of queries, keys and values, and one of gate and
up; its weights are stored by input, the order that the product of few rows reads fastest. Its parameters are views of
the joint buffers, so a refresh before each rollout copies numbers and nothing else. While prompts are read, the last
layer makes keys and values of all tokens and the rest of the last one only. Results are the model's up to round-off.
"""

from types import MethodType
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, Qwen2ForCausalLM

FAMILIES = (LlamaForCausalLM, Qwen2ForCausalLM)
LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}
_MOST_BYTES = 1 << 29  # a larger model is not worth a second copy in memory
_copies: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


@torch.no_grad()
def decoding_model(model: nn.Module) -> nn.Module:
    """The refreshed copy of a plain LLaMA or Qwen2 on a CPU; any other model itself."""
    if not _fits(model):
        return model
    copy = _copies.get(model)
    if copy is None or copy.dtype != model.dtype:
        copy = _copies[model] = _side_by_side(model)
    mine = dict(copy.named_parameters(remove_duplicate=False))
    theirs = dict(model.named_parameters(remove_duplicate=False))
    torch._foreach_copy_([mine[name] for name in theirs], [x.detach() for x in theirs.values()])
    return copy


def _fits(model: nn.Module) -> bool:
    """Plain float weights on a CPU, of a known family, nothing wrapped around the model or put into its layers."""
    if type(model) not in FAMILIES or getattr(model.config, "use_sliding_window", False):
        return False
    # A trainer may have put a forward of its own into the model: TRL's asks for losses, and is the class's otherwise;
    # accelerate's computes in another precision.
    own = vars(model).get("forward")
    if "_original_forward" in vars(model) or (own and getattr(own, "__wrapped__", None) is not type(model).forward):
        return False
    inside = {name.rpartition(".")[2]: module for name, module in model.named_modules() if not list(module.children())}
    plain = all(type(module) is nn.Linear for name, module in inside.items() if name in LAYERS)
    weights = list(model.parameters())
    others = {name.split(".")[-2] for name, _ in model.named_parameters()} - LAYERS - {"embed_tokens"}
    kinds = {(x.device.type, x.dtype) for x in weights}
    known = plain and LAYERS - {"lm_head"} <= set(inside) and all(name.endswith("norm") for name in others)
    return known and kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)}) and _bytes(weights) <= _MOST_BYTES


def _bytes(weights: list[nn.Parameter]) -> int:
    return sum(x.numel() * x.element_size() for x in weights)


def _side_by_side(model: nn.Module) -> nn.Module:
    """An empty copy with joint buffers; rotary positions are the model's own module."""
    with torch.device("meta"):
        copy = type(model)(model.config)
    copy.get_decoder().rotary_emb = model.get_decoder().rotary_emb
    for name, weight in model.named_parameters(remove_duplicate=False):
        module, _, last = name.rpartition(".")
        setattr(copy.get_submodule(module), last, nn.Parameter(torch.empty_like(weight), requires_grad=False))
    for module in copy.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = MethodType(_norm, module)
        elif kind.endswith("MLP"):
            _join(module, ("gate_proj", "up_proj"))
            module.forward = MethodType(_mlp, module)
        elif kind.endswith("Attention"):
            _join(module, ("q_proj", "k_proj", "v_proj"))
            module.forward = MethodType(_attention, module)
    last = copy.get_decoder().layers[-1]
    last.forward = MethodType(_last_layer, last)
    for module in copy.modules():
        if type(module) is nn.Linear and not getattr(module, "joint", False):
            _by_input(module)
    return copy.eval()


def _join(module: nn.Module, names: tuple[str, ...]) -> None:
    """``module.together`` [in, sum of out] and ``module.shifts`` [sum of out] or None; the layers become views."""
    layers = [getattr(module, name) for name in names]
    first, sizes = layers[0].weight, [len(layer.weight) for layer in layers]
    module.together = first.new_empty(first.shape[1], sum(sizes))
    module.shifts = None if layers[0].bias is None else first.new_empty(sum(sizes))
    for layer, weight in zip(layers, module.together.split(sizes, 1), strict=True):
        layer.weight, layer.joint = nn.Parameter(weight.t(), requires_grad=False), True
    if module.shifts is not None:
        for layer, bias in zip(layers, module.shifts.split(sizes), strict=True):
            layer.bias = nn.Parameter(bias, requires_grad=False)


def _by_input(layer: nn.Linear) -> None:
    """Store a weight [out, in] column after column: then few rows are multiplied a fifth faster."""
    size = layer.weight.shape
    layer.weight = nn.Parameter(layer.weight.new_empty(size[1], size[0]).t(), requires_grad=False)


def _product(x: Tensor, module: nn.Module) -> Tensor:
    out = x @ module.together
    return out if module.shifts is None else out.add_(module.shifts)


def _norm(self: nn.Module, x: Tensor) -> Tensor:
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return (x * square.div_(x.shape[-1]).add_(self.variance_epsilon).rsqrt_()).mul_(self.weight)


def _mlp(self: nn.Module, x: Tensor) -> Tensor:
    gate, up = _product(x, self).chunk(2, -1)
    return self.down_proj(self.act_fn(gate).mul_(up))


def _attention(
    self: nn.Module, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], shared_prompt, **_
) -> tuple[Tensor, None]:
    """Queries and keys are turned together; the sampler's object attends."""
    rows, new, _ = hidden_states.shape
    heads = _product(hidden_states, self).view(rows, new, -1, self.head_dim).transpose(1, 2)
    values = self.v_proj.weight.shape[0] // self.head_dim
    turned = _turned(heads[:, :-values], *(x[:, None] for x in position_embeddings))
    out = shared_prompt.attend(self, turned[:, :-values], turned[:, -values:], heads[:, -values:], self.scaling)
    return self.o_proj(out.reshape(rows, new, -1)), None


def _turned(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions of queries or keys [..., width]."""
    first, second = heads.chunk(2, -1)
    return (heads * cosine).addcmul_(torch.cat([-second, first], -1), sine)


def _last_layer(
    self: nn.Module, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], shared_prompt, **rest
) -> Tensor:
    """While prompts are read only their last tokens leave the last layer; what stands at the others is not read."""
    last = getattr(shared_prompt, "last", None)
    if last is None:
        options = {"position_embeddings": position_embeddings, "shared_prompt": shared_prompt, **rest}
        return type(self).forward(self, hidden_states, **options)
    attention, normed, rows = self.self_attn, self.input_layernorm(hidden_states), torch.arange(len(last))
    width, queries = attention.head_dim, attention.q_proj.weight.shape[0]
    query = F.linear(normed[rows, last], attention.q_proj.weight, attention.q_proj.bias).unflatten(-1, (-1, width))
    pair = normed @ attention.together[:, queries:]
    if attention.shifts is not None:
        pair += attention.shifts[queries:]
    key, value = pair.unflatten(-1, (-1, width)).transpose(1, 2).chunk(2, 1)
    here = (x.expand(len(last), -1, -1)[rows, last, None] for x in position_embeddings)
    query, key = _turned(query, *here), _turned(key, *(x[:, None] for x in position_embeddings))
    out = shared_prompt.attend_last(attention, query[:, :, None], key, value, attention.scaling)
    ends = hidden_states[rows, last] + attention.o_proj(out.flatten(1))
    hidden_states[rows, last] = ends + self.mlp(self.post_attention_layernorm(ends))
    return hidden_states


__all__ = ["decoding_model"]
