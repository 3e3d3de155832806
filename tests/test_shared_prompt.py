"""Shared-prompt log-probabilities against the plain computation of every row, in float64, gradients included."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlvr_lib.training import token_statistics
from rlvr_lib.training.packed_layout import PackedLayout
from rlvr_lib.training.shared_prompt import (
    base_model,
    disagreement,
    enable,
    plain_logprobs,
    shared_logprobs,
)
from rlvr_lib.training.token_statistics import TokenStatistics

V = 53
SHAPES = {
    "one group": ([6], 4, [5, 5, 5, 5]),
    "equal lengths": ([7, 7, 7], 3, [4] * 9),
    "unequal lengths": ([9, 2, 5], 3, [1, 7, 4, 3, 3, 6, 2, 7, 5]),
    "prompts of one token": ([1, 1], 2, [3, 1, 2, 3]),
    "a prompt of one token among others": ([1, 8], 2, [3, 1, 2, 3]),
    "groups of one": ([4, 6, 3], 1, [3, 5, 2]),
    "a response of no token": ([4, 6], 2, [3, 0, 2, 5]),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(kind: str, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    common = dict(
        vocab_size=V,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    config, model = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[kind]
    return model(config(**common | changes)).to(dtype)


def batch(prompt_lengths, group_size, response_lengths, seed=0):
    """Left-padded prompts, right-padded responses: (rows, P + R) ids and mask, and R."""
    generator = torch.Generator().manual_seed(seed)
    prompt_width, response_width = max(prompt_lengths), max(response_lengths)
    ids = torch.zeros(len(response_lengths), prompt_width + response_width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, length in enumerate(prompt_lengths):
        prompt = torch.randint(V, (length,), generator=generator)
        for row in range(index * group_size, (index + 1) * group_size):
            answer = torch.randint(V, (response_lengths[row],), generator=generator)
            ids[row, prompt_width - length : prompt_width] = prompt
            ids[row, prompt_width : prompt_width + len(answer)] = answer
            mask[row, prompt_width - length : prompt_width + len(answer)] = 1
    return ids, mask, response_width


def by_hand(model, ids, mask, width, temperature=1.0):
    """The slow obvious version: one unpadded row at a time."""
    logps, entropies = torch.zeros(len(ids), width).double(), torch.zeros(len(ids), width).double()
    for row in range(len(ids)):
        kept, count = ids[row][mask[row].bool()], int(mask[row, -width:].sum())
        if count == 0:
            continue
        log_p = (model(kept[None]).logits[0, -count - 1 : -1] / temperature).log_softmax(-1)
        logps[row, :count] = log_p.gather(1, kept[-count:, None])[:, 0]
        entropies[row, :count] = -(log_p.exp() * log_p).sum(-1)
    return logps, entropies


def gradients(model, result):
    """Every parameter's gradient of a loss that weighs each log-probability and entropy differently."""
    logps, entropies = result
    weights = torch.linspace(-1, 2, logps.numel(), dtype=logps.dtype).view_as(logps)
    model.zero_grad()
    ((logps * weights).sum() + (entropies * weights.flip(0)).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_log_probabilities_and_gradients_are_those_of_plain_rows(kind, shape):
    model, (ids, mask, width) = tiny(kind), batch(*SHAPES[shape])
    expected, found = by_hand(model, ids, mask, width), shared_logprobs(model, ids, mask, width)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
        assert torch.equal(one == 0, ~mask[:, -width:].bool())
    expected, found = gradients(model, expected), gradients(model, found)
    assert expected.keys() == found.keys()
    for name in expected:
        difference = (expected[name] - found[name]).norm() / expected[name].norm().clamp(min=1e-9)
        # transformers keeps norms and rotary angles in float32 even in a float64 model, hence not 1e-12.
        assert difference < 1e-6, name


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_temperature(temperature):
    model, (ids, mask, width) = tiny("qwen2"), batch(*SHAPES["unequal lengths"])
    expected = by_hand(model, ids, mask, width, temperature)
    found = shared_logprobs(model, ids, mask, width, temperature)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    expected, found = gradients(model, expected), gradients(model, found)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_with_lora():
    from peft import LoraConfig, get_peft_model

    ids, mask, width = batch(*SHAPES["unequal lengths"])
    model = get_peft_model(tiny("qwen2"), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0)).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = gradients(model, by_hand(model, ids, mask, width))
    found = gradients(model, shared_logprobs(model, ids, mask, width))
    assert expected.keys() == found.keys() and all("lora_" in name for name in found)
    for name in expected:
        assert (expected[name] - found[name]).norm() / expected[name].norm() < 1e-6, name


