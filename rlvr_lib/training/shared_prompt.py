"""Log-probabilities of a GRPO group with the prompt computed once.

The G responses of a group have the same prompt. The plain computation runs prompt + response for each of the B*G rows;
here all real tokens of a batch are packed into one flat sequence

    prompt_0[:-1], prompt_1[:-1], ..., then for each row (prompt[-1], response[:-1])

so the linear layers see P + G*R tokens a group instead of G*(P + R), and no padding. Repeating the last prompt token in
front of each response gives every response token exactly one predicting position. Only attention needs to know about
the packing: a function registered with transformers' attention interface takes the layout as a keyword argument, so
model class, weights and checkpoints stay the standard ones. Exact up to floating-point round-off, gradients included.
Where lengths are equal (video), the prompt's keys are not copied per row (flash_merge.py); on a GPU element-wise work
is fused (fused.py). Elsewhere, and if either fails there, attention over copied keys and eager modules.

The technique is known (Prefix Grouper, verl, Unsloth); the paper's code computes every row in full.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlvr_lib.training.flash_merge import MergedAttention, engine_for
from rlvr_lib.training.fused import fuse, working_dtype
from rlvr_lib.training.token_statistics import TokenStatistics

ATTENTION = "shared_prompt"
_HEAD_IS_LAST = ("llama", "qwen2")  # model types whose logits are their head's output as it is


def shared_prompt_attention(module, query, key, value, attention_mask, scaling=None, shared_prompt=None, **kwargs):
    """Attention function for transformers: plain SDPA, unless a `shared_prompt` object does the attending."""
    if shared_prompt is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if kwargs.get("sliding_window") is not None or kwargs.get("dropout"):
        raise NotImplementedError("shared prompts support neither sliding-window attention nor attention dropout")
    return shared_prompt.attend(module, query, key, value, scaling), None


AttentionInterface.register(ATTENTION, shared_prompt_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model inside DDP, `accelerate` and PEFT wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def enable(model: nn.Module) -> None:
    """Switch `model` to the shared-prompt attention function (which is plain SDPA when no layout is passed).

    It is left on: gradient checkpointing calls attention again in the backward pass. Saved configs do not mention it.
    On a GPU the model's element-wise work is fused as well.
    """
    model = base_model(model)
    fuse(model)
    if model.config._attn_implementation != ATTENTION:
        model.set_attn_implementation(ATTENTION)


def no_mask(device: torch.device) -> Tensor:
    """A 4-D dummy: transformers hands a 4-D mask to attention untouched, so no causal mask is built for nothing."""
    return torch.empty(0, 0, 0, 0, device=device)


class _Reindex(torch.autograd.Function):
    """Gather rows by an injective index whose inverse is known, so that backward is a gather too (no atomics)."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, inverse: Tensor, padding: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, padding)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        inverse, padding = ctx.saved_tensors
        back = gradient.index_select(0, inverse)
        if padding is not None:
            back.masked_fill_(padding.view(-1, *[1] * (back.dim() - 1)), 0)
        return back, None, None, None


