"""The compressive tokenizer (B.3): one context frame in many codes, every other frame in few, relative to it.

Two autoencoders share a clip. The second one's encoder and decoder read features of the first by cross-attention, so
that its codes need only say what differs from the context frame. Frames do not see each other.
"""

from collections.abc import Sequence

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rlvr_lib.tokens.frame_tokenizer import _check, _grid
from rlvr_lib.tokens.fsq import FSQ
from rlvr_lib.tokens.video_blocks import Cut, Decoder, Encoder


class CompressiveTokenizer(nn.Module, PyTorchModelHubMixin):
    """Context [B, 3, H, W] and frames [B, T, 3, H, W] in [0, 1] <-> codes int64 [B, Nc] and [B, T, N].

    Nc = (H / f) (W / f); N is smaller by ``patch`` squared. Defaults: the paper's, 1 280 and 80 codes at 256 x 320.
    """

    def __init__(
        self,
        height: int = 256,
        width: int = 320,
        widths: Sequence[int] = (128, 256, 256, 512),
        encoder_blocks: int = 2,
        decoder_blocks: int = 3,
        latent: int = 64,
        levels: Sequence[int] = (7, 5, 5, 5, 5),
        patch: int = 4,
        heads: int = 4,
        groups: int = 32,
    ):
        super().__init__()
        factor = 2 ** (len(widths) - 1)
        self.size, self.grid = (height, width), _grid(height, width, factor)
        self.small, self.patch, self.latent = _grid(*self.grid, patch), patch, latent
        cut = Cut(tuple(widths), encoder_blocks, decoder_blocks, latent, groups)
        stages, positions = len(widths), self.grid[0] * self.grid[1]
        self.context_encoder = Encoder(cut, attention=False)
        self.frame_encoder = Encoder(cut, True, (stages - 2, stages - 1), positions, heads)
        narrowing, ups = (*reversed(widths[1:]), widths[0]), range(stages - 1)
        self.context_decoder = Decoder(cut, widths[-1], narrowing, ups, attention=False)
        self.frame_decoder = Decoder(cut, widths[-1], narrowing, ups, True, positions, heads)
        self.quantiser = FSQ(levels)
        self.context_before, self.context_after = nn.Conv2d(latent, len(levels), 1), nn.Conv2d(len(levels), latent, 1)
        self.frame_before = nn.Linear(patch * patch * latent, len(levels))
        self.frame_after = nn.Linear(len(levels), patch * patch * latent)

    @property
    def context_tokens(self) -> int:
        """Codes of the context frame."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Codes of every other frame."""
        return self.small[0] * self.small[1]

    def forward(self, context: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training: unbounded reconstructions of context and frames, then their codes."""
        context_codes, context_index, frame_codes, frame_index = self._quantise(context, frames)
        return *self._decode(context_codes, frame_codes), context_index, frame_index

    def encode(self, context: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Context and frames -> codes [B, Nc], [B, T, N]."""
        _, context_index, _, frame_index = self._quantise(context, frames)
        return context_index, frame_index

    def decode(self, context_index: Tensor, frame_index: Tensor) -> tuple[Tensor, Tensor]:
        """Codes -> context [B, 3, H, W] and frames [B, T, 3, H, W], clamped to [0, 1]."""
        context_codes = self.quantiser.codes_of(context_index.reshape(-1, *self.grid))
        context, frames = self._decode(context_codes, self.quantiser.codes_of(frame_index))
        return context.clamp(0, 1).float(), frames.clamp(0, 1).float()

    def context_feature(self, index: Tensor) -> Tensor:
        """Context codes [B, Nc] -> what decoding its frames reads of it, 4 % of the picture's cost."""
        codes = self.quantiser.codes_of(index.reshape(-1, *self.grid))
        return self.context_decoder.start(self.context_after(codes.movedim(-1, 1)))

    def decode_frames(self, feature: Tensor, index: Tensor) -> Tensor:
        """The context's feature for each frame and the frame's codes [B, N] -> frames [B, 3, H, W] in [0, 1]."""
        latent = self._from_patches(self.frame_after(self.quantiser.codes_of(index)))
        return self.frame_decoder(latent, feature)[0].clamp(0, 1).float()

    def _quantise(self, context: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _check(context, self.size)
        _check(frames.flatten(0, 1), self.size)
        latent, features = self.context_encoder(context)
        context_codes, context_index = self.quantiser(self.context_before(latent).movedim(1, -1))
        count = frames.shape[1]
        read = self.frame_encoder.cross  # the other stages' features, larger by far, are not repeated
        seen = [_per_frame(part, count) if str(stage) in read else part for stage, part in enumerate(features)]
        latent, _ = self.frame_encoder(frames.flatten(0, 1), seen)
        codes, index = self.quantiser(self.frame_before(self._to_patches(latent)))
        shape = (len(frames), count)
        return context_codes, context_index.flatten(1), codes.unflatten(0, shape), index.unflatten(0, shape)

    def _decode(self, context_codes: Tensor, frame_codes: Tensor) -> tuple[Tensor, Tensor]:
        context, feature = self.context_decoder(self.context_after(context_codes.movedim(-1, 1)))
        count = frame_codes.shape[1]
        latent = self._from_patches(self.frame_after(frame_codes.flatten(0, 1)))
        frames, _ = self.frame_decoder(latent, _per_frame(feature, count))
        return context, frames.unflatten(0, (-1, count))

    def _to_patches(self, latent: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, N, patch * patch * C], each patch flattened as (row, column, channel)."""
        rows = latent.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def _from_patches(self, rows: Tensor) -> Tensor:
        patches = rows.unflatten(2, (self.patch, self.patch, self.latent)).unflatten(1, self.small)
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _per_frame(feature: Tensor, count: int) -> Tensor:
    """A clip's context feature once for each of its frames: [B, ...] -> [B * count, ...]."""
    return torch.repeat_interleave(feature, count, dim=0)
