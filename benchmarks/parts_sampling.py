"""Sampling of one GRPO iteration at the paper's size, by variant: seconds, bytes a second, memory; made for a GPU.

    python benchmarks/parts_sampling.py [--kind single_step multi_step] [--all] [--tiny] [--out FILE]

Random weights, 128 prompts x 16 responses. First the attention kernels alone and the kernels of one step, then whole
rollouts: captured steps with Triton attention (with and without its rotary part, with torch's kernel for the prompts),
with plain attention, and the ordinary sampler on 256 rows (extrapolated). Correctness beside it: greedy ids of the
variants, scored by one plain float32 pass over prompt and response. Without a GPU use ``--tiny``.
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from side_by_side import surroundings
from torch import Tensor

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.tokens.video_layouts import MultiStepLayout, SingleStepLayout
from rlvr_lib.tokens.world_model import Size, world_model
from rlvr_lib.training.choosing import Chooser
from rlvr_lib.training.generation import sample
from rlvr_lib.training.graph_sampling import sample_fixed
from rlvr_lib.training.rollout_copy import rollout_model
from rlvr_lib.training.shared_prompt import ATTENTION
from rlvr_lib.training.static_batch import Options, Plan, StaticBatch
from rlvr_lib.training.video_sampling import given_columns

RESULTS = Path(__file__).parent / "results"
LAYOUTS = {"single_step": SingleStepLayout, "multi_step": MultiStepLayout}
TINY = {
    "single_step": {"tokens": 12, "action_dims": 3, "context": 2, "codes": 40, "bins": 8},
    "multi_step": {"context_tokens": 20, "tokens": 12, "action_dims": 3, "horizon": 3, "codes": 40, "bins": 8},
}
VARIANTS = {
    "graph, Triton": Options(),
    "graph, Triton, rotary by torch": Options(unrotated=False),
    "graph, Triton, flash for prompts": Options(flash=True),
    "graph, plain attention": Options(fused=False),
}
PREFIX_CONFIGS = [(64, 2, 3), (64, 4, 2), (64, 4, 3), (128, 4, 3)]
SUFFIX_CONFIGS = [(16, 1), (32, 1), (64, 2), (64, 4)]


@dataclass
class Case:
    """A model with random weights and what it is asked for."""

    kind: str
    tiny: bool
    groups: int = 128
    group: int = 16

    def __post_init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.layout = LAYOUTS[self.kind](**TINY[self.kind] if self.tiny else {})
        size = Size(32, 2, 2, 64) if self.tiny else Size()
        if self.tiny:
            self.groups, self.group = 3, 2
        self.model = world_model(self.layout, size).to(self.device).eval()
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        source = torch.Generator().manual_seed(0)
        codes = self.layout.codes
        self.prompts = torch.randint(codes, (self.groups, self.layout.prompt), generator=source)
        known = torch.randint(codes, (self.groups, len(self.layout.given)), generator=source)
        self.given = given_columns(self.layout, known, self.groups)
        self.uniforms = torch.rand(self.groups, self.group, self.layout.response, generator=source)
        self.token_bytes = 2 * size.layers * size.hidden * self.dtype.itemsize

    @property
    def plan(self) -> Plan:
        given = self.given
        known = (False,) * self.layout.response if given is None else tuple((given[0] >= 0).tolist())
        return Plan(self.groups, self.group, self.layout.prompt, known)

    def chooser(self, greedy: bool = False) -> Chooser:
        return Chooser([], 0, 1.0, 1.0, greedy, self.device)

    def bytes_read(self) -> float:
        """Keys and values that all decoding passes read: prompts once per group, suffixes once per row."""
        plan = self.plan
        tokens = sum(plan.groups * plan.prompt + plan.rows * end for _, end in plan.passes()[:-1])
        return tokens * self.token_bytes


def guarded(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it measures, printed; a failure is printed and does not stop the others."""
    started = time.perf_counter()
    try:
        found = work()
    except Exception:
        found = {"failed": traceback.format_exc().strip().splitlines()[-6:]}
        print("\n".join(found["failed"]))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"[{time.perf_counter() - started:5.1f} s] {name}: {json.dumps(found)}", flush=True)
    return found


def microseconds(work: Callable[[], Any], repeats: int = 10) -> float:
    """Mean GPU time of one call, after two to warm up."""
    for _ in range(2):
        work()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return round(begin.elapsed_time(end) / repeats * 1000, 1)


