"""Tokenizers in use: the fast way against the plain modules, step by step and whole; nothing of it in the original."""

import copy

import pytest
import torch
from torch.nn import functional
from toy_video import BINS, TOY

from rlvr_lib.compiled import Compiled, cudnn
from rlvr_lib.tokens import channels_last
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.frozen import FastDecoder, FastEncoder, even, freeze_for_inference, is_fast, quickened
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask, frames_at_once
from rlvr_lib.worlds.video_clips import Clip

SIZE = {"height": 16, "width": 24, "widths": [8, 8, 16], "latent": 8, "levels": [5, 3], "groups": 4}
ON_GPU = [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)]


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight random, biases, norms and positions too: nothing may hide behind zeros and ones."""
    generator = torch.Generator().manual_seed(6)
    for value in model.parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.data = 0.3 * noise if value.dim() == 1 else value.data + 0.05 * noise
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def single() -> FrameTokenizer:
    torch.manual_seed(1)
    return spread(FrameTokenizer(**SIZE))


@pytest.fixture(scope="module")
def multi() -> CompressiveTokenizer:
    torch.manual_seed(2)
    return spread(CompressiveTokenizer(**SIZE, patch=2, heads=2))


def pictures(*shape: int) -> torch.Tensor:
    coarse = torch.rand(torch.Size(shape).numel(), 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=(16, 24), mode="bilinear").unflatten(0, shape)


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_norm_and_silu(shifted, activate):
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 8, 5, 7) + 2).contiguous(memory_format=torch.channels_last)
    shift, weight, bias = torch.randn(3, 8)
    found = channels_last.normalised(x, shift if shifted else None, weight, bias, 4, 1e-6, activate)
    moved = x.double() + (shift.double()[:, None, None] if shifted else 0)
    expected = functional.group_norm(moved, 4, weight.double(), bias.double(), 1e-6)
    expected = functional.silu(expected) if activate else expected
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    half = channels_last.normalised(x.bfloat16(), shift if shifted else None, weight, bias, 4, 1e-6, activate)
    assert half.dtype == torch.bfloat16 and (half - expected).abs().max() < 0.05


def test_doubling_and_convolution_is_four_small_ones():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 4, 6), torch.randn(3, 5, 3, 3), torch.randn(3)
    y = functional.conv2d(x, channels_last.four_kernels(weight), padding=1)
    expected = functional.conv2d(functional.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    torch.testing.assert_close(channels_last.interleaved(y, bias), expected, rtol=1e-5, atol=1e-5)


def test_the_wide_head_s_attention():
    query, key, value = torch.randn(3, 2, 1, 6, 300, generator=torch.Generator().manual_seed(0))
    weights = (query.double() @ key.double().mT / 300**0.5).softmax(-1)
    expected = weights @ value.double()
    torch.testing.assert_close(channels_last.attended(query, key, value).double(), expected, rtol=1e-4, atol=1e-5)
    half = channels_last.attended(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert half.dtype == torch.bfloat16 and (half - expected).abs().max() < 0.05


@pytest.mark.parametrize("how", ["eager", "fused"])
def test_float32_to_round_off(single, multi, how):
    """The same arithmetic in another order: codes equal, frames to 1e-5."""
    fast = quickened(copy.deepcopy(single), how, torch.float32)
    index = single.encode(pictures(3))
    assert torch.equal(fast.encode(pictures(3)), index)
    torch.testing.assert_close(fast.decode(index), single.decode(index), rtol=1e-4, atol=1e-5)
    fast = quickened(copy.deepcopy(multi), how, torch.float32)
    codes = multi.encode(pictures(2), pictures(2, 3))
    for found, expected in zip(fast.encode(pictures(2), pictures(2, 3)), codes, strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(fast.decode(*codes), multi.decode(*codes), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ON_GPU)
@pytest.mark.parametrize("how", ["eager", "fused", "whole"])
def test_bfloat16_is_near(single, multi, how, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if how == "whole" and device == "cpu":
        pytest.skip("compiling for a CPU takes too long here")
    codes = multi.encode(pictures(2), pictures(2, 5))
    expected = multi.decode(*codes)
    fast = freeze_for_inference(multi, device, how)
    found = fast.decode(*(part.to(device) for part in codes))
    again = fast.encode(pictures(2).to(device), pictures(2, 5).to(device))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and (one.cpu() - other).abs().mean() < 0.01
    for one, other in zip(again, codes, strict=True):
        assert (one.cpu() == other).float().mean() > 0.9
    index = single.encode(pictures(4))
    fast = freeze_for_inference(single, device, how)
    assert (fast.decode(index.to(device)).cpu() - single.decode(index)).abs().mean() < 0.01


def test_the_last_part_goes_slice_by_slice(multi):
    codes = multi.encode(pictures(1), pictures(1, 6))
    fast = quickened(copy.deepcopy(multi), "eager", torch.float32)
    together = fast.decode(*codes)[1]
    fast.frame_decoder.tail = 2
    torch.testing.assert_close(fast.decode(*codes)[1], together, rtol=1e-4, atol=1e-5)


def test_a_frame_needs_only_the_context_s_middle(multi):
    codes = multi.encode(pictures(2), pictures(2, 3))
    feature = multi.context_feature(codes[0]).repeat_interleave(3, 0)
    found = multi.decode_frames(feature, codes[1].flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(found, multi.decode(*codes)[1], rtol=1e-4, atol=1e-5)


def test_the_original_stays_as_it_is(multi, monkeypatch):
    before = {name: value.clone() for name, value in multi.state_dict().items()}
    fast = freeze_for_inference(multi, "cpu", "eager")
    assert is_fast(fast) and not is_fast(multi)
    assert isinstance(fast.frame_encoder, FastEncoder) and isinstance(fast.frame_decoder, FastDecoder)
    assert fast.frame_before.weight.dtype == torch.float32  # what stands next to the quantiser
    after = multi.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    monkeypatch.setenv("RLVR_FROZEN", "eager")
    assert not is_fast(freeze_for_inference(multi, "cpu"))  # a CPU keeps to float32
    with pytest.raises(ValueError, match="slow"):
        freeze_for_inference(multi, "cpu", "slow")


def test_equal_parts():
    assert [even(count, 32) for count in (112, 128, 33, 31, 64, 1)] == [28, 32, 32, 31, 32, 1]
    assert [even(7, 8), even(56, 8), even(1, 1), even(37, 8)] == [7, 8, 1, 8]
    assert frames_at_once((256, 320), torch.device("cuda")) == 32
    assert frames_at_once((64, 80), torch.device("cpu")) == 16 and frames_at_once((999, 999), torch.device("cpu")) == 1


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_prompt_is_the_beginning_of_its_sequence(kind):
    """Frames to be predicted are not tokenised for it."""
    torch.manual_seed(3)
    task = (
        SingleStepTask(FrameTokenizer(**TOY), BINS, context=2)
        if kind == "single"
        else MultiStepTask(CompressiveTokenizer(**TOY, patch=2, heads=2), BINS, horizon=3)
    )
    length = task.clip_frames + task.has_context
    rng = torch.Generator().manual_seed(5)
    clips = [
        Clip(torch.rand(length, 3, 16, 16, generator=rng), torch.rand(length, 2, generator=rng).numpy())
        for _ in range(3)
    ]
    assert torch.equal(task.prompt(clips), task.encode(clips)[:, : task.layout.prompt])


def test_what_cannot_be_compiled_runs_plainly(monkeypatch, capsys):
    class OnGpu:
        is_cuda = True

    def failing(function):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("rlvr_lib.compiled.compiled", failing)
    step = Compiled(lambda x: "plain")
    assert step(OnGpu()) == "plain" and "no compiler here" in capsys.readouterr().out
    assert step.failed and step(OnGpu()) == "plain" and capsys.readouterr().out == ""


def test_switches_are_put_back():
    before = torch.backends.cudnn.benchmark
    with pytest.raises(KeyError), cudnn(benchmark=not before):
        assert torch.backends.cudnn.benchmark != before
        raise KeyError
    assert torch.backends.cudnn.benchmark == before
