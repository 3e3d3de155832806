"""Log-probability passes and update of the paper's single-step video model on a GPU: checked, then timed by variant.

    python benchmarks/parts_logprobs.py [--tiny] [--groups 8 16 4 2] [--seconds 35] [--no-flex] [--out FILE]

One micro-batch of whole groups, random ids and weights, float32 weights under bfloat16 autocast. First the
log-probabilities and gradients of each variant against plain rows in float32, with plain rows in bfloat16 beside them
as the measure of rounding. Then medians by CUDA events, forward only and forward with backward; all variants at the
first group count, the merged and fused ones at the others, as long as the time lasts. ``iteration`` is 128 prompts:
three quarters of an old policy's pass (the first update scores its own), a reference pass, and the updates.
"""

import argparse
import json
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import rlvr_lib  # noqa: F401

# isort: split
from transformers import LlamaConfig, LlamaForCausalLM

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.training import flash_merge, fused
from rlvr_lib.training.packed_layout import PackedLayout
from rlvr_lib.training.shared_prompt import plain_logprobs, shared_logprobs

PROMPTS = 128  # of an iteration


@dataclass(frozen=True)
class Shape:
    """The paper's single-step model and group by default."""

    layers: int = 12
    hidden: int = 768
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 4633
    group: int = 16
    prompt: int = 1333
    response: int = 321

    def flops(self, groups: int) -> float:
        """Of one forward pass over `groups` packed groups, 2 per multiply-add."""
        prompt, answers, length = self.prompt - 1, self.group * self.response, self.response
        linear = 2 * self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate) * (prompt + answers)
        pairs = prompt * (prompt + 1) / 2 + answers * (prompt + (length + 1) / 2)
        return groups * (linear + 2 * self.hidden * self.vocabulary * answers + 4 * self.hidden * self.layers * pairs)


TINY = Shape(layers=2, hidden=64, heads=2, intermediate=128, vocabulary=97, group=4, prompt=33, response=9)


@dataclass(frozen=True)
class Variant:
    """How attention runs (an engine of `flash_merge`, plain, or flex), and whether element-wise work is fused."""

    engine: str
    fuse: bool
    cuda: bool = True

    @contextmanager
    def active(self) -> Iterator[None]:
        before = flash_merge.ENGINE, fused.ENABLED, PackedLayout._attend_merged
        flash_merge.ENGINE, fused.ENABLED = self.engine, self.fuse
        if self.engine == "flex":
            PackedLayout._attend_merged = attend_flex
        try:
            yield
        finally:
            flash_merge.ENGINE, fused.ENABLED, PackedLayout._attend_merged = before


VARIANTS = {
    "keys copied, eager": Variant("plain", False, cuda=False),
    "flash": Variant("flash", False, cuda=False),
    "keys copied, fused": Variant("plain", True),
    "flash, fused": Variant("flash", True),
    "cudnn, fused": Variant("cudnn", True),
    "flex, fused": Variant("flex", True),
}
SWEPT = ("flash, fused", "cudnn, fused")


def attend_flex(layout: PackedLayout, query, key, value, scaling):
    """FlexAttention over the whole packed sequence; its block mask is made once a layout."""
    flex, mask = _flex(), layout.__dict__.get("block_mask")
    if mask is None:
        mask = layout.block_mask = block_mask(layout)
    dtype = fused.working_dtype(query)
    query, key, value = (x.to(dtype).transpose(0, 1)[None] for x in (query, key, value))
    return flex(query, key, value, block_mask=mask, scale=scaling)[0].transpose(0, 1)


def _flex(cache: dict[str, Callable] = {}) -> Callable:  # noqa: B006
    from torch.nn.attention.flex_attention import flex_attention

    return cache.setdefault("flex", torch.compile(flex_attention))


def block_mask(layout: PackedLayout) -> Any:
    """A token sees its group's prompt and its own row, up to itself."""
    from torch.nn.attention.flex_attention import create_block_mask

    device, rows = layout.group.device, len(layout.group)
    prompts = torch.arange(len(layout.prefix.lengths), device=device).repeat_interleave(layout.prefix.lengths)
    group = torch.cat([prompts, layout.group.repeat_interleave(layout.suffix.lengths)])
    answers = torch.arange(rows, device=device).repeat_interleave(layout.suffix.lengths)
    row = torch.cat([torch.full_like(prompts, -1), answers])

    def seen(_batch, _head, q, k):
        return (group[q] == group[k]) & (k <= q) & ((row[k] == -1) | (row[k] == row[q]))

    return create_block_mask(seen, None, None, layout.tokens, layout.tokens, device=device, _compile=True)