def kernels(case: Case) -> dict[str, Any]:
    """One layer's attention at the middle of the response: microseconds and terabytes a second, by kernel setting."""
    from rlvr_lib.training import decode_attention, decode_kernels

    config, plan = case.model.config, case.plan
    heads, width, half = config.num_attention_heads, config.head_dim, case.layout.response // 2

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device=case.device, dtype=case.dtype)

    query = noise(plan.rows, heads, width)
    prefix = [noise(plan.groups, heads, plan.prompt, width) for _ in range(2)]
    suffix = [noise(plan.rows * heads, plan.capacity, width) for _ in range(2)]
    layer = decode_attention.LayerBuffers(*prefix, *suffix)
    step, scale = torch.tensor([half], device=case.device), width**-0.5
    layer_bytes = case.token_bytes / config.num_hidden_layers
    prompt_bytes, own_bytes = plan.groups * plan.prompt * layer_bytes, plan.rows * (half + 1) * layer_bytes
    works: dict[str, tuple[float, Callable[[], Any]]] = {
        "prompt, flash": (prompt_bytes, lambda: decode_attention._flash_prefix(layer, query, scale)),
    }
    for block, warps, stages in PREFIX_CONFIGS:
        setting = {"BLOCK": block, "num_warps": warps, "num_stages": stages}
        work = lambda setting=setting: decode_kernels.attend_prefix(query, *prefix, scale, setting)  # noqa: E731
        works[f"prompt, {block} x {warps} warps, {stages} stages"] = prompt_bytes, work
    seen, lse = decode_kernels.attend_prefix(query, *prefix, scale)
    for block, warps in SUFFIX_CONFIGS:
        setting = {"BLOCK": block, "num_warps": warps}
        work = lambda setting=setting: decode_kernels.attend_suffix(  # noqa: E731
            query, *suffix, seen, lse, step, scale, setting
        )
        works[f"own, {block} x {warps} warps"] = own_bytes, work
    found = {name: (microseconds(work), size) for name, (size, work) in works.items()}
    return {name: [spent, round(size / spent / 1e6, 2)] for name, (spent, size) in found.items()}


