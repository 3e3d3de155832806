"""Where the tokens of a batch lie when each prompt is packed once, and attention over them (see shared_prompt.py).

The flat sequence is prompt_0[:-1], prompt_1[:-1], ..., then for each row (prompt[-1], response[:-1]).
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvr_lib.training.flash_merge import MergedAttention, engine_for
from rlvr_lib.training.fused import working_dtype


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
