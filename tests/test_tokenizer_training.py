"""Training a visual tokenizer: losses by hand, schedules, alternation, learning, resuming to the bit."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toy_video import Squares

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile_schema_video import VisualTokenizer
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.training.video_tokenizers import TokenizerTraining, gradient_penalty, rate_share, reconstruct

TINY = {"height": 16, "width": 16, "widths": [8, 8, 16], "latent": 8, "levels": [5, 5, 5], "groups": 4}


def settings(**changes) -> VisualTokenizer:
    values = {
        **{
            "start": "scratch",
            "widths": [8, 8, 16],
            "encoder_blocks": 1,
            "decoder_blocks": 1,
            "latent": 8,
            "norm_groups": 4,
        },
        **{"levels": [5, 5, 5], "iterations": 6, "live_iterations": 0, "clips": 2, "clip_frames": 3},
        **{"learning_rate": 1e-3, "betas": (0.9, 0.999), "warmup": 0, "grad_clip": 1.0, "perceptual_weight": 1.0},
        **{"adversary_weight": 0.0, "adversary_start": 0, "penalty_weight": 10.0, "save_every": 3},
    }
    return VisualTokenizer(**{**values, **changes})


def clips(rng: np.random.Generator, number: int) -> torch.Tensor:
    """A square in one of four places on a ground, or the negative of that."""
    pictures = np.empty((number, 3, 3, 16, 16), dtype=np.float32)
    pictures[:] = np.array([0.2, 0.5, 0.8]).reshape(3, 1, 1)
    for clip in range(number):
        top, left = rng.integers(0, 2) * 8, rng.integers(0, 2) * 8
        pictures[clip, :, :, top : top + 8, left : left + 8] = np.array([0.9, 0.1, 0.3]).reshape(3, 1, 1)
        if rng.random() < 0.5:
            pictures[clip] = 1 - pictures[clip]
    return torch.from_numpy(pictures)


def training(folder, model=None, **changes) -> TokenizerTraining:
    torch.manual_seed(0)
    model = model or FrameTokenizer(**TINY, encoder_blocks=1, decoder_blocks=1)
    return TokenizerTraining(model, settings(**changes), clips, Squares(), folder, seed=4)


def weights(trained: TokenizerTraining) -> torch.Tensor:
    return torch.cat([value.flatten() for value in trained.tokenizer.state_dict().values()])


def test_it_learns(tmp_path):
    run = training(tmp_path, learning_rate=4e-3, iterations=100, save_every=100, clips=8)
    held = clips(np.random.default_rng(99), 8).flatten(0, 1)
    mean_guess = (held - clips(np.random.default_rng(98), 64).mean((0, 1))).abs().mean().item()
    facts = run.run()
    with torch.no_grad():
        again = run.tokenizer.decode(run.tokenizer.encode(held))
    assert (again - held).abs().mean().item() < 0.5 * mean_guess
    assert facts["iterations"] == 100 and facts["codes_used"] > 3
    assert FrameTokenizer.from_pretrained(tmp_path / "model").encode(held).shape == (24, 16)


@pytest.mark.parametrize("adversary", [0.0, 0.1])
@pytest.mark.parametrize("kind", [FrameTokenizer, CompressiveTokenizer])
def test_a_broken_run_resumes_to_the_bit(tmp_path, kind, adversary, cut_off):
    """Dropout, adversary and optimisers included; a truncated last checkpoint costs one interval, not the run."""

    def fresh(folder):
        torch.manual_seed(0)
        size = {**TINY, "encoder_blocks": 1, "decoder_blocks": 1}
        model = kind(**size, patch=2, heads=2) if kind is CompressiveTokenizer else kind(**size)
        return training(folder, model, adversary_weight=adversary, save_every=2, iterations=6)

    whole = fresh(tmp_path / "whole")
    whole.run()
    broken = fresh(tmp_path / "broken")
    cut_off(broken, "_iterate", "iteration", at=5)
    last = sorted((tmp_path / "broken" / "checkpoints").glob("*.pt"))[-1]
    last.write_bytes(last.read_bytes()[:1000])
    resumed = fresh(tmp_path / "broken")
    resumed.run()
    assert torch.equal(weights(resumed), weights(whole))


def test_alternation(tmp_path):
    """Even iterations move the tokenizer only, odd ones the adversary only, and odd ones before the start nothing."""
    run = training(tmp_path, adversary_weight=0.1, adversary_start=2, iterations=4)
    moved = []
    for iteration in range(4):
        run.iteration = iteration
        before = [next(model.parameters()).detach().clone() for model in (run.tokenizer, run.adversary)]
        run._iterate()
        after = [next(model.parameters()) for model in (run.tokenizer, run.adversary)]
        moved.append([not torch.equal(old, new) for old, new in zip(before, after, strict=True)])
    assert moved == [[True, False], [False, False], [True, False], [False, True]]


def test_the_context_frame_weighs_as_much_as_the_others_together():
    torch.manual_seed(0)
    model = CompressiveTokenizer(**TINY, encoder_blocks=1, decoder_blocks=1, patch=2, heads=2)
    batch = clips(np.random.default_rng(0), 2)
    pairs, index = reconstruct(model, batch)
    assert [tuple(truth.shape) for truth, _ in pairs] == [(2, 3, 16, 16), (4, 3, 16, 16)]
    assert torch.equal(pairs[0][0], batch[:, 0]) and torch.equal(pairs[1][0][1], batch[0, 2])
    assert len(index) == 2 * 16 + 4 * 4
    pairs, index = reconstruct(FrameTokenizer(**TINY), batch)
    assert [tuple(truth.shape) for truth, _ in pairs] == [(6, 3, 16, 16)] and index.shape == (6, 16)


def test_the_gradient_penalty_of_a_linear_critic():
    """D(x) = w x has the slope w everywhere, so that the penalty is (|w| - 1) squared."""
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False))
    nn.init.constant_(critic[1].weight, 0.5)
    expected = (0.5 * math.sqrt(12) - 1) ** 2
    assert gradient_penalty(critic, torch.rand(5, 3, 2, 2)).item() == pytest.approx(expected, rel=1e-5)


def test_the_schedule():
    assert [rate_share(update, 4, 104) for update in (0, 1, 3)] == [0.25, 0.5, 1.0]
    assert rate_share(54, 4, 104) == pytest.approx(0.5) and rate_share(104, 4, 104) == pytest.approx(0)
    assert rate_share(999, 4, None) == 1.0
    # the paper: 300 000 generator updates of a cosine over 600 000 end at 2.53e-4
    assert 5e-4 * rate_share(300_000, 5_000, 600_000) == pytest.approx(2.53e-4, rel=5e-3)


def test_an_exploding_loss_is_named(tmp_path):
    run = training(tmp_path)
    run.perceptual = lambda truth, again: again.sum() * float("inf")
    with pytest.raises(UserError, match="learning_rate"):
        run.run()
