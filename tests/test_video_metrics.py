"""Frame metrics against an independent implementation, closed forms and measured values of a real episode."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from rlvr_lib.worlds.video_episodes import load_episode
from rlvr_lib.worlds.video_metrics import mae, mse, psnr, repeats, ssim
from rlvr_lib.worlds.video_segments import to_float

SHARED = Path(os.environ.get("RLVR_SHARED_DATA", "/nowhere"))


def frames(count: int, seed: int, height: int = 24, width: int = 30) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def slow_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """One image pair in float64, by scipy's filters and explicit variances."""
    place = np.arange(11) - 5
    taps = np.exp(-(place**2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(image):
        for axis in (1, 2):
            image = correlate1d(image, taps, axis=axis, mode="constant")
        return image[:, 5:-5, 5:-5]

    mean_a, mean_b = blur(first), blur(second)
    var_a, var_b = blur(first**2) - mean_a**2, blur(second**2) - mean_b**2
    cov = blur(first * second) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * cov + 0.03**2)
    return float((top / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))).mean())


def test_ssim_agrees_with_an_independent_implementation():
    truth = frames(6, 0)
    close = (truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    values = ssim(truth, close)
    for place in range(6):
        expected = slow_ssim(truth[place].double().numpy(), close[place].double().numpy())
        assert values[place].item() == pytest.approx(expected, abs=1e-5)
    assert ssim(truth, truth).allclose(torch.ones(6))


def test_closed_forms():
    truth = torch.full((2, 5, 3, 16, 20), 0.5)
    off = truth + torch.tensor([0.1, -0.2])[:, None, None, None, None]
    torch.testing.assert_close(mse(truth, off), torch.tensor([0.01, 0.04])[:, None].expand(2, 5))
    torch.testing.assert_close(mae(truth, off), torch.tensor([0.1, 0.2])[:, None].expand(2, 5))
    torch.testing.assert_close(psnr(truth, off)[:, 0], torch.tensor([20.0, 13.9794]), atol=1e-3, rtol=0)
    torch.testing.assert_close(psnr(truth, truth), torch.full((2, 5), 80.0))
    assert ssim(truth, off).shape == (2, 5)


def test_predictions_are_clamped():
    truth = torch.ones(1, 3, 12, 12)
    assert mse(truth, truth + 3).item() == 0 and mae(truth, truth * 0 - 4).item() == 1


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="one shape"):
        mse(frames(2, 0), frames(3, 0))
    with pytest.raises(ValueError, match="smaller than its window"):
        ssim(frames(1, 0, 8, 30), frames(1, 1, 8, 30))


def test_only_the_last_pair_of_frames_decides_about_repetition():
    moving = torch.arange(4).repeat(3, 4, 1) + torch.arange(4)[None, :, None]
    moving[1, 3] = moving[1, 2]  # settles at the end
    moving[2, 2] = moving[2, 1] = moving[2, 0]  # stands still, then moves
    assert repeats(moving).tolist() == [False, True, False]
    moving[1, 3, 2] += 1
    assert repeats(moving).tolist() == [False, False, False]


@pytest.mark.shared_data
@pytest.mark.skipif(not (SHARED / "rt1").is_dir(), reason="RLVR_SHARED_DATA has no rt1 folder")
def test_copying_real_frames_scores_what_was_measured_elsewhere():
    episode = load_episode(SHARED / "rt1" / "fractal_sample.npz", need_actions=False)
    values = to_float(episode.frames)
    assert values.shape == (22, 3, 256, 320) and episode.actions.shape == (22, 0)
    step = [metric(values[1:], values[:-1]).mean().item() for metric in (mse, mae, psnr, ssim)]
    assert step == pytest.approx([0.00192, 0.0175, 28.24, 0.9146], rel=2e-3)
    truth = torch.stack([values[start + 1 : start + 8] for start in range(15)])
    still = torch.stack([values[start].expand(7, -1, -1, -1) for start in range(15)])
    rollout = [metric(truth, still).mean().item() for metric in (mse, mae, psnr, ssim)]
    assert rollout == pytest.approx([0.00537, 0.0329, 23.60, 0.8596], rel=2e-3)
