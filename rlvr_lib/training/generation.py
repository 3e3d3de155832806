"""Sampling G responses per prompt with one prefill per prompt.

Each prompt runs through the model once; its keys and values are kept once per group and read by all G samples together
(one matrix product per group). Every sample keeps only its own suffix in preallocated buffers. Rows that have ended
leave the batch, so that a few long stragglers do not cost full batches. Only last-position logits are computed.

The model is a stock transformers causal LM: all of this enters through the attention interface (shared_prompt.py), so
there is no cache object and no second model class; on a CPU a copy with joined weights is sampled (decoding_copy.py).
The paper samples with vLLM; with a fixed set of random numbers per row, results here depend neither on
the batch size nor on when rows leave the batch (up to floating-point round-off).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rlvr_lib.training.choosing import Chooser, occurring
from rlvr_lib.training.decoding_batch import Batch
from rlvr_lib.training.decoding_copy import decoding_model
from rlvr_lib.training.shared_prompt import ATTENTION, base_model

_DEAD_SHARE = 1 / 8  # ended rows are dropped once they are this share of the batch
# Row numbers (rows,) and their ids so far (rows, n) -> the given ids that follow.
Fill = Callable[[Tensor, Tensor], Tensor]


@dataclass
class SampleResult:
    """Responses of B prompts with G samples each, prompt-major.

    Attributes:
        completions: B*G lists of token ids, the end token included where it was produced.
        ended: B*G booleans, whether the response ended by itself.
        seconds: wall seconds of "prefill" and "decode".
        prefill_tokens: prompt tokens that went through the model (padding not counted).
        decode_steps: forward passes of the decoding loop.
    """

    completions: list[list[int]]
    ended: list[bool]
    seconds: dict[str, float] = field(default_factory=dict)
    prefill_tokens: int = 0
    decode_steps: int = 0


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None,
    pad_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
    max_rows: int | None = None,
    prefill_tokens: int | None = None,
    top_k: int = 0,
    given: Tensor | None = None,
    uniforms: Tensor | None = None,
    race: Tensor | None = None,
    graphs: bool | None = None,
    dtype: torch.dtype | None = None,
    penalty: float = 1.0,
    fill: Fill | None = None,
) -> SampleResult:
    """Sample `group_size` responses to each prompt.

    Args:
        model: a transformers causal LM with plain rotary attention (Llama, Qwen2, ...), PEFT-wrapped or not.
        prompts: B lists of token ids, of any lengths of at least 1.
        max_new_tokens: longest response, at least 1.
        eos_id: the end token, several of them, or None (every response has the full length).
        temperature: above 0; logits are divided by it. `top_p` in (0, 1]: nucleus sampling. `greedy` ignores both.
        generator: source of the random numbers; drawn once, (B*G, max_new_tokens) of them, on its own device.
        max_rows: samples decoded at a time (None: 512, with graphs what the memory holds); prompts of similar length
            share a batch.
        prefill_tokens: tokens of one prefill pass; by default 4096 on a CPU (cache), 65536 elsewhere.
        top_k: only the most likely ids are drawn; 0: all. (Ties with the last of them stay in.)
        given: (B, max_new_tokens) ids that are put in instead of sampled ones, -1 where the model samples; the same
            columns for all prompts, and never the first. They go through the model together with the sampled id before
            them, so they cost no pass of their own.
        uniforms: (B, G, max_new_tokens) numbers in [0, 1) to draw with, in place of the generator's.
        race: (max_new_tokens, V) exponential numbers that all rows draw with instead: the id with the largest
            probability / number wins. Serving engines draw so; here it makes many requests share their noise.
        graphs: fixed-length sampling with captured steps (graph_sampling.py); None: on CUDA where it applies, False:
            never. The ids are the same up to floating-point round-off.
        dtype: with graphs, the precision of weights and cache (a cast copy of the model is kept); None: the model's,
            or that of autocast.
        penalty: repetition penalty on all ids of the prompt and of the response so far; 1: none.
        fill: asked for each run of given columns when it is reached; the ids in `given` then only mark the columns.

    Raises:
        ValueError: empty prompt, or a setting outside its range.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("sampling needs at least one prompt, and no prompt may be empty")
    if group_size < 1 or max_new_tokens < 1 or temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError("group_size and max_new_tokens must be at least 1, temperature above 0, top_p in (0, 1]")
    if given is not None:
        _check_given(given, (len(prompts), max_new_tokens))
    if uniforms is not None and uniforms.shape != (len(prompts), group_size, max_new_tokens):
        raise ValueError(f"uniforms: needs {(len(prompts), group_size, max_new_tokens)}, got {tuple(uniforms.shape)}")
    device = next(model.parameters()).device
    ends = [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)
    chooser = Chooser(ends, pad_id, temperature, top_p, greedy, device, top_k, race, penalty)
    if race is not None and len(race) != max_new_tokens:
        raise ValueError(f"race: needs {max_new_tokens} rows, got {len(race)}")
    if greedy or race is not None:
        uniforms = None
    elif uniforms is None:
        source = generator.device if generator is not None else "cpu"
        uniforms = torch.rand(len(prompts), group_size, max_new_tokens, generator=generator, device=source)
    uniforms = None if uniforms is None else uniforms.to(device)
    prefill_tokens = prefill_tokens or (4096 if device.type == "cpu" else 65536)
    if (graphs or (graphs is None and device.type == "cuda")) and fill is None and penalty == 1:
        shape = (group_size, max_new_tokens)
        arguments = (model, prompts, chooser, shape, uniforms, given, max_rows, prefill_tokens, dtype)
        fixed = _with_graphs(arguments, ends, top_p)
        if fixed is not None:
            return fixed
    result = SampleResult([[]] * len(prompts) * group_size, [False] * len(prompts) * group_size)
    result.seconds = {"prefill": 0.0, "decode": 0.0}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    size = max(1, (max_rows or 512) // group_size)
    model = decoding_model(model)
    with sampling_mode(model):
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            batch = Batch(model, [prompts[index] for index in chosen], group_size, prefill_tokens)
            numbers = None if uniforms is None else uniforms[chosen].flatten(0, 1)
            known = None if given is None else given[chosen].repeat_interleave(group_size, 0).to(device)
            _decode(batch, chooser, numbers, max_new_tokens, result, chosen, known, fill)
    return result


def _with_graphs(arguments: tuple, ends: list[int], top_p: float) -> SampleResult | None:
    """Responses from captured steps; None where that does not apply or fails."""
    from rlvr_lib.training import graph_sampling

    model, prompts = arguments[:2]
    if not graph_sampling.usable(model, prompts, ends, top_p):
        return None
    return graph_sampling.try_sample_fixed(*arguments)


def _check_given(given: Tensor, shape: tuple[int, int]) -> None:
    if given.shape != shape:
        raise ValueError(f"given: needs {shape} (prompts, max_new_tokens), got {tuple(given.shape)}")
    known = given >= 0
    if not torch.equal(known.all(0), known.any(0)) or bool(known[:, 0].any()):
        raise ValueError("given: the same columns must be given for all prompts, and the first one sampled")


@contextmanager
def sampling_mode(model: nn.Module):
    """Evaluation mode and the shared-prompt attention function, both put back afterwards."""
    inner, training = base_model(model), model.training
    before = inner.config._attn_implementation
    if before != ATTENTION:
        inner.set_attn_implementation(ATTENTION)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
        if before != ATTENTION:
            inner.set_attn_implementation(before)


def _decode(
    batch: Batch,
    chooser: Chooser,
    uniforms,
    max_new_tokens: int,
    result: SampleResult,
    chosen,
    given,
    fill: Fill | None,
) -> None:
    """Run one batch to its end and write its responses into `result`; `given` (rows, max_new_tokens) as in `sample`."""
    started = time.perf_counter()
    rows, group = batch.rows, batch.group
    device = batch.device
    tokens = torch.full((max_new_tokens, rows), chooser.pad_id, dtype=torch.long, device=device)
    lengths = torch.full((rows,), max_new_tokens, device=device)
    alive = torch.arange(rows, device=device)  # original numbers of the rows in the batch
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    look = 1 if device.type == "cpu" else 8  # asking a GPU how many rows are done stalls it
    known = [False] * max_new_tokens if given is None else (given[0] >= 0).tolist()
    places = torch.tensor([chosen[row // group] * group + row % group for row in range(rows)], device=device)
    seen = None if chooser.penalty == 1 else occurring(batch.texts, group, batch.logits)
    for step in range(max_new_tokens):
        if known[step]:
            continue  # was fed with the sampled token before it
        numbers, marks = (None if rows is None else rows[alive] for rows in (uniforms, seen))
        following = chooser(batch.logits, None if numbers is None else numbers[:, step], step, marks)
        tokens[step, alive] = following
        ends = chooser.is_end(following) & ~done
        done = done | ends
        lengths[alive] = torch.where(ends, step + 1, lengths[alive])
        run = step + 1
        while run < max_new_tokens and known[run]:
            run += 1
        if run > step + 1:
            if fill is not None:
                given[alive, step + 1 : run] = fill(places[alive], tokens[: step + 1, alive].T).to(device)
            tokens[step + 1 : run, alive] = given[alive, step + 1 : run].T
        if seen is not None:
            seen[alive] = seen[alive].scatter(1, tokens[step:run, alive].T, True)
        if run == max_new_tokens:
            break
        if step % look == 0:
            dead = int(done.sum())
            if dead == len(done):
                break
            if dead >= max(1, _DEAD_SHARE * len(done)):
                living = (~done).nonzero()[:, 0]
                batch.keep(living)
                following, alive, done = following[living], alive[living], done[living]
        feed = following[:, None]
        batch.advance(feed if run == step + 1 else torch.cat([feed, given[alive, step + 1 : run]], 1))
    ended = torch.ones(rows, dtype=torch.bool, device=device)
    ended[alive] = done
    columns = tokens.T.tolist()
    for row, (length, end) in enumerate(zip(lengths.tolist(), ended.tolist(), strict=True)):
        place = int(places[row])
        result.completions[place], result.ended[place] = columns[row][:length], end
    result.seconds["prefill"] += batch.seconds
    result.seconds["decode"] += time.perf_counter() - started
    result.prefill_tokens += batch.tokens
    result.decode_steps += batch.passes
