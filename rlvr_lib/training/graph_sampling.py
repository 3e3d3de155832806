"""Sampling responses of one fixed length with a captured decoding step: the video path of `generation.sample` on CUDA.

A decoding step of a small model is hundreds of small kernels, which the host launches more slowly than the GPU runs
them. Here everything a step touches stays at a fixed address (step counter, logits, ids, random numbers, keys and
values), so a step is recorded once as a CUDA graph and replayed. Known ids that are put in between (actions) go through
the model together with the sampled id before them, in an ordinary pass over the same buffers. Without capture the same
code runs step by step on any device, which is how tests hold it against `generation.sample`.

Buffers and graphs live for one call: recording takes a fraction of a second, and the memory (tens of gigabytes at the
paper's size) is wanted by the training passes between two rollouts.
"""

import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rlvr_lib.training.choosing import Chooser
from rlvr_lib.training.generation import SampleResult, sampling_mode
from rlvr_lib.training.rollout_copy import rollout_model
from rlvr_lib.training.static_batch import Options, Plan, StaticBatch, say_once

ENABLED = os.environ.get("RLVR_GRAPHS", "1") != "0"
_faults: set[str] = set()  # what went wrong; a fault ends the use of graphs for the rest of the process


def fitting_groups(model: nn.Module, plan: Plan, reserve: int) -> int:
    """How many of the plan's groups the free GPU memory holds, at least one; all of them elsewhere."""
    if model.device.type != "cuda":
        return plan.groups
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(model.device)[0]
    config, size = model.config.get_text_config(), model.dtype.itemsize
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * width * size
    row = plan.capacity * token + config.vocab_size * (size + 16)  # logits and what choosing makes of them
    return max(1, min(plan.groups, (free - min(reserve, free // 2)) // (plan.prompt * token + plan.group * row)))


def usable(model: nn.Module, prompts: Sequence[Sequence[int]], ends: list[int], top_p: float) -> bool:
    """Whether this way of sampling is for these settings at all."""
    while hasattr(model, "module"):
        model = model.module
    adapters = hasattr(model, "get_base_model")
    return ENABLED and not ends and top_p == 1 and len(set(map(len, prompts))) == 1 and not adapters and not _faults


@torch.no_grad()
def sample_fixed(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    chooser: Chooser,
    shape: tuple[int, int],
    uniforms: Tensor | None,
    given: Tensor | None,
    max_rows: int | None,
    prefill_tokens: int,
    dtype: torch.dtype | None = None,
    options: Options | None = None,
) -> SampleResult:
    """Responses of `shape` = (G, R) to prompts of one length; the other arguments as in `generation.sample`.

    ``dtype`` is the precision of weights, keys and values (None: the model's own). ``max_rows`` None: by free memory.
    """
    group, columns = shape
    options = options or Options()
    twin = rollout_model(model, dtype)
    known = (False,) * columns if given is None else tuple((given[0] >= 0).tolist())
    plan = Plan(len(prompts), group, len(prompts[0]), known)
    result = SampleResult([[]] * plan.rows, [False] * plan.rows)
    result.seconds = {"prefill": 0.0, "capture": 0.0, "decode": 0.0}
    result.prefill_tokens = plan.groups * plan.prompt
    fit = fitting_groups(twin, plan, options.reserve) if max_rows is None else max(1, max_rows // group)
    size = -(-plan.groups // -(-plan.groups // fit))  # batches of one size, so that one set of buffers serves all
    with sampling_mode(twin), torch.autocast(twin.device.type, enabled=False):
        batch = StaticBatch(twin, Plan(size, group, plan.prompt, known), chooser, uniforms is not None, options)
        try:
            if options.capture and twin.device.type == "cuda":
                _timed(result, "capture", batch.capture, twin.device)
            for first in range(0, plan.groups, size):
                # a last batch that is not full repeats its last prompt
                chosen = [min(first + place, plan.groups - 1) for place in range(size)]
                _run(batch, chosen, prompts, uniforms, given, prefill_tokens, result)
        finally:
            batch.release()
    return result


def _run(batch: StaticBatch, chosen: list[int], prompts, uniforms, given, budget: int, result: SampleResult) -> None:
    """One batch from prompts to the result's lists."""
    group = batch.plan.group
    numbers = None if uniforms is None else uniforms[chosen].flatten(0, 1)
    known = None if given is None else given[chosen].repeat_interleave(group, 0).to(batch.device)
    rows = torch.tensor([list(prompts[index]) for index in chosen])
    _timed(result, "prefill", lambda: batch.load(rows, numbers, known, budget), batch.device)
    result.decode_steps += _timed(result, "decode", batch.decode, batch.device)
    lists = batch.ids.T.tolist()
    for place, index in enumerate(chosen):
        result.completions[index * group : (index + 1) * group] = lists[place * group : (place + 1) * group]


def _timed(result: SampleResult, part: str, work: Callable, device: torch.device):
    """Do it, wait for the GPU, and add the seconds to the result's `part`."""
    started = time.perf_counter()
    found = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    result.seconds[part] += time.perf_counter() - started
    return found


def try_sample_fixed(*arguments, **keywords) -> SampleResult | None:
    """`sample_fixed`; None, and a line saying so once, if that fails: then the caller samples in the ordinary way.

    If memory runs out, it is tried once more with fewer rows at a time.
    """
    fault = ""
    for options in (Options(), Options(reserve=20 << 30)):
        try:
            return sample_fixed(*arguments, **keywords, options=options)
        except Exception as error:
            text = str(error).strip().splitlines()
            fault, memory = (
                f"{type(error).__name__}: {text[0] if text else ''}",
                isinstance(error, torch.OutOfMemoryError),
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not memory:
            break
    _faults.add(fault)
    say_once(f"sampling without captured graphs from here on: {fault}")
    return None
