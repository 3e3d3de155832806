"""Frame metrics as the paper defines them (F.1) and the repetition rate (F.3).

All take float32 frames [..., 3, H, W] in [0, 1] and return one value per frame, [...]; means over frames and segments
are the caller's. Predictions are clamped first. LPIPS is in :mod:`rlvr_lib.worlds.perceptual`.
"""

from functools import lru_cache

import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
HIGHER_IS_BETTER = {"mse": False, "mae": False, "psnr": True, "ssim": True, "lpips": False, "repetition": False}
IMAGE = (-3, -2, -1)


def mse(truth: Tensor, prediction: Tensor) -> Tensor:
    """Mean squared error over channels and pixels."""
    _same(truth, prediction)
    return (truth - prediction.clamp(0, 1)).square().mean(IMAGE)


def mae(truth: Tensor, prediction: Tensor) -> Tensor:
    """Mean absolute error over channels and pixels."""
    _same(truth, prediction)
    return (truth - prediction.clamp(0, 1)).abs().mean(IMAGE)


def psnr(truth: Tensor, prediction: Tensor) -> Tensor:
    """10 log10(1 / (MSE + 1e-8)) in dB, per frame (so equal frames have 80 dB); average it after, not before."""
    return -10 * torch.log10(mse(truth, prediction) + 1e-8)


def ssim(truth: Tensor, prediction: Tensor) -> Tensor:
    """Structural similarity: 11-tap Gaussian window of sigma 1.5 where it fits whole, k1 0.01, k2 0.03, range 1.

    Per channel, mean over positions and channels, in [-1, 1]. Frames smaller than the window are a ValueError.
    """
    _same(truth, prediction)
    first, second = (frames.flatten(0, -4).float() for frames in (truth, prediction.clamp(0, 1)))
    if min(first.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim: frames of {tuple(first.shape[-2:])} are smaller than its window of {WINDOW}")
    luminance, structure = ssim_terms(first, second)
    return (luminance * structure).mean(IMAGE).reshape(truth.shape[:-3])


def ssim_terms(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure terms per position of frames [B, 3, H, W]; SSIM is the mean of their product."""
    moments = torch.cat([first, second, first * first, second * second, first * second])
    mean_a, mean_b, square_a, square_b, product = _blur(moments).chunk(5)
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    covariance = product - mean_a * mean_b
    structure = (2 * covariance + 0.03**2) / (square_a - mean_a**2 + square_b - mean_b**2 + 0.03**2)
    return luminance, structure


def _blur(images: Tensor) -> Tensor:
    """The Gaussian window over [B, C, H, W], separably, without padding.

    As products with banded matrices: five times faster on a CPU than as a convolution (docs/tried.md).
    """
    rows, columns = (_window(size, images.dtype, images.device) for size in images.shape[-2:])
    return rows.T @ (images @ columns)


@lru_cache(maxsize=16)
def _window(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What one axis is multiplied with, [size, size - 10]: column i holds the taps from row i on."""
    place = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    taps = torch.exp(-place.square() / (2 * SIGMA**2))
    band = torch.zeros(size, size - WINDOW + 1, dtype=torch.float64)
    for start in range(band.shape[1]):
        band[start : start + WINDOW, start] = taps / taps.sum()
    return band.to(device, dtype)


def _same(truth: Tensor, prediction: Tensor) -> None:
    if truth.shape != prediction.shape or truth.dim() < 4 or truth.shape[-3] != 3:
        shapes = f"{tuple(truth.shape)} and {tuple(prediction.shape)}"
        raise ValueError(f"frames must be [..., 3, H, W] of one shape, not {shapes}")


FRAME_METRICS = {"mse": mse, "mae": mae, "psnr": psnr, "ssim": ssim}


def repeats(tokens: Tensor) -> Tensor:
    """Whether a clip ends standing still: codes [B, T, N] -> bool [B], the last two frames equal token by token.

    Earlier pairs are not looked at (F.3, trap H.6). The single-step variant: last history frame and prediction, T = 2.
    """
    if tokens.dim() != 3 or tokens.shape[1] < 2:
        raise ValueError(f"repeats: needs codes [B, T, N] with T > 1, not {tuple(tokens.shape)}")
    return (tokens[:, -1] == tokens[:, -2]).all(-1)
