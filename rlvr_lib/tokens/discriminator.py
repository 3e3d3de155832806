"""The adversary of tokenizer training: patch logits from spectrally normalised convolutions (B.4)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (64, 128, 256, 512, 512, 512)


class Discriminator(nn.Module):
    """Images float [B, 3, H, W] -> logits [B, 1, H / 2**n, W / 2**n], n the number of widths (6 in the paper)."""

    def __init__(self, widths: Sequence[int] = WIDTHS):
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for number, width in enumerate(widths):
            layers.append(spectral_norm(nn.Conv2d(inside, width, 3, stride=2, padding=1)))
            if number:
                layers.append(nn.InstanceNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
            inside = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(inside, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
