"""The state of fixed-length sampling at fixed addresses, the decoding step over it, and the step's CUDA graphs.

See graph_sampling.py for what it is for.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlvr_lib.progress import say
from rlvr_lib.training.choosing import Chooser
from rlvr_lib.training.decode_attention import HALF, LayerBuffers, attend_fused, attend_plain, fused_fault, fused_sums
from rlvr_lib.training.decoding_batch import Prefill
from rlvr_lib.training.shared_prompt import no_mask

BUCKET = 64  # suffix columns that plain attention reads more of at a time, one graph each


@dataclass(frozen=True)
class Plan:
    """What is sampled: `known` says for each of the response's columns whether its id is given."""

    groups: int
    group: int
    prompt: int
    known: tuple[bool, ...]

    @property
    def rows(self) -> int:
        return self.groups * self.group

    @property
    def columns(self) -> int:
        return len(self.known)

    @property
    def capacity(self) -> int:
        """Suffix columns, a multiple of 16 (aligned loads)."""
        return -(-self.columns // 16) * 16

    def passes(self) -> list[tuple[int, int]]:
        """(start, end): the id of column `start` is sampled and fed with the given ones up to `end`."""
        sampled = [column for column, known in enumerate(self.known) if not known]
        return list(zip(sampled, [*sampled[1:], self.columns], strict=True))

    def span(self, end: int) -> int:
        """Columns that plain attention reads when the suffix ends at `end`."""
        return min(self.capacity, -(-end // BUCKET) * BUCKET)


@dataclass
class Options:
    """How it is computed, not what."""

    capture: bool = True  # CUDA graphs
    fused: bool = True  # Triton kernels where they work
    flash: bool = False  # torch's kernel for their prompt part
    unrotated: bool = True  # rotary positions in the Triton kernels too, where the model is a rollout copy
    reserve: int = 6 << 30  # bytes left to activations and graphs when rows are chosen by memory


class StaticBatch:
    """Buffers of one batch at fixed addresses, the step over them, and its graphs."""

    def __init__(self, model: nn.Module, plan: Plan, chooser: Chooser, draws: bool, options: Options):
        self.model, self.plan, self.chooser = model, plan, chooser
        self.device, dtype, rows = model.device, model.dtype, plan.rows
        config = model.config.get_text_config()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        fits = options.fused and self.device.type == "cuda" and dtype in HALF
        fault = fused_fault(self.heads, self.kv_heads, width, plan.group, dtype, self.device) if fits else "off"
        if fits and fault:
            say_once(f"sampling: plain attention instead of the Triton kernels: {fault}")
        self.fused, self.flash = fault is None, options.flash
        self.rotates = self.fused and options.unrotated
        self.mask_dummy = no_mask(self.device)

        def zeros(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=kind, device=self.device)

        prefix = (plan.groups, self.kv_heads, plan.prompt, width)
        suffix = (rows * self.kv_heads, plan.capacity, width)
        self.layers = [
            LayerBuffers(zeros(*prefix), zeros(*prefix), zeros(*suffix), zeros(*suffix))
            for _ in range(config.num_hidden_layers)
        ]
        self.step = zeros(1, kind=torch.long)
        self.ids = zeros(plan.columns, rows, kind=torch.long)
        self.uniforms = zeros(plan.columns, rows, kind=torch.float32) if draws else None
        self.logits = zeros(rows, model.get_output_embeddings().weight.shape[0])
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    # --- the prompts --------------------------------------------------------------------------------------------

    def store_prefix(self, index: int, first: int, key: Tensor, value: Tensor) -> None:
        """Put away keys and values (n, kv_heads, P, W) of prompts first..first+n."""
        layer = self.layers[index]
        layer.prefix_key[first : first + len(key)] = key
        layer.prefix_value[first : first + len(key)] = value

    def load(self, prompts: Tensor, uniforms: Tensor | None, given: Tensor | None, budget: int) -> None:
        """Read prompts (groups, P), at most about `budget` tokens a pass; uniforms and given ids are (rows, R)."""
        self.step.zero_()
        positions = torch.arange(self.plan.prompt, device=self.device)[None]
        count = max(1, budget // self.plan.prompt)
        for first in range(0, self.plan.groups, count):
            part = prompts[first : first + count].to(self.device)
            hook = Prefill(self, first)
            logits = self._forward(part, positions, hook).repeat_interleave(self.plan.group, 0)
            self.logits[first * self.plan.group :][: len(logits)] = logits
        if uniforms is not None:
            self.uniforms.copy_(uniforms.T)
        if given is not None:
            self.ids.copy_(given.T)

    def _forward(self, ids: Tensor, positions: Tensor, hook) -> Tensor:
        """Logits (n, V) behind the last id."""
        return self.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self.mask_dummy,
            use_cache=False,
            logits_to_keep=1,
            shared_prompt=hook,
        ).logits[:, 0]

    # --- one step -----------------------------------------------------------------------------------------------

    def attend(self, module, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """New tokens (rows, heads, n, W) at the current step -> (rows, n, heads, W)."""
        layer = self.layers[module.layer_idx]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self.fused and query.shape[2] == 1:
            return attend_fused(layer, query, key, value, scale, self.step, self.flash)
        return attend_plain(layer, query, key, value, scale, self.step, self.span)

    def attend_unrotated(self, module, query: Tensor, key: Tensor, value: Tensor, cosine: Tensor, sine: Tensor):
        """The same for one new token before rotary positions, (rows, heads, W) (see rollout_copy.py)."""
        from rlvr_lib.training.decode_kernels import rotate_and_place

        layer = self.layers[module.layer_idx]
        place = (cosine, sine, layer.suffix_key, layer.suffix_value, self.step)
        return fused_sums(layer, rotate_and_place(query, key, value, *place), module.scaling, self.step, self.flash)

    def choose(self) -> Tensor:
        """Ids (rows,) from the logits, written into the current column."""
        uniform = None if self.uniforms is None else self.uniforms.index_select(0, self.step)[0]
        ids = self.chooser(self.logits, uniform, self.step)
        self.ids.index_copy_(0, self.step, ids[None])
        return ids

    def feed(self, tokens: Tensor, span: int) -> None:
        """n ids per row, (rows, n), go through the model; `span` as in `attend_plain`."""
        self.span, new = span, tokens.shape[1]
        positions = self.plan.prompt + self.step + torch.arange(new, device=self.device)
        self.logits.copy_(self._forward(tokens, positions[None], self))
        self.step.add_(new)

    def advance(self, span: int) -> None:
        """What a graph holds: sample one id per row and feed it."""
        self.feed(self.choose()[:, None], span)

    # --- all steps ----------------------------------------------------------------------------------------------

    def _key(self, end: int) -> int:
        """Which graph serves a step that ends at `end`: the Triton kernels need one for all."""
        return self.plan.capacity if self.fused else self.plan.span(end)

    def capture(self) -> None:
        """Record the graphs; each is run once before, on another stream, as capturing wants."""
        keys = sorted({self._key(end) for start, end in self.plan.passes() if end == start + 1 < self.plan.columns})
        side = _side_stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for key in [*keys[:1], *keys]:
                self.step.zero_()
                self.advance(key)
        torch.cuda.current_stream(self.device).wait_stream(side)
        pool = torch.cuda.graph_pool_handle()
        for key in keys:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=side):
                self.advance(key)
            self.graphs[key] = graph

    def decode(self) -> int:
        """Sample all columns of the loaded prompts into `ids`; returns the number of passes through the model."""
        passes = self.plan.passes()
        for start, end in passes[:-1]:
            if end > start + 1:
                sampled = self.choose()[:, None]
                self.feed(torch.cat([sampled, self.ids[start + 1 : end].T], 1), end)
            elif (key := self._key(end)) in self.graphs:
                self.graphs[key].replay()
            else:
                self.advance(key)
        self.choose()
        return len(passes) - 1

    def release(self) -> None:
        """Give buffers and graphs back to the GPU (not only to torch's cache of it)."""
        for graph in self.graphs.values():
            graph.reset()
        self.graphs, self.layers, self.logits, self.ids, self.uniforms = {}, [], None, None, None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all captures: matrix products keep a workspace for each stream they ever ran on."""
    return torch.cuda.Stream(device)


@functools.cache
def say_once(line: str) -> None:
    """One line, the first time."""
    say(line)
