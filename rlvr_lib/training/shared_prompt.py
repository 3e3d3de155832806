"""Log-probabilities of a GRPO group with the prompt computed once.

The G responses of a group have the same prompt. The plain computation runs prompt + response for each of the B*G rows;
here all real tokens of a batch are packed into one flat sequence

    prompt_0[:-1], prompt_1[:-1], ..., then for each row (prompt[-1], response[:-1])

so the linear layers see P + G*R tokens a group instead of G*(P + R), and no padding. Repeating the last prompt token in
front of each response gives every response token exactly one predicting position. Only attention needs to know about
the packing: a function registered with transformers' attention interface takes the layout as a keyword argument, so
model class, weights and checkpoints stay the standard ones. Exact up to floating-point round-off, gradients included.

The technique is known (Prefix Grouper, verl, Unsloth); the paper's code computes every row in full.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prompt"
_CHUNK_ELEMENTS = 1 << 22  # logits touched at a time when normalising: 16 MB of float32 stays near the cache


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
    """
    model = base_model(model)
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
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}

    @property
    def tokens(self) -> int:
        """Tokens that go through the model (the plain computation: rows * (P + R))."""
        return self.input_ids.shape[1]

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Queries, keys, values (1, heads, N, width) of the flat sequence -> attention output (1, N, heads, width)."""
        self.calls += 1
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, heads, width)
        prefix_key, prefix_value = self.prefix.pad(key).transpose(1, 2), self.prefix.pad(value).transpose(1, 2)
        parts = []
        if self.prefix.count:
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


class TokenStatistics(torch.autograd.Function):
    """(M, V) logits, (M,) targets, temperature -> log-probability of the target and entropy, each (M,), in nats.

    The softmax is recomputed in the backward pass, chunk by chunk, so that nothing of size M*V but the logits is kept.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float):
        precision = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logps, entropies, normalisers = (logits.new_empty(len(logits), dtype=precision) for _ in range(3))
        for rows in _chunks(logits):
            scaled = logits[rows].to(precision) / temperature
            normaliser = scaled.logsumexp(-1)
            logps[rows] = scaled.gather(1, targets[rows, None])[:, 0] - normaliser
            probabilities = (scaled - normaliser[:, None]).exp_()
            entropies[rows] = normaliser - torch.linalg.vecdot(probabilities, scaled)
            normalisers[rows] = normaliser
        ctx.save_for_backward(logits, targets, normalisers, entropies)
        ctx.temperature = temperature
        return logps, entropies

    @staticmethod
    def backward(ctx, logp_gradient: Tensor, entropy_gradient: Tensor):
        logits, targets, normalisers, entropies = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for rows in _chunks(logits):
            log_p = logits[rows].to(normalisers.dtype) / ctx.temperature - normalisers[rows, None]
            # d logp / dz = onehot - p;  d entropy / dz = -p (log p + entropy)
            factor = log_p + entropies[rows, None]
            factor.mul_(-entropy_gradient[rows, None]).sub_(logp_gradient[rows, None])
            log_p.exp_().mul_(factor)
            log_p.scatter_add_(1, targets[rows, None], logp_gradient[rows, None])
            gradient[rows] = log_p.div_(ctx.temperature)
        return gradient, None, None


def _chunks(logits: Tensor):
    size = max(1, _CHUNK_ELEMENTS // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))


def shared_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    response_width: int,
    temperature: float = 1.0,
    pass_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (rows, R) of the response tokens; 0 at padding. float32 (float64 for float64).

    `model` may be wrapped (PEFT, DDP); it is switched to the shared-prompt attention function. With `pass_tokens`, the
    rows are cut between groups into forward passes of about that many tokens: on a CPU, activations that stay in the
    cache make all passes together a fifth faster. Raises RuntimeError if the model does not hand the layout down to
    every attention layer, ValueError if a prompt is empty.
    """
    enable(model)
    parts = []
    for rows in _passes(input_ids, attention_mask, response_width, pass_tokens):
        layout = PackedLayout(input_ids[rows], attention_mask[rows], response_width)
        logits = model(
            input_ids=layout.input_ids,
            position_ids=layout.position_ids,
            attention_mask=no_mask(input_ids.device),
            use_cache=False,
            logits_to_keep=layout.responses_at,
            shared_prompt=layout,
        ).logits[0]
        if layout.calls < base_model(model).config.num_hidden_layers:
            raise RuntimeError("the model did not pass the shared-prompt layout to its attention layers")
        statistics = TokenStatistics.apply(logits, layout.targets, temperature)
        parts.append([x.new_zeros(layout.scored.shape).masked_scatter(layout.scored, x) for x in statistics])
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


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
    """Compare shared with plain log-probabilities on two rows of the first prompt and one of the last.

    Returns None if they agree to the precision of the arithmetic, else one line that says what is wrong.
    """
    rows = sorted({0, min(1, len(input_ids) - 1), len(input_ids) - 1})
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