@dataclass
class _Block:
    """One padded view (n sequences of at most `length` tokens) of the flat sequence's tokens start..start+count."""

    start: int
    lengths: Tensor  # (n,)
    count: int = field(init=False)
    length: int = field(init=False)
    uniform: bool = field(init=False)

    def __post_init__(self):
        self.count, self.length = int(self.lengths.sum()), int(self.lengths.max())
        self.uniform = self.count == self.length * len(self.lengths)
        if self.uniform:
            return
        position = torch.arange(self.length, device=self.lengths.device)
        valid = position < self.lengths[:, None]  # (n, length)
        first = self.lengths.cumsum(0) - self.lengths
        self.padding = ~valid.flatten()
        self.to_padded = (first[:, None] + position).masked_fill(~valid, 0).flatten()
        self.to_flat = valid.flatten().nonzero()[:, 0]

    def pad(self, x: Tensor) -> Tensor:
        """(N, heads, width) flat -> (n, length, heads, width); what stands at padding is arbitrary but finite."""
        x = x[self.start : self.start + self.count]
        if not self.uniform:
            x = _Reindex.apply(x, self.to_padded, self.to_flat, None)
        return x.reshape(len(self.lengths), self.length, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """(n, length, ...) -> (count, ...): the inverse of `pad`."""
        x = x.flatten(0, 1)
        return x if self.uniform else _Reindex.apply(x, self.to_flat, self.to_padded, self.padding)


class PackedLayout:
    """Where each token of a (rows, P + R) batch lies in the flat packed sequence.

    Rows whose prompt equals the row before form a group; groups may differ in size, prompts and responses in length.

    Args:
        input_ids: (rows, P + R) integers, prompts left-padded, responses right-padded.
        attention_mask: (rows, P + R), 1 at real tokens. Every prompt needs at least one token.
        response_width: R, the number of response columns.
    """

    def __init__(self, input_ids: Tensor, attention_mask: Tensor, response_width: int):
        prompt_width = input_ids.shape[1] - response_width
        mask = attention_mask.bool()
        if prompt_width < 1 or not bool(mask[:, prompt_width - 1].all()):
            raise ValueError("shared prompts need left-padded prompts of at least one token")
        prompts = input_ids[:, :prompt_width].masked_fill(~mask[:, :prompt_width], -1)
        starts = torch.ones(len(prompts), dtype=torch.bool, device=prompts.device)
        starts[1:] = (prompts[1:] != prompts[:-1]).any(1)
        self.group = starts.cumsum(0) - 1  # (rows,) group of each row
        firsts = starts.nonzero()[:, 0]
        kept = mask[firsts, : prompt_width - 1]  # prompt[:-1] of each group
        self.scored = mask[:, prompt_width:]  # (rows, R) response tokens that exist
        before = input_ids[:, prompt_width - 1 : -1]  # the token that predicts each of them
        self.prefix = _Block(0, kept.sum(1))
        self.suffix = _Block(self.prefix.count, self.scored.sum(1))
        prefix_ids = input_ids[firsts, : prompt_width - 1][kept]
        self.input_ids = torch.cat([prefix_ids, before[self.scored]])[None]
        offsets = self.prefix.lengths[self.group][:, None] + torch.arange(response_width, device=input_ids.device)
        self.position_ids = torch.cat([(kept.cumsum(1) - 1)[kept], offsets[self.scored]])[None]
        self.targets = input_ids[:, prompt_width:][self.scored]
        self.responses_at = torch.arange(self.prefix.count, self.input_ids.shape[1], device=input_ids.device)
        self.group_sizes = self.group.bincount()
        self.equal_groups = bool((self.group_sizes == self.group_sizes[0]).all())
        self.calls = 0
        self.prompts_read_only = False  # from here on nobody reads what a prompt's own queries find
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    @property
    def tokens(self) -> int:
        """Tokens that go through the model (the plain computation: rows * (P + R))."""
        return self.input_ids.shape[1]

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Queries, keys, values (1, heads, N, width) of the flat sequence -> attention output (1, N, heads, width)."""
        self.calls += 1
        query, key, value = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))  # (N, heads, width)
        merged = self._attend_merged(query, key, value, scaling)
        if merged is not None:
            return merged[None]
        prefix_key, prefix_value = self.prefix.pad(key).transpose(1, 2), self.prefix.pad(value).transpose(1, 2)
        parts = []
        if self.prompts_read_only:
            parts.append(query.new_zeros(self.prefix.count, *query.shape[1:]))
        elif self.prefix.count:
            # Padding is on the right, so no real query sees it under the causal rule and no mask is needed.
            out = F.scaled_dot_product_attention(
                self.prefix.pad(query).transpose(1, 2),
                prefix_key,
                prefix_value,
                is_causal=True,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
            parts.append(self.prefix.unpad(out.transpose(1, 2)))
        if self.suffix.count:
            parts.append(self._attend_suffix(query, key, value, prefix_key, prefix_value, scaling))
        return torch.cat(parts)[None]

    def _attend_merged(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor | None:
        """(N, heads, width) by `MergedAttention`, where lengths are equal and the device has an engine; else None."""
        if not (self.prefix.count and self.prefix.uniform and self.suffix.uniform and self.equal_groups):
            return None
        dtype = working_dtype(query)
        engine = engine_for(query, key, dtype)
        if engine is None:
            return None
        # A split's backward is one concatenation; two slices would each fill a gradient of full size.
        sizes = [self.prefix.count, self.suffix.count]
        parts = [x.to(dtype).split(sizes) for x in (query, key, value)]
        prompt = [x.unflatten(0, (-1, self.prefix.length)) for x, _ in parts]
        own = [x.unflatten(0, (-1, self.suffix.length)) for _, x in parts]
        responses = MergedAttention.apply(*own, *prompt[1:], scaling, engine).flatten(0, 1)
        if self.prompts_read_only:
            return F.pad(responses, (0, 0, 0, 0, self.prefix.count, 0))
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in prompt), is_causal=True, scale=scaling)
        return torch.cat([out.transpose(1, 2).flatten(0, 1), responses])

    def _attend_suffix(self, query, key, value, prefix_key, prefix_value, scaling) -> Tensor:
        """Responses attend to their prompt's keys, repeated per row, and causally to themselves."""
        key = torch.cat([self._per_row(prefix_key), self.suffix.pad(key).transpose(1, 2)], 2)
        value = torch.cat([self._per_row(prefix_value), self.suffix.pad(value).transpose(1, 2)], 2)
        query = self.suffix.pad(query)  # (rows, S, heads, width)
        rows, length, heads, width = query.shape
        kv_heads = key.shape[1]
        # Query heads that share a key head are folded into the query length, so keys are not repeated per head.
        query = query.view(rows, length, kv_heads, heads // kv_heads, width).permute(0, 2, 3, 1, 4)
        out = F.scaled_dot_product_attention(
            query.reshape(rows, kv_heads, -1, width),
            key,
            value,
            attn_mask=self._mask(heads // kv_heads, query.dtype),
            scale=scaling,
        )
        out = out.view(rows, kv_heads, heads // kv_heads, length, width).permute(0, 3, 1, 2, 4)
        return self.suffix.unpad(out.reshape(rows, length, heads, width))

    def _per_row(self, x: Tensor) -> Tensor:
        """(groups, ...) -> (rows, ...)."""
        if self.equal_groups:
            size = len(self.group) // len(x)
            return x[:, None].expand(-1, size, *x.shape[1:]).flatten(0, 1)
        return x.index_select(0, self.group)

    def _mask(self, repeats: int, dtype: torch.dtype) -> Tensor:
        """To add to scores, (rows or 1, 1, repeats * S, P + S): 0 at real prompt tokens and up to the query itself.

        Made once for all layers: a boolean mask would be turned into this one at every call.
        """
        if (repeats, dtype) not in self._masks:
            length, device = self.suffix.length, self.group.device
            own = torch.ones(length, length, dtype=torch.bool, device=device).tril().repeat(repeats, 1)
            prompt = torch.arange(self.prefix.length, device=device) < self.prefix.lengths[:, None]
            prompt = prompt[:1] if self.prefix.uniform else prompt[self.group]
            size = (len(prompt), 1, len(own), -1)
            seen = torch.cat([prompt[:, None, None].expand(size), own.expand(*size)], -1)
            zeros = torch.zeros(seen.shape, dtype=dtype, device=device)
            self._masks[repeats, dtype] = zeros.masked_fill_(~seen, float("-inf"))
        return self._masks[repeats, dtype]


def shared_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_width: int,
    temperature: float = 1.0,
    pass_tokens: int | None = None,
    entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (rows, R) of the response tokens; 0 at padding. float32 (float64 for float64).

    Without ``entropy`` the second is meaningless: on a CPU it takes a third of the softmax.

    `model` may be wrapped (PEFT, DDP); it is switched to the shared-prompt attention function. With `pass_tokens`, the
    rows are cut between groups into forward passes of about that many tokens: on a CPU, activations that stay in the
    cache make all passes together a fifth faster. Raises RuntimeError if the model does not hand the layout down to
    every attention layer, ValueError if a prompt is empty.
    """
    enable(model)
    parts = []
    for rows in _passes(input_ids, attention_mask, response_width, pass_tokens):
        layout = PackedLayout(input_ids[rows], attention_mask[rows], response_width)
        with _scoring_head(model, layout.targets, temperature, entropy), _prompts_end_before_last_layer(model, layout):
            scores = model(
                input_ids=layout.input_ids,
                position_ids=layout.position_ids,
                attention_mask=no_mask(input_ids.device),
                use_cache=False,
                # As a number it is a slice, whose gradient needs no atomics; but 0 would keep everything.
                logits_to_keep=layout.suffix.count or layout.responses_at,
                shared_prompt=layout,
            ).logits.flatten(0, 1)
        if layout.calls < base_model(model).config.num_hidden_layers:
            raise RuntimeError("the model did not pass the shared-prompt layout to its attention layers")
        if _head_is_last(model):
            statistics = scores.unbind(-1)
        else:
            statistics = TokenStatistics.apply(scores, layout.targets, temperature, entropy)
        parts.append([x.new_zeros(layout.scored.shape).masked_scatter(layout.scored, x) for x in statistics])
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _head_is_last(model: nn.Module) -> bool:
    return base_model(model).config.model_type in _HEAD_IS_LAST


@contextmanager
def _scoring_head(model: nn.Module, targets: Tensor, temperature: float, entropy: bool) -> Iterator[None]:
    """Let the head give (1, M, 2) log-probabilities and entropies for (1, M, V) logits, where that ends the model.

    Else what wraps the model (mixed precision in accelerate) copies the logits to float32, and their gradient back.
    """
    if not _head_is_last(model):
        yield
        return

    def score(_module: nn.Module, _inputs: tuple, logits: Tensor) -> Tensor:
        return torch.stack(TokenStatistics.apply(logits.flatten(0, 1), targets, temperature, entropy), -1)[None]

    handle = base_model(model).get_output_embeddings().register_forward_hook(score)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _prompts_end_before_last_layer(model: nn.Module, layout: PackedLayout) -> Iterator[None]:
    """In the last layer a prompt's tokens are read as keys and values only: the rest of it runs on responses alone.

    What stands at the prompts behind it is wrong and never read. On a CPU: a GPU's modules are fused (fused.py). Not
    with gradient checkpointing, whose second forward comes after this.
    """
    inner = base_model(model)
    plain = not _head_is_last(model) or getattr(inner, "is_gradient_checkpointing", False)
    if plain or not layout.prefix.count or not layout.suffix.count or layout.input_ids.device.type != "cpu":
        yield
        return
    start, layer = layout.prefix.count, inner.get_decoder().layers[-1]

    def responses(module: nn.Module, inputs: tuple) -> tuple:
        layout.prompts_read_only = True
        return (inputs[0][:, start:], *inputs[1:])

    def behind_prompts(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return F.pad(output, (0, 0, start, 0))

    handles = []
    for module in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
        handles += [module.register_forward_pre_hook(responses), module.register_forward_hook(behind_prompts)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _passes(input_ids: Tensor, attention_mask: Tensor, response_width: int, pass_tokens: int | None) -> list[slice]:
    """Slices of whole groups with about `pass_tokens` packed tokens each, at least one group."""
    rows, width = len(input_ids), input_ids.shape[1] - response_width
    if pass_tokens is None or rows == 0:
        return [slice(None)]
    starts = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
    starts[1:] = (input_ids[1:, :width] != input_ids[:-1, :width]).any(1)
    cost = attention_mask[:, width:].sum(1) + attention_mask[:, :width].sum(1) * starts
    bounds, spent = [0], 0
    for row, (tokens, first) in enumerate(zip(cost.tolist(), starts.tolist(), strict=True)):
        if first and spent >= pass_tokens:
            bounds.append(row)
            spent = 0
        spent += tokens
    return [slice(*pair) for pair in zip(bounds, [*bounds[1:], rows], strict=True)]


def plain_logprobs(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_width: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same as `shared_logprobs` by computing every row in full: the reference of the self-check."""
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=response_width + 1,
    ).logits[:, :-1]
    scored = attention_mask[:, -response_width:].bool()
    logps, entropies = TokenStatistics.apply(logits[scored], input_ids[:, -response_width:][scored], temperature)
    return tuple(logps.new_zeros(scored.shape).masked_scatter(scored, x) for x in (logps, entropies))


@torch.no_grad()
def disagreement(model: nn.Module, input_ids: Tensor, attention_mask: Tensor, response_width: int) -> str | None:
    """Compare shared with plain log-probabilities on two rows of the first prompt and two of the last.

    Returns None if they agree to the precision of the arithmetic, else one line that says what is wrong.
    """
    rows = sorted({0, min(1, len(input_ids) - 1), max(0, len(input_ids) - 2), len(input_ids) - 1})
    ids, mask = input_ids[rows], attention_mask[rows]
    model = base_model(model)
    try:
        shared, _ = shared_logprobs(model, ids, mask, response_width)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    plain, _ = plain_logprobs(model, ids, mask, response_width)
    half = torch.is_autocast_enabled(ids.device.type) or next(model.parameters()).dtype.itemsize < 4
    difference, allowed = float((shared - plain).abs().max()), 0.3 if half else 1e-3
    return None if difference <= allowed else f"log-probabilities differ by {difference:.2g} (allowed: {allowed:g})"
