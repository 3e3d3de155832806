"""LPIPS against its published example, and the announced fallback."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.perceptual import FALLBACK, MultiScaleDissimilarity, Perceptual, perceptual
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
    frames = torch.rand(1, 3, 32, 32, requires_grad=True)
    metric(torch.rand(1, 3, 32, 32), frames).sum().backward()
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
