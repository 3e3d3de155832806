"""A feature-space world model in DINO-WM's spirit (arXiv 2411.04983), a baseline of Table 4.

A frozen encoder turns frames into features of patches; a transformer predicts those of the next frame from the
history's and its actions (mean squared error); a decoder draws them. The encoder is DINOv2, or our per-frame tokenizer,
whose frozen decoder then draws. With DINOv2 a decoder of transposed convolutions is trained beside the predictor (L1).
"""

import math
from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional

from rlvr_lib.artifacts import UserError
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.frozen import even, freeze_for_inference, is_fast
from rlvr_lib.tokens.video_task import frames_at_once

CELL = 16  # pixels per side of a frame that one DINOv2 patch stands for, as in DINO-WM: 14 x 14 patches of 224 x 224
WIDEST = 256  # channels of the trained decoder after its first doubling; halved with every other one
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which DINOv2 was trained with


class TokenizerEncoder:
    """The tokenizer's code before rounding: N features of d scalars; its own decoder draws them, rounded.

    Rounded, because that is all that the decoder has ever seen; so the tokenizer's ceiling is this model's as well.
    """

    name = "tokenizer"

    def __init__(self, folder: Path, device: str):
        tokenizer = FrameTokenizer.from_pretrained(folder / "model")
        self.model = freeze_for_inference(tokenizer, device)
        self.at_once = frames_at_once(tokenizer.size, torch.device(device))
        self.width, self.tokens, self.doublings = len(tokenizer.quantiser.levels), tokenizer.tokens, 0

    def features(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, H, W] in [0, 1] -> float32 [B, N, d]."""
        return self.model.features(frames)

    def decode(self, features: Tensor) -> Tensor:
        """Features [B, N, d] -> frames [B, 3, H, W] in [0, 1]."""
        return self.model.decode_features(features)


class DinoEncoder:
    """DINOv2's features of patches, one for every 16 x 16 pixels; there is no decoder, so one is trained."""

    name = "DINOv2"

    def __init__(self, name: str, size: tuple[int, int], device: str):
        self.model = _dinov2(name).to(device).eval().requires_grad_(False)
        self.grid, self.at_once = (size[0] // CELL, size[1] // CELL), frames_at_once(size, torch.device(device))
        self.width, self.tokens = self.model.config.hidden_size, math.prod(self.grid)
        self.doublings = int(math.log2(CELL))

    def features(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, H, W] in [0, 1] -> float32 [B, N, D]."""
        size = [side * self.model.config.patch_size for side in self.grid]
        mean, std = (frames.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        frames = functional.interpolate(frames, size=size, mode="bilinear", antialias=True)
        return self.model((frames - mean) / std).last_hidden_state[:, 1:].float()  # the first is no patch


def _dinov2(name: str) -> nn.Module:
    from transformers import Dinov2Model

    try:
        return Dinov2Model.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"domains.baselines.feature.dinov2: {name} is neither in the local cache nor reachable "
            f"({type(error).__name__}); unset HF_HUB_OFFLINE on a machine with a network, or set "
            "domains.baselines.feature.encoder=tokenizer"
        ) from error


class FeaturePredictor(nn.Module, PyTorchModelHubMixin):
    """Features [B, C, N, D] and actions [B, C, A] in [-1, 1] of C history frames -> the next frame's [B, N, D].

    It learns the change from the newest frame, so that untrained it copies: our choice, for short trainings.
    ``doublings`` above 0 adds a decoder for features on a ``grid``.
    """

    def __init__(
        self,
        context: int,
        tokens: int,
        width: int,
        actions: int,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int,
        action_width: int,
        doublings: int = 0,
    ):
        super().__init__()
        self.context, self.tokens = context, tokens
        self.action = nn.Linear(actions, action_width)
        self.inside = nn.Linear(width + action_width, hidden)
        self.place = nn.Parameter(0.02 * torch.randn(context, tokens, hidden))
        layer = nn.TransformerEncoderLayer(
            hidden, heads, intermediate, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.outside = nn.Linear(hidden, width)
        nn.init.zeros_(self.outside.weight)
        nn.init.zeros_(self.outside.bias)
        self.decoder = _decoder(width, doublings) if doublings else None

    def forward(self, features: Tensor, actions: Tensor) -> Tensor:
        beside = self.action(actions)[:, :, None].expand(-1, -1, self.tokens, -1)
        hidden = self.inside(torch.cat([features, beside], dim=-1)) + self.place
        newest = self.blocks(hidden.flatten(1, 2))[:, -self.tokens :]
        return features[:, -1] + self.outside(newest)


def _decoder(width: int, doublings: int) -> nn.Sequential:
    """[B, D, h, w] -> [B, 3, h 2^n, w 2^n], unbounded."""
    layers: list[nn.Module] = []
    for number in range(doublings):
        channels = max(16, WIDEST >> number)
        layers += [nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.GELU()]
        width = channels
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


class FeatureWorldModel:
    """Frozen encoder, predictor and decoder together; what training, evaluation and notebooks call."""

    random = False  # one prediction per segment: nothing is drawn

    def __init__(self, encoder: TokenizerEncoder | DinoEncoder, model: FeaturePredictor):
        self.encoder, self.model = encoder, model
        self.name = f"feature world model ({encoder.name} encoder)"

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames [n, 3, H, W] -> features float32 [n, N, D], a chunk at a time."""
        wanted = frames.device.type == "cuda" and not is_fast(self.encoder.model)  # a fast tokenizer minds it itself
        parts = frames.split(even(len(frames), self.encoder.at_once))
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=wanted):
            return torch.cat([self.encoder.features(part) for part in parts]).float()

    def loss(self, frames: Tensor, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Clips of C + 1 frames [B, C + 1, 3, H, W] with their features [B, C + 1, N, D], actions [B, C, A]."""
        loss = functional.mse_loss(self.model(features[:, :-1], actions).float(), features[:, -1])
        if self.model.decoder is None:
            return loss
        return loss + functional.l1_loss(self._draw(features[:, -1]).float(), frames[:, -1])  # of true features

    def next_frame(self, history: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """History [B, C, 3, H, W] and actions [B, C, A] -> frames float32 [B, 3, H, W] in [0, 1]."""
        features = self.encode(history.flatten(0, 1)).unflatten(0, history.shape[:2])
        features = self.model(features, actions)
        frames = self.encoder.decode(features) if self.model.decoder is None else self._draw(features)
        return frames.float().clamp(0, 1)

    def _draw(self, features: Tensor) -> Tensor:
        return self.model.decoder(features.mT.unflatten(2, self.encoder.grid))