@torch.no_grad()
def one_step(case: Case) -> dict[str, Any]:
    """GPU microseconds of one uncaptured step in the middle of the response, by kernel; the dearest fifteen."""
    from torch.profiler import ProfilerActivity, profile

    model = rollout_model(case.model, case.dtype)
    model.set_attn_implementation(ATTENTION)
    batch = StaticBatch(model, case.plan, case.chooser(), True, Options())
    span = batch.plan.span(case.layout.response // 2 + 8)

    def steps(count: int) -> None:
        batch.step.fill_(case.layout.response // 2)
        for _ in range(count):
            batch.advance(span)

    steps(2)
    activity = ProfilerActivity.CUDA if case.device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        steps(4)
        if case.device.type == "cuda":
            torch.cuda.synchronize()
    batch.release()
    kind = "self_device_time_total" if case.device.type == "cuda" else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda event: -getattr(event, kind))
    total = sum(getattr(event, kind) for event in events) / 4
    dear = {event.key[:60]: [event.count // 4, round(getattr(event, kind) / 4, 1)] for event in events[:15]}
    return {"all": round(total), "launches": sum(event.count for event in events) // 4, **dear}


def rollout(case: Case, options: Options) -> dict[str, Any]:
    """All responses of an iteration: seconds by part, terabytes of keys and values a second, peak GiB."""
    if case.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    shape = (case.group, case.layout.response)
    result = sample_fixed(
        case.model, case.prompts.tolist(), case.chooser(), shape, case.uniforms.to(case.device), case.given, None,
        65536, case.dtype, replace(options),
    )  # fmt: skip
    whole = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() / 2**30 if case.device.type == "cuda" else 0.0
    parts = {name: round(seconds, 3) for name, seconds in result.seconds.items()}
    read = case.bytes_read()
    return {
        "whole": round(whole, 3),
        **parts,
        "passes": result.decode_steps,
        "TB": round(read / 1e12, 3),
        "TB/s": round(read / 1e12 / result.seconds["decode"], 3),
        "peak GiB": round(peak, 2),
    }


def ordinary(case: Case, columns: int = 48) -> dict[str, Any]:
    """The ordinary sampler under autocast, 16 groups and the first columns; extrapolated by passes and batches."""
    groups = min(16, case.groups)
    given = None if case.given is None else case.given[:groups, :columns]
    with torch.autocast(case.device.type, torch.bfloat16, enabled=case.device.type == "cuda"):
        result = sample(
            case.model, case.prompts[:groups].tolist(), case.group, min(columns, case.layout.response), None, 0,
            given=given, graphs=False,
        )  # fmt: skip
    seconds = result.seconds["decode"] / max(1, result.decode_steps)
    batches = -(-case.plan.rows // 512)
    return {
        "seconds a pass, 256 rows": round(seconds, 5),
        "decode, all rows, at least": round(seconds * (len(case.plan.passes()) - 1) * batches, 2),
    }


@torch.no_grad()
def greedy_ids(case: Case, columns: int = 100) -> dict[str, Any]:
    """Greedy ids of two groups, scored by a float32 pass: share that are its best, mean nats below its best."""
    columns, two = min(columns, case.layout.response), case.prompts[:2]
    given = None if case.given is None else case.given[:2, :columns]
    arguments = (case.model, two.tolist(), case.chooser(greedy=True), (2, columns), None, given, None, 65536)
    known = torch.zeros(columns, dtype=torch.bool) if given is None else given[0] >= 0
    sampled = (~known).nonzero()[:, 0].to(case.device)

    def score(completions: list[list[int]]) -> list[float]:
        ids = torch.tensor(completions, device=case.device)
        whole = torch.cat([two.to(case.device).repeat_interleave(2, 0), ids], 1)
        logits = case.model(whole, logits_to_keep=columns + 1).logits[:, sampled]
        short = logits.amax(-1) - logits.gather(2, ids[:, sampled, None])[..., 0]
        return [round(float((short == 0).float().mean()), 4), round(float(short.mean()), 5)]

    def ordinary_ids() -> list[list[int]]:
        options = {"greedy": True, "given": given, "graphs": False}
        return sample(case.model, two.tolist(), 2, columns, None, 0, **options).completions

    expected = ordinary_ids()
    exact = sample_fixed(*arguments, None, Options(fused=False)).completions
    found: dict[str, Any] = {
        "float32, rows equal to the ordinary sampler's": sum(map(list.__eq__, exact, expected)) / len(expected),
        "float32, ordinary": score(expected),
        "float32, graph": score(exact),
    }
    for name, options in VARIANTS.items():
        found[name] = score(sample_fixed(*arguments, case.dtype, replace(options)).completions)
    with torch.autocast(case.device.type, torch.bfloat16, enabled=case.device.type == "cuda"):
        found["autocast, ordinary"] = score(ordinary_ids())
    return found


def measure(kind: str, tiny: bool, everything: bool) -> dict[str, Any]:
    """All parts of one kind; the variants beside the first are timed single-step only, unless everything is wanted."""
    case = Case(kind, tiny)
    found = {"greedy ids: share best, nats below": guarded(f"{kind}, greedy ids", lambda: greedy_ids(case))}
    if case.device.type == "cuda":
        found["kernels: microseconds, TB/s"] = guarded(f"{kind}, kernels", lambda: kernels(case))
    found["one step: launches, microseconds"] = guarded(f"{kind}, one step", lambda: one_step(case))
    names = list(VARIANTS) if everything or kind == "single_step" else list(VARIANTS)[:1]
    for name in names:
        found[name] = guarded(f"{kind}, {name}", lambda name=name: rollout(case, VARIANTS[name]))
    if kind == "single_step":
        found["again: " + names[0]] = guarded(f"{kind}, again", lambda: rollout(case, VARIANTS[names[0]]))
    found["ordinary sampler"] = guarded(f"{kind}, ordinary sampler", lambda: ordinary(case))
    return found


def main(arguments: list[str] | None = None) -> Path | None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=tuple(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--all", action="store_true", help="every variant for multi-step too (half a minute more)")
    parser.add_argument("--tiny", action="store_true", help="a size for tests; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("the paper's size wants a GPU; --tiny runs the same code at a size for tests")
    load = os.getloadavg()[0]
    result = {kind: measure(kind, given.tiny, given.all) for kind in given.kind}
    for kind, parts in result.items():
        for name, part in parts.items():
            if "whole" in part:
                print(f"{kind:12} {name:36} {json.dumps(part)}")
    out = given.out or (None if given.tiny else RESULTS / "parts_sampling_cuda.json")
    if out:
        atomic_write_text(out, json.dumps({**result, **surroundings(1, load)}, indent=1) + "\n")
    return out


if __name__ == "__main__":
    main()
