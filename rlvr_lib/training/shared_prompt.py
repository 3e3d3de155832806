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

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlvr_lib.training.fused import fuse
from rlvr_lib.training.packed_layout import PackedLayout
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
        return torch.stack(TokenStatistics.apply(logits.flatten(0, 1), targets, temperature, entropy, True), -1)[None]

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