def make_model(shape: Shape, device: str) -> LlamaForCausalLM:
    """The paper's architecture with random weights, float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).to(device).train()


def make_batch(shape: Shape, groups: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(groups * G, P + R) ids, rows of a group with one prompt, and their mask of ones."""
    generator = torch.Generator().manual_seed(groups)
    prompts = torch.randint(shape.vocabulary, (groups, shape.prompt), generator=generator)
    answers = torch.randint(shape.vocabulary, (groups * shape.group, shape.response), generator=generator)
    ids = torch.cat([prompts.repeat_interleave(shape.group, 0), answers], 1).to(device)
    return ids, torch.ones_like(ids)


def loss_of(logps: torch.Tensor, entropies: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Advantages that differ from row to row, as in GRPO; `start` is the first row's number."""
    advantages = torch.cos(torch.arange(start, start + len(logps), device=logps.device) * 1.7)
    return (logps * advantages[:, None]).mean(1).sum() + 1e-3 * entropies.mean(1).sum()


def half(device: str, on: bool = True):
    return torch.autocast(device, torch.bfloat16, enabled=on)


def rows_one_by_one(model, ids, mask, width: int, bf16: bool) -> dict[str, torch.Tensor]:
    """Plain rows, four at a time: their log-probabilities and all gradients."""
    model.zero_grad(set_to_none=True)
    found = []
    with VARIANTS["keys copied, eager"].active():
        for start in range(0, len(ids), 4):
            with half(ids.device.type, bf16):
                result = plain_logprobs(model, ids[start : start + 4], mask[start : start + 4], width)
            loss_of(*result, start).backward()
            found.append(result[0].detach())
    return {"logps": torch.cat(found), **gradients(model)}


def packed(model, ids, mask, width: int) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    with half(ids.device.type):
        result = shared_logprobs(model, ids, mask, width)
    loss_of(*result).backward()
    return {"logps": result[0].detach(), **gradients(model)}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters()}


