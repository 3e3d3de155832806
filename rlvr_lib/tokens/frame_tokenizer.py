"""The per-frame tokenizer (B.2): a convolutional autoencoder with FSQ between its halves; a grid of codes per frame."""

from collections.abc import Sequence

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rlvr_lib.tokens.fsq import FSQ
from rlvr_lib.tokens.video_blocks import Cut, Decoder, Encoder


class FrameTokenizer(nn.Module, PyTorchModelHubMixin):
    """Frames float32 [B, 3, H, W] in [0, 1] <-> codes int64 [B, N], row by row, N = (H / f) (W / f).

    ``f`` is 2 per width after the first. The decoder widens as the encoder narrows, one stage behind, so that its last
    blocks run at half the resolution (cheap). Defaults: the paper's, 16 x 20 = 320 codes of a 256 x 320 frame.
    """

    def __init__(
        self,
        height: int = 256,
        width: int = 320,
        widths: Sequence[int] = (128, 256, 256, 512, 768),
        encoder_blocks: int = 2,
        decoder_blocks: int = 2,
        latent: int = 64,
        levels: Sequence[int] = (7, 5, 5, 5, 5),
        groups: int = 32,
    ):
        super().__init__()
        factor = 2 ** (len(widths) - 1)
        self.size, self.grid = (height, width), _grid(height, width, factor)
        cut = Cut(tuple(widths), encoder_blocks, decoder_blocks, latent, groups)
        self.encoder = Encoder(cut, attention=True)
        self.before = nn.Conv2d(latent, len(levels), 1)
        self.quantiser = FSQ(levels)
        self.after = nn.Conv2d(len(levels), latent, 1)
        narrowing = (*reversed(widths[:-1]), widths[0])
        self.decoder = Decoder(cut, widths[-1], narrowing, range(1, len(widths)), attention=True)

    @property
    def tokens(self) -> int:
        """Codes per frame."""
        return self.grid[0] * self.grid[1]

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Training: frames -> unbounded reconstruction, codes."""
        latent, index = self._quantise(frames)
        return self._decode(latent), index

    def encode(self, frames: Tensor) -> Tensor:
        """Frames -> codes."""
        return self._quantise(frames)[1]

    def decode(self, index: Tensor) -> Tensor:
        """Codes [..., N] -> frames [..., 3, H, W], clamped to [0, 1]."""
        codes = self.quantiser.codes_of(index.reshape(-1, *self.grid))
        return self._decode(codes).clamp(0, 1).float().reshape(*index.shape[:-1], 3, *self.size)

    def features(self, frames: Tensor) -> Tensor:
        """Frames [B, 3, H, W] -> what the quantiser rounds to codes, float32 [B, N, d] in about [-1, 1]."""
        return self.quantiser.unrounded(self._latent(frames)).flatten(1, 2)

    def decode_features(self, features: Tensor) -> Tensor:
        """Features [B, N, d], rounded to the codes that the decoder knows -> frames [B, 3, H, W], in [0, 1]."""
        return self._decode(self.quantiser.nearest(features).unflatten(1, self.grid)).clamp(0, 1).float()

    def _latent(self, frames: Tensor) -> Tensor:
        _check(frames, self.size)
        return self.before(self.encoder(frames)[0]).movedim(1, -1)

    def _quantise(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        codes, index = self.quantiser(self._latent(frames))
        return codes, index.flatten(1)

    def _decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.after(codes.movedim(-1, 1)))[0]


def _grid(height: int, width: int, factor: int) -> tuple[int, int]:
    if height % factor or width % factor:
        raise ValueError(f"frames of {height} x {width} cannot be halved down by {factor}")
    return height // factor, width // factor


def _check(frames: Tensor, size: tuple[int, int]) -> None:
    if frames.dim() != 4 or tuple(frames.shape[1:]) != (3, *size):
        raise ValueError(f"this tokenizer takes frames [B, 3, {size[0]}, {size[1]}], got {list(frames.shape)}")
