"""One batch of the sampler under way: prompts' keys and values once per group, a suffix for each living row.

Prompts are read once (`Prefill`); every further pass feeds the newest ids of all rows, whose queries meet their group's
prompt keys together and their own suffix apart.

Attention works on slots, (prompt, key head, place in the group): scores against prompt and suffix then lie side by side
as they are computed, and nothing is put in another order between queries and output. A group that has lost rows to
their ends keeps empty slots.
"""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvr_lib.training.shared_prompt import no_mask

_FIRST_CAPACITY = 64  # suffix tokens buffered at first; doubled when full


class _Layer:
    """Keys and values of one attention layer: prefixes (prompts, kv_heads, tokens, width), keys' last two exchanged;
    suffixes (slots, capacity, width)."""

    __slots__ = ("prefix_key", "prefix_value", "suffix_key", "suffix_value")


class Prefill:
    """Attention while prompts are read: causal, and every layer's keys and values are put away.

    ``last`` [n]: the places of the prompts' last tokens, the only ones whose output is read; None: that is not said.
    """

    def __init__(self, batch: "Batch", first: int, last: Tensor | None = None):
        self.batch, self.first, self.last = batch, first, last

    def attend(self, module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        self.batch.store_prefix(module.layer_idx, self.first, key, value)
        # Prompts are padded on the right: no real token sees padding under the causal rule.
        gqa = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=gqa)
        return out.transpose(1, 2)

    def attend_last(self, module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """The same for queries (n, heads, 1, width) of the last tokens alone."""
        self.batch.store_prefix(module.layer_idx, self.first, key, value)
        seen = torch.arange(key.shape[2], device=key.device) <= self.last[:, None]
        mask = None if bool(seen.all()) else seen[:, None, None]
        gqa = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=gqa)


