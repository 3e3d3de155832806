"""LPIPS against its published example, and the announced fallback."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.perceptual import (
    FALLBACK,
    MultiScaleDissimilarity,
    Perceptual,
    _filled_up,
    _layers,
    _Lpips,
    layer_distance,
    perceptual,
)
from rlvr_lib.worlds.video_metrics import ssim
from rlvr_lib.worlds.video_segments import to_float

SHARED = Path(os.environ.get("RLVR_SHARED_DATA", "/nowhere"))
needs_trunks = pytest.mark.skipif(not (SHARED / "lpips").is_dir(), reason="RLVR_SHARED_DATA has no lpips folder")


@pytest.mark.shared_data
@needs_trunks
@pytest.mark.parametrize("net,far,near", [("alex", 0.721881, 0.137566), ("squeeze", 0.711048, 0.147902)])
def test_published_example(net, far, near):
    folder = SHARED / "lpips" / "images"
    images = [np.array(Image.open(folder / f"ex_{name}.png").convert("RGB"))[None] for name in ("ref", "p0", "p1")]
    truth, first, second = map(to_float, images)
    metric = perceptual(net)
    assert metric.name == f"LPIPS-{net.title()}"
    assert metric(truth, first).item() == pytest.approx(far, abs=1e-5)
    assert metric(truth, second).item() == pytest.approx(near, abs=1e-5)
    assert metric(truth, truth).item() == 0
    clip = torch.stack([torch.cat([first, second]), torch.cat([second, truth])])
    values = metric(truth.expand_as(clip), clip)
    assert values.flatten().tolist() == pytest.approx([far, near, near, 0], abs=1e-5)


@pytest.fixture
def nothing_found(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("RLVR_SHARED_DATA", raising=False)


def test_the_fallback_is_announced_and_named(nothing_found, capsys):
    metric = perceptual("squeeze")
    assert metric.name == FALLBACK == "1 - MS-SSIM"
    assert "FALLBACK" in capsys.readouterr().out
    frames = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    assert metric(frames, frames).abs().max() < 1e-5
    worse = [metric(frames, (frames + noise * torch.randn_like(frames)).clamp(0, 1)).mean() for noise in (0.05, 0.2)]
    assert 0 < worse[0] < worse[1] < 1


def test_one_scale_of_the_fallback_is_plain_ssim():
    frames, other = torch.rand(2, 4, 3, 20, 20, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(MultiScaleDissimilarity()(frames, other), 1 - ssim(frames, other).clamp(min=1e-6))


def test_a_damaged_trunk_is_named(nothing_found, tmp_path):
    file = tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="squeezenet1_1-b8a52dc0"):
        perceptual("squeeze")


def test_the_distance_is_frozen_but_lets_gradients_through(nothing_found):
    metric = perceptual("squeeze")
    assert not any(value.requires_grad for value in metric.parameters()) and not metric.train().training
    truth, noise = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    frames = (0.8 * truth + 0.2 * noise).requires_grad_()  # unlike pictures are clamped: no gradient
    metric(truth, frames).sum().backward()
    assert frames.grad.abs().sum() > 0


def test_an_unknown_net_is_named():
    with pytest.raises(UserError, match="resnet"):
        perceptual("resnet")


def test_the_fallback_survives_autocast():
    """A training in bfloat16 passes meets the same distance and a finite gradient, also for wild predictions."""
    torch.manual_seed(0)
    distance = Perceptual(FALLBACK, MultiScaleDissimilarity())
    truth = torch.rand(2, 3, 64, 80) * 0.02 + 0.5  # nearly flat: the variance is a small difference of large numbers
    wild = (truth + 0.01 * torch.randn_like(truth)).requires_grad_()
    plain = distance(truth, wild)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distance(truth, wild)
    assert torch.equal(found, plain)
    found.sum().backward()
    assert wild.grad.isfinite().all()


@pytest.fixture(scope="module")
def squeeze() -> Perceptual:
    torch.manual_seed(0)
    return Perceptual("random", _Lpips("squeeze", torchvision.models.squeezenet1_1(weights=None).features.state_dict()))


def test_a_trunk_by_hand_is_the_trunk(squeeze):
    """What a GPU runs: bias and ReLU with the convolution, colours filled up with zeros to eight channels."""
    trunk, frames = squeeze.distance.model.net, torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = trunk(frames)
        for found, layer in zip(_layers(trunk, frames), expected, strict=True):
            torch.testing.assert_close(found, layer, rtol=1e-4, atol=1e-5)
        weight = _filled_up(trunk.slice1[0].weight, 1)
        assert weight.shape[1] == 8 and _filled_up(frames, 1).shape == (2, 8, 40, 48)
        first = torch.conv2d(_filled_up(frames, 1), weight, trunk.slice1[0].bias, stride=2)
        torch.testing.assert_close(first.relu(), expected[0], rtol=1e-4, atol=1e-5)


def test_a_layer_s_distance_in_double_precision():
    first, second = torch.randn(2, 1, 3, 8, 4, 5), torch.randn(2, 4, 3, 8, 4, 5)
    weight = torch.rand(8)
    a, b = (layer.double() / layer.double().norm(dim=-3, keepdim=True) for layer in (first, second))
    expected = ((a - b).square() * weight.double()[:, None, None]).sum(-3).mean((-2, -1))
    torch.testing.assert_close(layer_distance(first, second, weight).double(), expected, rtol=1e-5, atol=1e-6)
    assert layer_distance(first.bfloat16(), second.bfloat16(), weight).dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rewards_on_a_gpu_are_near_the_exact_distance(squeeze):
    truth = torch.rand(2, 3, 3, 64, 80, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    frames = (truth[:, None] + 0.2 * torch.rand(2, 4, 3, 3, 64, 80, device="cuda")).clamp(0, 1)
    with torch.no_grad():
        exact = squeeze.to("cuda")(truth[:, None].expand_as(frames), frames)
    torch.testing.assert_close(squeeze.to_group(truth, frames), exact, rtol=0.05, atol=1e-3)
    squeeze.to("cpu")
