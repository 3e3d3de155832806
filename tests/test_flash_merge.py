"""Merged attention, fused element-wise work and token statistics against plain computations in float64."""

import copy
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from test_shared_prompt import batch, by_hand, gradients, tiny

from rlvr_lib.artifacts import ROOT
from rlvr_lib.training import flash_merge, fused, token_statistics
from rlvr_lib.training.flash_merge import ENGINES, CpuEngine, MergedAttention, engine_for, plain_attention, works
from rlvr_lib.training.packed_layout import PackedLayout
from rlvr_lib.training.shared_prompt import disagreement, plain_logprobs, shared_logprobs

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
EQUAL = ([7, 7, 7], 3, [4] * 9)
sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    works.cache_clear()


@pytest.fixture
def merging(monkeypatch):
    """Counts the calls of the CPU's engine."""
    calls = []
    forward = CpuEngine.forward
    monkeypatch.setattr(CpuEngine, "forward", staticmethod(lambda *x: (calls.append(x[3]), forward(*x))[1]))
    return calls


@pytest.fixture
def fusing(monkeypatch):
    """Fused modules on the CPU, uncompiled, at any size; counts the norms."""
    calls = []
    norm = fused.norm_forward
    monkeypatch.setattr(fused, "DEVICES", {"cpu"})
    monkeypatch.setattr(fused, "_MIN_TOKENS", 1)
    monkeypatch.setattr(fused, "norm_forward", lambda *x: (calls.append(x[0].shape), norm(*x))[1])
    return calls