class Batch:
    """The state of one decoding batch: prompts' keys and values once per group, suffixes per living row."""

    def __init__(self, model: nn.Module, prompts: list[Sequence[int]], group_size: int, prefill_tokens: int):
        self.model, self.device = model, next(model.parameters()).device
        self.texts, self.prompts, self.width = prompts, len(prompts), max(map(len, prompts))
        self.mask_dummy = no_mask(self.device)
        self.layers: dict[int, _Layer] = {}
        self.step, self.passes, self.capacity = 0, 0, _FIRST_CAPACITY
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        self.tokens = int(self.lengths.sum())
        started = time.perf_counter()
        logits = self._prefill(prompts, prefill_tokens)
        self.seconds = time.perf_counter() - started
        self.logits = logits.repeat_interleave(group_size, 0)
        self.prompt_of_row = torch.arange(self.prompts, device=self.device).repeat_interleave(group_size)
        self.positions = self.lengths[self.prompt_of_row, None]  # (rows, 1) position of the next token
        self._arrange()

    def _prefill(self, prompts: list[Sequence[int]], budget: int) -> Tensor:
        """Next-token logits (B, V). Prompts come sorted by length; a pass takes as many as `budget` tokens allow."""
        logits, first = [], 0
        while first < len(prompts):
            count = 1
            while first + count < len(prompts) and (count + 1) * len(prompts[first + count]) <= budget:
                count += 1
            length = len(prompts[first + count - 1])
            ids = torch.zeros(count, length, dtype=torch.long)
            for row, prompt in enumerate(prompts[first : first + count]):
                ids[row, : len(prompt)] = torch.as_tensor(prompt)
            last = self.lengths[first : first + count, None] - 1
            positions = torch.arange(length, device=self.device)[None]
            logits.append(self._forward(ids.to(self.device), positions, last, Prefill(self, first, last[:, 0]))[:, 0])
            first += count
        return torch.cat(logits)

    def _forward(self, ids: Tensor, positions: Tensor, keep: Tensor | int, hook) -> Tensor:
        return self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self.mask_dummy,
            use_cache=False,
            logits_to_keep=keep,
            shared_prompt=hook,
        ).logits

    def store_prefix(self, index: int, first: int, key: Tensor, value: Tensor) -> None:
        """Put away keys and values (n, kv_heads, tokens, width) of prompts first..first+n."""
        count, self.kv_heads, length, width = key.shape
        if index not in self.layers:
            layer = self.layers[index] = _Layer()
            layer.prefix_key = key.new_zeros(self.prompts, self.kv_heads, width, self.width)
            layer.prefix_value = value.new_zeros(self.prompts, self.kv_heads, self.width, width)
        layer = self.layers[index]
        layer.prefix_key[first : first + count, :, :, :length] = key.transpose(2, 3)
        layer.prefix_value[first : first + count, :, :length] = value

    def _arrange(self) -> None:
        """Recompute what follows from `prompt_of_row` and `lengths`: slots per prompt and the padding mask."""
        sizes = self.prompt_of_row.bincount(minlength=self.prompts)
        self.group = int(sizes.max())
        self.rows = len(self.prompt_of_row)
        self.slots = None
        if self.rows != self.prompts * self.group:
            rank = torch.arange(self.rows, device=self.device) - (sizes.cumsum(0) - sizes)[self.prompt_of_row]
            self.slots = self.prompt_of_row * self.group + rank
        padding = torch.arange(self.width, device=self.device) >= self.lengths[:, None]
        self.padding = None  # (prompts * kv_heads, 1, width), added to the scores
        if bool(padding.any()):
            bias = torch.zeros_like(padding, dtype=self.logits.dtype).masked_fill_(padding, float("-inf"))
            self.padding = bias.repeat_interleave(self.kv_heads, 0)[:, None]

    def _to_slots(self, x: Tensor) -> Tensor:
        """(rows, kv_heads, ...) -> (prompts, kv_heads, group, ...), zero in empty slots."""
        if self.slots is not None:
            x = x.new_zeros(self.prompts * self.group, *x.shape[1:]).index_copy_(0, self.slots, x)
        return x.reshape(self.prompts, self.group, *x.shape[1:]).transpose(1, 2)

    def _to_rows(self, x: Tensor) -> Tensor:
        """The inverse of `_to_slots`."""
        x = x.transpose(1, 2).flatten(0, 1)
        return x if self.slots is None else x.index_select(0, self.slots)

    def attend(self, module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """A few new tokens per row, (rows, heads, n, width), attend to the row's prompt and its own suffix."""
        rows, heads, new, width = query.shape
        layer, end = self.layers[module.layer_idx], self.step + new
        kv_heads, repeats = self.kv_heads, heads // self.kv_heads * new
        size = (self.prompts, kv_heads, self.group)
        for buffer, newest in ((layer.suffix_key, key), (layer.suffix_value, value)):
            buffer.view(*size, *buffer.shape[1:])[..., self.step : end, :] = self._to_slots(newest)
        query = query * (width**-0.5 if scaling is None else scaling)
        query = self._to_slots(query.reshape(rows, kv_heads, repeats, width)).reshape(-1, repeats, width)
        grouped = query.view(self.prompts * kv_heads, -1, width)
        keys = layer.prefix_key.flatten(0, 1)
        shared = torch.bmm(grouped, keys) if self.padding is None else torch.baddbmm(self.padding, grouped, keys)
        own = torch.bmm(query, layer.suffix_key[:, :end].transpose(1, 2))
        if new > 1:  # among the new ones nobody looks ahead
            ahead = torch.ones(new, new, dtype=torch.bool, device=own.device).triu(1).repeat(heads // kv_heads, 1)
            own[:, :, self.step :] = own[:, :, self.step :].masked_fill(ahead, float("-inf"))
        scores = torch.cat([shared, own.view(*shared.shape[:2], end)], -1)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        out = torch.bmm(weights.view(len(query), repeats, -1)[:, :, self.width :], layer.suffix_value[:, :end])
        out = torch.baddbmm(out.view_as(grouped), weights[:, :, : self.width], layer.prefix_value.flatten(0, 1))
        return self._to_rows(out.view(*size, repeats, width)).reshape(rows, heads, new, width).transpose(1, 2)

    def advance(self, tokens: Tensor) -> None:
        """Feed n tokens per row, (rows, n), and leave the next logits in `logits`."""
        new = tokens.shape[1]
        if self.step == 0:
            for layer in self.layers.values():
                shape = (self.prompts * self.kv_heads * self.group, self.capacity, layer.prefix_value.shape[-1])
                layer.suffix_key, layer.suffix_value = (
                    layer.prefix_key.new_zeros(shape),
                    layer.prefix_value.new_zeros(shape),
                )
        while self.step + new > self.capacity:
            self.capacity *= 2
            for layer in self.layers.values():
                for name in ("suffix_key", "suffix_value"):
                    old = getattr(layer, name)
                    setattr(layer, name, torch.cat([old, torch.zeros_like(old)], 1))
        positions = self.positions + torch.arange(new, device=self.device)
        self.logits = self._forward(tokens, positions, 1, self)[:, 0]
        self.positions = self.positions + new
        self.step += new
        self.passes += 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (sorted indices), and prompts without rows."""
        kept, self.prompt_of_row = self.prompt_of_row[rows].unique_consecutive(return_inverse=True)
        fewer = len(kept) < self.prompts
        size = (self.prompts, self.kv_heads, self.group)
        living = [
            {
                name: self._to_rows(getattr(layer, name).view(*size, self.capacity, -1)).index_select(0, rows)
                for name in (("suffix_key", "suffix_value") if self.step else ())
            }
            for layer in self.layers.values()
        ]
        self.lengths, self.prompts = self.lengths[kept], len(kept)
        self.positions, self.logits = self.positions[rows], self.logits[rows]
        self._arrange()
        for layer, suffixes in zip(self.layers.values(), living, strict=True):
            for name, suffix in suffixes.items():
                setattr(layer, name, self._to_slots(suffix).flatten(0, 2).contiguous())
            if fewer:
                layer.prefix_key = layer.prefix_key.index_select(0, kept)
                layer.prefix_value = layer.prefix_value.index_select(0, kept)