def distances(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative errors in norm: log-probabilities about their mean, all gradients together, and the worst tensor."""
    truth = exact["logps"]
    names = [name for name in exact if name != "logps"]
    squares = {name: float((found[name] - exact[name]).double().square().sum()) for name in names}
    sizes = {name: float(exact[name].double().square().sum()) for name in names}
    worst = max(names, key=lambda name: squares[name] / max(sizes[name], 1e-30))
    return {
        "logps": float((found["logps"] - truth).norm() / (truth - truth.mean()).norm()),
        "gradients": (sum(squares.values()) / sum(sizes.values())) ** 0.5,
        "worst": (squares[worst] / max(sizes[worst], 1e-30)) ** 0.5,
        "worst_name": worst,
    }


def guarded(name: str, action: Callable[[], Any]) -> Any:
    """The action's result; a fault is printed (its last lines) and gives None, so that the others still run."""
    try:
        return action()
    except Exception as error:
        print(f"{name}: {type(error).__name__}", *traceback.format_exc().splitlines()[-6:], sep="\n    ", flush=True)
        return None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check(model, shape: Shape, names: list[str], device: str) -> dict[str, Any]:
    """Each variant's distances from float32 rows, on two groups; at most twice those of bfloat16 rows is ok."""
    ids, mask = make_batch(shape, 2, device)
    exact = rows_one_by_one(model, ids, mask, shape.response, False)
    results = {"plain rows": distances(rows_one_by_one(model, ids, mask, shape.response, True), exact)}
    for name in names:
        with VARIANTS[name].active():
            found = guarded(name, lambda: distances(packed(model, ids, mask, shape.response), exact))
        if found is not None:
            results[name] = found
    rounding = results["plain rows"]
    for name, row in results.items():
        row["ok"] = all(row[key] <= max(0.02, 2 * rounding[key]) for key in ("logps", "gradients", "worst"))
        numbers = ", ".join(f"{key} {row[key]:.4f}" for key in ("logps", "gradients", "worst"))
        print(f"check  {name:20} {numbers} ({row['worst_name']})  {'ok' if row['ok'] else 'NOT OK'}", flush=True)
    return results


def median_seconds(action: Callable[[], Any], device: str, repeats: int) -> float:
    """After two warm-up runs (the first compiles)."""
    action(), action()
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            action()
            end.record()
            torch.cuda.synchronize()
            seconds.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(model, shape: Shape, groups: int, device: str, repeats: int) -> dict[str, float]:
    """Seconds, rates and peak memory of one micro-batch, and the seconds of an iteration."""
    ids, mask = make_batch(shape, groups, device)
    tokens = PackedLayout(ids, mask, shape.response).tokens

    def score() -> None:
        with torch.no_grad(), half(device):
            shared_logprobs(model, ids, mask, shape.response)

    def learn() -> None:
        model.zero_grad(set_to_none=True)
        with half(device):
            result = shared_logprobs(model, ids, mask, shape.response)
        loss_of(*result).backward()

    forward = median_seconds(score, device, repeats)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    both = median_seconds(learn, device, repeats)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {
        "forward_ms": 1e3 * forward,
        "both_ms": 1e3 * both,
        "forward_tokens_s": tokens / forward,
        "both_tokens_s": tokens / both,
        "forward_tflops": shape.flops(groups) / forward / 1e12,
        "both_tflops": 3 * shape.flops(groups) / both / 1e12,
        "peak_gib": peak,
        "iteration_s": (1.75 * forward + both) * PROMPTS / groups,
    }


def kernels(model, shape: Shape, groups: int, name: str) -> None:
    """The kernels that take the most time in one forward with backward."""
    ids, mask = make_batch(shape, groups, "cuda")
    with VARIANTS[name].active(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        packed(model, ids, mask, shape.response)
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda event: -event.device_time_total)[:16]
    for event in events:
        print(f"kernel {event.device_time_total / 1e3:8.2f} ms {event.count:5d} x  {event.key[:90]}", flush=True)


def table(model, shape: Shape, given, names: list[str], device: str) -> dict[str, Any]:
    """Measure variants and group counts until the time is used up; a line each."""
    started, results = time.perf_counter(), {}
    print(f"{'variant':20} groups  fwd ms  both ms  fwd ktok/s  both ktok/s  TFLOP/s fwd, both  GiB  iteration s")
    for place, groups in enumerate(given.groups):
        for name in names if place == 0 else [one for one in names if one in SWEPT]:
            if time.perf_counter() - started > given.seconds:
                print(f"{name:20} {groups:6d}  left out, the time is used up", flush=True)
                continue
            with VARIANTS[name].active():
                row = guarded(name, lambda groups=groups: measure(model, shape, groups, device, given.repeats))
            if row is not None:
                results[f"{name}, {groups} groups"] = row
                print(line(name, groups, row), flush=True)
    return results


def line(name: str, groups: int, row: dict[str, float]) -> str:
    return (
        f"{name:20} {groups:6d} {row['forward_ms']:7.1f} {row['both_ms']:8.1f} {row['forward_tokens_s'] / 1e3:11.0f} "
        f"{row['both_tokens_s'] / 1e3:12.0f} {row['forward_tflops']:12.0f} {row['both_tflops']:5.0f} "
        f"{row['peak_gib']:4.0f} {row['iteration_s']:12.2f}"
    )


def flex(model, shape: Shape, given, device: str) -> Any:
    """FlexAttention last, under a time limit of its own: compiling it can take minutes."""
    name, groups = "flex, fused", given.groups[0]

    def run() -> dict[str, float]:
        with time_limit(given.flex_seconds), VARIANTS[name].active():
            return measure(model, shape, groups, device, given.repeats)

    row = guarded(name, run)
    if row is not None:
        print(line(name, groups, row), flush=True)
    return row


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a size for tests; the figures mean nothing")
    parser.add_argument("--groups", type=int, nargs="+", default=[8, 16, 4, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=35, help="no further measurement is begun after these")
    parser.add_argument("--flex-seconds", type=int, default=60)
    parser.add_argument("--no-flex", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    device, shape = "cuda" if torch.cuda.is_available() else "cpu", TINY if given.tiny else Shape()
    if device == "cpu" and not given.tiny:
        parser.error("the paper's size wants a GPU; --tiny runs the same code at a size for tests")
    started, model = time.perf_counter(), make_model(shape, device)
    here = ("plain", "flash") if device == "cpu" else ("plain", "flash", "cudnn")
    names = [name for name, one in VARIANTS.items() if one.engine in here and not (device == "cpu" and one.cuda)]
    skipped = [name for name, one in VARIANTS.items() if one.cuda and device == "cpu"]
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}", flush=True)
    print(f"needs CUDA, skipped: {', '.join(skipped)}" if skipped else "all variants", flush=True)
    result: dict[str, Any] = {"check": guarded("check", lambda: check(model, shape, names, device))}
    print(f"checked after {time.perf_counter() - started:.1f} s", flush=True)
    result["times"] = table(model, shape, given, names, device)
    if device == "cuda":
        guarded("kernels", lambda: kernels(model, shape, given.groups[0], "flash, fused"))
        result["flex"] = None if given.no_flex else flex(model, shape, given, device)
    print(f"done after {time.perf_counter() - started:.1f} s", flush=True)
    if given.out is not None:
        atomic_write_text(given.out, json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