def by_softmax(query, key, value, prompt_key, prompt_value, scale):
    """The formula, row by row and head by head."""
    group, out = len(query) // len(prompt_key), torch.empty_like(query)
    for row in range(len(query)):
        keys = torch.cat([prompt_key[row // group], key[row]])
        values = torch.cat([prompt_value[row // group], value[row]])
        scores = torch.einsum("qhw,khw->hqk", query[row], keys) * scale
        hidden = torch.ones(query.shape[1], len(keys)).triu(prompt_key.shape[1] + 1).bool()
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[row] = torch.einsum("hqk,khw->qhw", weights, values)
    return out


def tensors(dtype, groups=2, group=3, length=5, prompt=11, heads=2, width=8):
    generator = torch.Generator().manual_seed(1)
    shapes = [(groups * group, length, heads, width)] * 3 + [(groups, prompt, heads, width)] * 2
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("scale", [8**-0.5, 0.9])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("sizes", [{}, {"group": 1, "length": 1}, {"groups": 1, "prompt": 1}, {"length": 40}])
def test_merged_attention_and_its_gradients_are_those_of_one_softmax(sizes, dtype, close, scale):
    given = tensors(dtype, **sizes)
    exact = [x.detach().double().requires_grad_() for x in given]
    found, expected = MergedAttention.apply(*given, scale, CpuEngine), by_softmax(*exact, scale)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=close)
    weights = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = torch.autograd.grad(expected, exact, weights)
    for one, other in zip(torch.autograd.grad(found, given, weights.to(dtype)), wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=20 * close)


def test_plain_attention_is_the_formula():
    given = tensors(torch.float64)
    torch.testing.assert_close(plain_attention(*given, 0.7), by_softmax(*given, 0.7))


def test_layout_with_equal_lengths_merges(merging):
    model, (ids, mask, width) = tiny("llama", num_key_value_heads=4), batch(*EQUAL)
    expected, found = by_hand(model, ids, mask, width), shared_logprobs(model, ids, mask, width)
    assert merging.count(False) == 3 + 1 and merging.count(True) == 3 + 1  # layers, and the trial
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    expected, found = gradients(model, expected), gradients(model, found)
    for name in expected:
        assert (expected[name] - found[name]).norm() / expected[name].norm() < 1e-6, name
    assert disagreement(model, ids, mask, width) is None and len(merging) == 2 * (3 + 1 + 3)


@pytest.mark.parametrize(
    ("shape", "heads"),
    [(([9, 2], 2, [4] * 4), 4), (([7, 7], 2, [1, 4, 3, 2]), 4), (([1, 1], 2, [3] * 4), 4), (EQUAL, 2)],
)
def test_other_layouts_take_the_plain_way(shape, heads, merging):
    model, (ids, mask, width) = tiny("llama", num_key_value_heads=heads), batch(*shape)
    found = shared_logprobs(model, ids, mask, width)[0]
    torch.testing.assert_close(found, by_hand(model, ids, mask, width)[0], rtol=1e-6, atol=1e-7)
    assert not merging


def test_groups_of_unequal_size_take_the_plain_way(merging):
    model, (ids, mask, width) = tiny("llama", num_key_value_heads=4), batch(*EQUAL)
    found = shared_logprobs(model, ids[1:], mask[1:], width)[0]
    torch.testing.assert_close(found, by_hand(model, ids[1:], mask[1:], width)[0], rtol=1e-6, atol=1e-7)
    assert not merging


def test_autocast_hands_the_engine_half_precision(merging):
    model, (ids, mask, width) = tiny("llama", torch.float32, num_key_value_heads=4), batch(*EQUAL)
    expected = plain_logprobs(model, ids, mask, width)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = shared_logprobs(model, ids, mask, width)[0]
    assert merging
    torch.testing.assert_close(found, expected, rtol=0, atol=0.3)
    found.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("fault", ["raises", "wrong"])
def test_an_engine_that_fails_its_trial_is_not_used(fault, monkeypatch, capsys):
    def backward(*given):
        if fault == "raises":
            raise RuntimeError("no kernel")
        return tuple(1.1 * x for x in true(*given))

    true = CpuEngine.backward
    monkeypatch.setattr(CpuEngine, "backward", staticmethod(backward))
    model, (ids, mask, width) = tiny("llama", num_key_value_heads=4), batch(*EQUAL)
    found = shared_logprobs(model, ids, mask, width)[0]
    torch.testing.assert_close(found, by_hand(model, ids, mask, width)[0], rtol=1e-6, atol=1e-7)
    printed = capsys.readouterr().out
    assert printed.count("fails its trial") == 1 and ("no kernel" if fault == "raises" else "differs from") in printed


def test_the_operators_take_what_the_engines_hand_them():
    """GPU operators on this machine: refused for the device, not for their arguments."""
    x = torch.randn(1, 2, 8, 8, dtype=torch.bfloat16, device="meta")
    for name in ("flash", "cudnn"):
        out, logsumexp, *extra = ENGINES[name]["cuda"].forward(x, x, x, True, 0.5)
        assert out.shape == x.shape and logsumexp.numel() == 16
        extra = [torch.empty(2, dtype=torch.long, device="meta")] * 2
        gradients = ENGINES[name]["cuda"].backward(x, x, x, x, out, logsumexp, extra, True, 0.5)
        assert [g.shape for g in gradients] == [x.shape] * 3


@pytest.mark.parametrize(("engine", "expected"), [("flash", CpuEngine), ("cudnn", CpuEngine), ("plain", None)])
def test_a_cpu_has_one_engine_which_plain_switches_off(engine, expected, monkeypatch):
    monkeypatch.setattr(flash_merge, "ENGINE", engine)
    x = torch.randn(4, 2, 8)
    assert engine_for(x, x, x.dtype) is expected
    fewer = x[:, :1]
    assert engine_for(x, fewer, x.dtype) is None, "heads that share keys go the plain way"


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_fused_model_is_the_plain_one(kind, fusing, tmp_path):
    model, (ids, mask, width) = tiny(kind), batch(*EQUAL)
    other, twin = copy.deepcopy(model), tiny(kind)
    expected, found = by_hand(other, ids, mask, width), shared_logprobs(model, ids, mask, width)
    assert len(fusing) == 2 * 3 + 1
    for one, another in zip(found, expected, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-6)
    expected, found = gradients(other, expected), gradients(model, found)
    assert expected.keys() == found.keys()
    for name in expected:
        assert (expected[name] - found[name]).norm() / expected[name].norm() < 1e-5, name
    count = len(fusing)
    twin(ids)  # another model of the class
    assert len(fusing) == count and model.state_dict().keys() == twin.state_dict().keys()
    model.save_pretrained(tmp_path)
    type(twin).from_pretrained(tmp_path)(ids)
    assert len(fusing) == count
    copy.deepcopy(model)(ids)
    assert len(fusing) == count + 7


def test_fused_under_autocast_is_close_and_trains(fusing, merging):
    model, (ids, mask, width) = tiny("llama", torch.float32, num_key_value_heads=4), batch(*EQUAL)
    other = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = shared_logprobs(model, ids, mask, width), plain_logprobs(other, ids, mask, width)
    assert found[0].dtype == torch.float32
    found, expected = gradients(model, found), gradients(other, expected)
    for name in expected:
        assert (expected[name] - found[name]).norm() / expected[name].norm() < 0.1, name


def test_fused_with_lora_and_gradient_checkpointing(fusing):
    from peft import LoraConfig, get_peft_model

    ids, mask, width = batch(*EQUAL)
    model = get_peft_model(tiny("qwen2"), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0)).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = gradients(model, by_hand(model, ids, mask, width))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    found = gradients(model, shared_logprobs(model, ids, mask, width))
    assert len(fusing) > 7
    for name in expected:
        assert (expected[name] - found[name]).norm() / expected[name].norm() < 1e-5, name


def test_small_inputs_stay_eager(fusing, monkeypatch):
    monkeypatch.setattr(fused, "_MIN_TOKENS", 10_000)
    model, (ids, mask, width) = tiny("llama"), batch(*EQUAL)
    shared_logprobs(model, ids, mask, width)
    assert not fusing


def test_the_switch_turns_fusing_off(fusing, monkeypatch):
    monkeypatch.setattr(fused, "ENABLED", False)
    model, (ids, mask, width) = tiny("llama"), batch(*EQUAL)
    shared_logprobs(model, ids, mask, width)
    assert not fusing


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)])
def test_each_fused_function_by_gradcheck(shape):
    torch.manual_seed(0)
    x, gate, weight = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, shape, shape[-1:]))
    torch.testing.assert_close(
        fused.RMSNorm.apply(x, weight, 1e-3, x.dtype), F.rms_norm(x, shape[-1:], weight, 1e-3), rtol=1e-9, atol=1e-9
    )
    assert torch.autograd.gradcheck(lambda *a: fused.RMSNorm.apply(*a, 1e-3, torch.float64), (x, weight))
    assert torch.autograd.gradcheck(fused.SwiGLU.apply, (gate, x))
    query, key = (torch.randn(2, n, 5, 4, dtype=torch.float64, requires_grad=True) for n in (3, 1))
    angles = torch.randn(1, 5, 2, dtype=torch.float64).repeat(1, 1, 2)
    assert torch.autograd.gradcheck(lambda *a: fused.Rotary.apply(*a, angles.cos(), angles.sin()), (query, key))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_softmax_made_for_a_compiler_is_the_one_in_chunks(temperature):
    torch.manual_seed(0)
    logits, targets = 4 * torch.randn(9, 31), torch.randint(31, (9,))
    found = token_statistics._softmax_forward(logits, targets, temperature)
    expected = token_statistics._eager_forward(logits.double(), targets, temperature)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-5)
    upstream = torch.randn(2, 9)
    found = token_statistics._softmax_backward(logits, targets, found[2], found[1], *upstream, temperature)
    double = (logits.double(), targets, expected[2], expected[1], *upstream.double(), temperature)
    torch.testing.assert_close(found, token_statistics._eager_backward(*double).float(), rtol=1e-4, atol=1e-5)


