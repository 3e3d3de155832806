"""The decoding copy: the model's own results, refreshed, and only for models that it is for."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlvr_lib.training.decoding_batch import Batch
from rlvr_lib.training.decoding_copy import decoding_model
from rlvr_lib.training.generation import sample, sampling_mode

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # norms of transformers round to float32, whatever the model's precision
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "qwen2, tied": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, tie_word_embeddings=True)),
}


class Causal:
    """Attends as plain causal attention does."""

    def attend(self, module, query, key, value, scaling):
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        ).transpose(1, 2)


def made(name: str) -> torch.nn.Module:
    """A model in float64 whose every weight, biases and gains too, is random."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


def logits_of(copy, ids):
    with torch.no_grad(), sampling_mode(copy):
        positions = torch.arange(ids.shape[1])[None]
        mask = torch.empty(0, 0, 0, 0)
        return copy(ids, attention_mask=mask, position_ids=positions, use_cache=False, shared_prompt=Causal()).logits


@pytest.mark.parametrize("name", MODELS)
def test_the_copy_computes_what_transformers_computes(name):
    model, ids = made(name), torch.arange(14).view(2, 7)
    expected = model(ids, use_cache=False).logits
    copy = decoding_model(model)
    assert copy is not model
    torch.testing.assert_close(logits_of(copy, ids), expected, **CLOSE)


def test_each_call_brings_the_weights_up_to_date_and_leaves_the_model_alone():
    model, ids = made("qwen2, tied"), torch.arange(6)[None]
    first = decoding_model(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert decoding_model(model) is first
    torch.testing.assert_close(
        logits_of(first, ids), model(ids, use_cache=False).logits, rtol=1e-4, atol=1e-5
    )  # its norms round to float32
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.requires_grad and weight.is_contiguous() for weight in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_sampled_ids_are_those_of_the_model_itself(name, monkeypatch):
    model, prompts = made(name), [[3, 1, 4], [1, 5, 9, 2, 6]]

    def ids():
        return sample(model, prompts, 5, 12, None, 0, generator=torch.Generator().manual_seed(3)).completions

    found = ids()
    monkeypatch.setattr("rlvr_lib.training.generation.decoding_model", lambda model: model)
    assert found == ids() and len({tuple(one) for one in found}) > 5


@pytest.mark.parametrize("name", MODELS)
def test_prompts_leave_the_last_layer_by_their_last_token(name):
    """Prompts of unequal lengths, padded in one pass: the model's own logits, from one row a prompt behind the last
    layer's keys and values."""
    model, prompts = made(name), [[2, 7], [3, 1, 4], [1, 5, 9, 2, 6]]
    copy, passed = decoding_model(model), []
    for layer in copy.get_decoder().layers:
        layer.mlp.register_forward_pre_hook(lambda module, inputs: passed.append(inputs[0].shape[:-1].numel()))
    with torch.no_grad(), sampling_mode(copy):
        batch = Batch(copy, prompts, 1, prefill_tokens=100)
    expected = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    torch.testing.assert_close(batch.logits, torch.stack(expected), **CLOSE)
    assert passed == [15, 3]


def test_models_that_it_is_not_for_sample_as_they_are():
    model = made("llama")
    assert decoding_model(get_peft_model(made("llama"), LoraConfig(target_modules=["q_proj"]))).peft_config
    inside = get_peft_model(made("llama"), LoraConfig(target_modules=["up_proj"])).get_base_model()
    half = made("llama").bfloat16()
    patched = made("llama")
    patched.forward = patched.forward
    sliding = Qwen2ForCausalLM(Qwen2Config(**SIZES, use_sliding_window=True))
    for other in (inside, half, patched, sliding, torch.nn.Linear(2, 2)):
        assert decoding_model(other) is other
    assert decoding_model(model) is not model


def test_a_model_in_the_hands_of_a_trainer_has_its_copy_too():
    """TRL puts a forward of its own into the model: it is told from accelerate's mixed precision."""
    from trl.trainer.utils import add_fused_lm_head

    model = made("llama")
    add_fused_lm_head(model)
    assert "forward" in vars(model) and decoding_model(model) is not model
    model._original_forward = model.forward
    assert decoding_model(model) is model