def test_gradient_checkpointing_recomputes_with_the_layout():
    model, (ids, mask, width) = tiny("qwen2"), batch(*SHAPES["unequal lengths"])
    expected = gradients(model, shared_logprobs(model, ids, mask, width))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    found = gradients(model, shared_logprobs(model, ids, mask, width))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    model, (ids, mask, width) = tiny("qwen2", torch.float32, initializer_range=0.05), batch(*SHAPES["unequal lengths"])
    model = model.to(dtype)
    found, expected = shared_logprobs(model, ids, mask, width)[0], plain_logprobs(model, ids, mask, width)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)
    assert disagreement(model, ids, mask, width) is None


def test_autocast():
    model, (ids, mask, width) = tiny("qwen2", torch.float32, initializer_range=0.05), batch(*SHAPES["unequal lengths"])
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = shared_logprobs(model, ids, mask, width)[0], plain_logprobs(model, ids, mask, width)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)
    found.sum().backward()


def test_fewer_tokens_go_through_the_model():
    ids, mask, width = batch(*SHAPES["unequal lengths"])
    layout = PackedLayout(ids, mask, width)
    prompts, _, responses = SHAPES["unequal lengths"]
    assert layout.tokens == sum(length - 1 for length in prompts) + sum(responses)
    assert layout.group.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_layer_runs_on_responses_alone(checkpointing):
    """Prompts of 7 and 4 tokens, three responses of 5 each: 9 prompt tokens in front of 30; but for checkpointing."""
    model, seen = tiny("llama"), {0: [], 2: []}
    if checkpointing:
        model.train().gradient_checkpointing_enable()
    for number, counts in seen.items():
        inside = model.model.layers[number].mlp.up_proj
        inside.register_forward_hook(lambda _m, inputs, _o, counts=counts: counts.append(inputs[0].shape[1]))
    ids, mask, width = batch([7, 4], 3, [5] * 6)
    with torch.no_grad():
        shared_logprobs(model, ids, mask, width)
    assert seen == {0: [39], 2: [39 if checkpointing else 30]}


def test_several_passes_give_the_same(monkeypatch):
    model, (ids, mask, width) = tiny("qwen2"), batch([9, 2, 5, 4], 2, [1, 7, 4, 3, 3, 6, 2, 7])
    layouts = []
    build = PackedLayout.__init__
    monkeypatch.setattr(PackedLayout, "__init__", lambda self, *args: (layouts.append(self), build(self, *args))[1])
    whole = shared_logprobs(model, ids, mask, width)
    parts = shared_logprobs(model, ids, mask, width, pass_tokens=18)
    assert [layout.group.tolist() for layout in layouts[1:]] == [[0, 0, 1, 1], [0, 0, 1, 1]]
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-7)
    assert len(shared_logprobs(model, ids, mask, width, pass_tokens=1)[0]) == 8 and len(layouts) == 3 + 4
    expected, found = gradients(model, whole), gradients(model, parts)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-7)


