"""Video diffusion in AVDC's spirit (arXiv 2310.08576), a baseline of Table 4: the next frame out of noise.

diffusers' U-Net sees the noisy frame, the history and the actions; DDPM noise in training, DDIM steps in sampling.
AVDC draws a whole plan from a first frame and a sentence; here it is one frame, from frames and actions.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional

HEAD = 32  # channels per attention head, as in AVDC


class DiffusionModel(nn.Module, PyTorchModelHubMixin):
    """Noisy frame [B, 3 p p, h, w], step [B] and condition [B, K, h, w] -> the target of ``kind``, as the frame.

    ``patch`` p folds p x p pixels into channels. The condition: history frames, every action as channels of one value,
    and each place's own coordinates, without which convolutions could not tell where a push is aimed at.
    """

    def __init__(
        self,
        context: int,
        actions: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention_levels: int,
        patch: int,
        target: str,
        noise_steps: int,
    ):
        super().__init__()
        channels, levels = 3 * patch**2, len(widths)
        attends = [level >= levels - attention_levels for level in range(levels)]
        self.patch = patch
        self.net = UNet2DModel(
            in_channels=(1 + context) * channels + context * actions + 2,
            out_channels=channels,
            block_out_channels=tuple(widths),
            layers_per_block=blocks,
            norm_num_groups=groups,
            attention_head_dim=min(HEAD, widths[0]),
            down_block_types=tuple("AttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
            up_block_types=tuple("AttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
        )
        # by name: diffusers takes positional values for defaults when it makes another scheduler of this one
        schedule = {"num_train_timesteps": noise_steps, "beta_schedule": "squaredcos_cap_v2", "prediction_type": target}
        self.noise = DDPMScheduler(**schedule)

    def forward(self, noisy: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        return self.net(torch.cat([noisy, condition], dim=1), step).sample.float()

    def fold(self, frames: Tensor) -> Tensor:
        """Frames [..., 3, H, W] in [0, 1] -> [..., 3 p p, H / p, W / p] in [-1, 1]."""
        return functional.pixel_unshuffle(2 * frames - 1, self.patch)

    def unfold(self, folded: Tensor) -> Tensor:
        """The way back, clamped to [0, 1]."""
        return (functional.pixel_shuffle(folded, self.patch) / 2 + 0.5).clamp(0, 1)

    def condition(self, history: Tensor, actions: Tensor) -> Tensor:
        """History [B, C, 3, H, W] in [0, 1] and actions [B, C, A] in [-1, 1] -> channels [B, K, h, w]."""
        frames = self.fold(history).flatten(1, 2)
        height, width = frames.shape[-2:]
        moves = actions.flatten(1)[:, :, None, None].expand(-1, -1, height, width)
        rows, columns = (torch.linspace(-1, 1, side, device=frames.device) for side in (height, width))
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(frames), -1, -1, -1)
        return torch.cat([frames, moves, places], dim=1)


def denoise(predict: Callable[[Tensor, Tensor], Tensor], noise: DDPMScheduler, start: Tensor, steps: int) -> Tensor:
    """Noise [B, ...] -> sample in [-1, 1], in ``steps`` DDIM steps (no noise added on the way).

    ``predict`` maps (noisy, step []) to the target that ``noise`` was made for.
    """
    ddim = DDIMScheduler.from_config(noise.config, timestep_spacing="trailing")  # begins at the noisiest step
    ddim.set_timesteps(steps, device=start.device)
    sample = start
    for step in ddim.timesteps:
        sample = ddim.step(predict(sample, step), step, sample).prev_sample
    return sample


class VideoDiffusion:
    """The model with its losses and its sampler; what training, evaluation and notebooks call."""

    name, random, encode = "video diffusion", True, None

    def __init__(self, model: DiffusionModel, steps: int):
        self.model, self.steps = model, steps

    def loss(self, frames: Tensor, features: None, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of the target at random steps; clips [B, C + 1, 3, H, W], actions [B, C, A]."""
        noise, clean = self.model.noise, self.model.fold(frames[:, -1])
        most = noise.config.num_train_timesteps
        step = torch.randint(most, (len(clean),), generator=generator, device=clean.device)
        random = torch.randn(clean.shape, generator=generator, device=clean.device)
        kind = noise.config.prediction_type
        target = {"epsilon": random, "sample": clean}.get(kind)
        target = noise.get_velocity(clean, random, step) if target is None else target
        condition = self.model.condition(frames[:, :-1], actions)
        return functional.mse_loss(self.model(noise.add_noise(clean, random, step), step, condition), target)

    def next_frame(self, history: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """History [B, C, 3, H, W] and actions [B, C, A] -> one sample each, frames float32 [B, 3, H, W] in [0, 1]."""
        condition = self.model.condition(history, actions)
        shape = self.model.fold(history[:, -1]).shape
        start = torch.randn(shape, generator=generator, device=history.device)

        def predict(noisy: Tensor, step: Tensor) -> Tensor:
            with torch.autocast(noisy.device.type, torch.bfloat16, enabled=noisy.device.type == "cuda"):
                return self.model(noisy, step, condition)

        return self.model.unfold(denoise(predict, self.model.noise, start, self.steps))
