"""Visual tokenizers: the paper's sizes, the layouts of their codes, saving and loading, bad input."""

import pytest
import torch

from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.discriminator import Discriminator
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer

TINY = {"height": 16, "width": 24, "widths": [8, 8, 16], "latent": 8, "levels": [5, 3], "groups": 4}


def count(model: torch.nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def frames(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def per_frame() -> FrameTokenizer:
    torch.manual_seed(1)
    return FrameTokenizer(**TINY).eval()


@pytest.fixture(scope="module")
def compressive() -> CompressiveTokenizer:
    torch.manual_seed(2)
    return CompressiveTokenizer(**TINY, patch=2, heads=2).eval()


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        single, multi, adversary = FrameTokenizer(), CompressiveTokenizer(), Discriminator()
    assert count(single) == 104_414_088
    assert count(multi) == 129_448_016
    assert count(adversary) == 6_271_105
    assert round(count(single.encoder) / 1e6, 2) == 61.06 and round(count(single.decoder) / 1e6, 2) == 43.36
    parts = (multi.context_encoder, multi.frame_encoder, multi.context_decoder, multi.frame_decoder)
    assert [round(count(part) / 1e6, 1) for part in parts] == [24.5, 28.9, 36.3, 39.7]
    assert single.tokens == 320 and (multi.context_tokens, multi.tokens) == (1280, 80)


def test_shapes_and_ranges(per_frame, compressive):
    index = per_frame.encode(frames(2))
    assert index.shape == (2, 24) and index.min() >= 0 and index.max() < 15
    again = per_frame.decode(index)
    assert again.shape == (2, 3, 16, 24) and again.min() >= 0 and again.max() <= 1
    torch.testing.assert_close(per_frame(frames(2))[0].clamp(0, 1), again)
    context_index, index = compressive.encode(frames(2), frames(2, 3))
    assert context_index.shape == (2, 24) and index.shape == (2, 3, 6)
    context, others = compressive.decode(context_index, index)
    assert context.shape == (2, 3, 16, 24) and others.shape == (2, 3, 3, 16, 24)
    first, rest, _, _ = compressive(frames(2), frames(2, 3))
    torch.testing.assert_close(first.clamp(0, 1), context)
    torch.testing.assert_close(rest.clamp(0, 1), others)


def test_patches_are_cut_row_column_channel(compressive):
    latent = torch.arange(2 * 8 * 4 * 6).reshape(2, 8, 4, 6)
    rows = compressive._to_patches(latent)
    assert rows.shape == (2, 6, 32)
    for row in range(2):
        for column in range(3):
            block = latent[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(rows[1, 3 * row + column], block.permute(1, 2, 0).flatten())
    assert torch.equal(compressive._from_patches(rows), latent)


def test_frames_are_coded_one_by_one_given_the_context(compressive):
    clip, others = frames(1, 4), torch.rand(1, 3, 3, 16, 24, generator=torch.Generator().manual_seed(9))
    together = compressive.encode(clip[:, 0], clip[:, 1:])[1]
    alone = compressive.encode(clip[:, 0], clip[:, 2:3])[1]
    assert torch.equal(together[:, 1:2], alone)
    mixed = compressive.encode(clip[:, 0], torch.cat([clip[:, 1:2], others[:, 1:]], dim=1))[1]
    assert torch.equal(mixed[:, 0], together[:, 0])
    torch.nn.init.normal_(compressive.frame_encoder.cross["1"].place_context)
    latent = [
        compressive.frame_encoder(clip[:, 1], compressive.context_encoder(c)[1])[0] for c in (clip[:, 0], others[:, 0])
    ]
    assert not torch.allclose(*latent)


def test_saved_and_loaded_in_the_hub_layout(per_frame, compressive, tmp_path):
    for model, name in ((per_frame, "single"), (compressive, "multi")):
        model.save_pretrained(tmp_path / name)
        assert {path.name for path in (tmp_path / name).iterdir()} >= {"config.json", "model.safetensors"}
    again = FrameTokenizer.from_pretrained(tmp_path / "single").eval()
    assert torch.equal(again.encode(frames(2)), per_frame.encode(frames(2)))
    back = CompressiveTokenizer.from_pretrained(tmp_path / "multi").eval()
    pairs = zip(back.encode(frames(1), frames(1, 2)), compressive.encode(frames(1), frames(1, 2)), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_wrong_sizes_are_named(per_frame, compressive):
    with pytest.raises(ValueError, match=r"\[B, 3, 16, 24\]"):
        per_frame.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"\[B, 3, 16, 24\]"):
        compressive.encode(torch.zeros(1, 3, 16, 24), torch.zeros(1, 2, 3, 24, 16))
    with pytest.raises(ValueError, match="halved"):
        FrameTokenizer(**{**TINY, "width": 26})