def test_a_compiled_function_falls_back_and_says_so_once(monkeypatch, capsys):
    function = fused.Fused(lambda x: x + 1)

    monkeypatch.setattr(fused, "COMPILING", {"cpu"})
    x = torch.zeros(1 << 20)
    monkeypatch.setattr(torch, "compile", lambda _: (_ for _ in ()).throw(NotImplementedError("no compiler")))
    assert function(x).eq(1).all() and function(x).eq(1).all()
    assert capsys.readouterr().out.count("runs uncompiled, slower: NotImplementedError: no compiler") == 1
    wrong = fused.Fused(lambda x: x + 1)
    monkeypatch.setattr(torch, "compile", lambda f: lambda x: 1.5 * f(x))
    assert wrong(x).eq(1).all() and wrong.failed
    assert "differs from the plain computation by 0.5" in capsys.readouterr().out


def test_strided_queries_are_read_in_their_order(merging, monkeypatch):
    """Queries, keys and values as views of one projection."""
    ids, mask, width = batch(*EQUAL)
    layout = PackedLayout(ids, mask, width)
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(1, layout.tokens, 3, 2, 8, generator=generator)
    query, key, value = (x.transpose(1, 2) for x in whole.unbind(2))
    found = layout.attend(None, query, key, value, None)
    monkeypatch.setattr(flash_merge, "ENGINE", "plain")
    torch.testing.assert_close(found, layout.attend(None, query, key, value, None), rtol=1e-5, atol=1e-5)


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["flash", "cudnn"])
def test_engines_of_a_gpu_pass_their_trial(engine):
    assert works(ENGINES[engine]["cuda"], torch.device("cuda", 0), torch.bfloat16, 64)


def test_the_benchmark_of_the_parts_runs_at_a_tiny_size(tmp_path):
    import parts_logprobs

    out = tmp_path / "parts.json"
    parts_logprobs.main(["--tiny", "--groups", "1", "--repeats", "1", "--no-flex", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["check"] and all(row["ok"] for row in found["check"].values())
    assert all(row["both_ms"] > 0 for row in found["times"].values())
    shape = parts_logprobs.Shape()
    # Cost model I.2: 0.233 PF for 128 groups, each prompt once.
    assert shape.flops(128) / 1e15 == pytest.approx(0.233, rel=0.01)