def test_equal_prompts_of_two_groups_may_merge_and_cut_groups_may_split():
    model, (ids, mask, width) = tiny("qwen2"), batch(*SHAPES["unequal lengths"])
    order = [0, 1, 4, 5, 2, 8, 7]  # the first prompt stands in two places, groups of unequal size
    expected = by_hand(model, ids, mask, width)[0][order]
    assert PackedLayout(ids[order], mask[order], width).group.tolist() == [0, 0, 1, 1, 2, 3, 3]
    torch.testing.assert_close(
        shared_logprobs(model, ids[order], mask[order], width)[0], expected, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_token_statistics_gradient_in_the_logits_place(temperature, entropy_weight):
    """In place it is the gradient of the closed form, it lies where the logits lay, and there is no second pass."""
    source = torch.randn(7, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets, weights = torch.arange(7), torch.linspace(-1, 2, 7, dtype=torch.float64)
    log_p = (source / temperature).log_softmax(-1)
    entropies = -(log_p.exp() * log_p).sum(-1)
    expected = torch.autograd.grad((weights * log_p[range(7), targets] + entropy_weight * entropies).sum(), source)[0]
    logits = source * 1
    got = TokenStatistics.apply(logits, targets, temperature, True, True)
    total = (weights * got[0] + entropy_weight * got[1]).sum()
    found = torch.autograd.grad(total, source, retain_graph=True)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(logits.detach(), expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(RuntimeError, match="inplace"):
        torch.autograd.grad(total, source)


def test_token_statistics_gradient_in_several_chunks(monkeypatch):
    monkeypatch.setitem(token_statistics._CHUNK_ELEMENTS, "cpu", 3 * V)
    logits = torch.randn(8, V, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(V, (8,))
    assert torch.autograd.gradcheck(lambda x: TokenStatistics.apply(x, targets, 0.8), (logits,))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_log_probabilities_are_the_same_without_entropies(kind):
    model, (ids, mask, width) = tiny(kind), batch(*SHAPES["unequal lengths"])
    both, alone = (shared_logprobs(model, ids, mask, width, entropy=entropy)[0] for entropy in (True, False))
    assert torch.equal(both, alone)
    parameters = list(model.parameters())
    pair = [torch.autograd.grad(logps.square().sum(), parameters, retain_graph=True) for logps in (both, alone)]
    assert all(torch.equal(*gradients) for gradients in zip(*pair, strict=True))


def test_a_gradient_that_leaves_entropies_out_is_the_same_as_one_with_zeros():
    logits = torch.randn(5, 7, dtype=torch.double, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])
    logps, entropies = TokenStatistics.apply(logits, targets, 0.8)
    (found,) = torch.autograd.grad(logps.sum(), logits, retain_graph=True)
    (with_entropy,) = torch.autograd.grad(logps.sum() + 1e-300 * entropies.sum(), logits)
    expected = (torch.nn.functional.one_hot(targets, 7) - (logits / 0.8).softmax(-1)) / 0.8
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(with_entropy, expected, rtol=1e-12, atol=1e-12)


def test_enabled_model_is_plain_sdpa_without_a_layout_and_saves_a_standard_config(tmp_path):
    model, (ids, mask, _) = tiny("qwen2", torch.float32), batch(*SHAPES["unequal lengths"])
    other = copy.deepcopy(model)
    enable(model)
    assert torch.equal(model(ids, attention_mask=mask).logits, other(ids, attention_mask=mask).logits)
    model.save_pretrained(tmp_path)
    assert "shared_prompt" not in (tmp_path / "config.json").read_text()
    assert Qwen2ForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_self_check_names_what_is_wrong(monkeypatch):
    model, (ids, mask, width) = tiny("qwen2", torch.float32), batch(*SHAPES["unequal lengths"])
    assert disagreement(model, ids, mask, width) is None
    attend = PackedLayout.attend
    monkeypatch.setattr(PackedLayout, "attend", lambda self, *args: attend(self, *args) * 1.5)
    assert "differ by" in disagreement(model, ids, mask, width)


def test_self_check_sees_sliding_windows_and_models_that_drop_the_layout(monkeypatch):
    ids, mask, width = batch(*SHAPES["unequal lengths"])
    sliding = tiny("qwen2", torch.float32, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert "sliding-window" in disagreement(sliding, ids, mask, width)
    model = tiny("qwen2", torch.float32)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda shared_prompt=None, **rest: forward(**rest))
    assert disagreement(model, ids, mask, width) is not None


def test_empty_prompt_is_an_error():
    ids, mask, width = batch([3], 2, [2, 2])
    mask[1, :3] = 0
    with pytest.raises(ValueError, match="at least one token"):
        PackedLayout(ids, mask, width)


def test_base_model_unwraps():
    from peft import LoraConfig, get_peft_model

    model = tiny("qwen2", torch.float32)
    assert base_model(model) is model
    assert base_model(get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))) is model
