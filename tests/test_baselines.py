"""The two baselines of Table 4: shapes, learning, seeds, resuming, frozen encoders; an oracle checks the sampler."""

import math

import numpy as np
import pytest
import torch

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile import load_profile
from rlvr_lib.profile_schema_baselines import BaselineTraining
from rlvr_lib.report.domain_tables import budget_text
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.fsq import FSQ
from rlvr_lib.training.baselines import BaselineRun, predict_next
from rlvr_lib.training.diffusion_baseline import DiffusionModel, VideoDiffusion, denoise
from rlvr_lib.training.feature_baseline import DinoEncoder, FeaturePredictor, FeatureWorldModel, TokenizerEncoder
from rlvr_lib.worlds.video_clips import ClipSource, cut
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet, save_episode
from rlvr_lib.worlds.video_segments import training_segment

TOY = {"height": 16, "width": 16, "widths": [8, 8, 8], "encoder_blocks": 1, "decoder_blocks": 1, "latent": 8}
TOY |= {"levels": [8, 5], "groups": 4}
BINS = ActionBins([-1, -1], [1, 1])
CONTEXT = 2


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> EpisodeSet:
    """A bright square that an action moves by four pixels to the left or right, around a torus."""
    folder = tmp_path_factory.mktemp("squares")
    for number in range(8):
        rng = np.random.default_rng(number)
        frames, actions, at = np.full((8, 16, 16, 3), 40, np.uint8), np.zeros((8, 2), np.float32), rng.integers(4)
        for frame in range(8):
            frames[frame, 4:12, 4 * at : 4 * at + 4] = (230, 60, 120)
            actions[frame, 0] = rng.choice([-1, 1])
            at = (at + int(actions[frame, 0])) % 4
        save_episode(folder / f"{number}.npz", Episode(frames, actions))
    return EpisodeSet(folder, test_every=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(3)
    FrameTokenizer(**TOY).save_pretrained(folder / "model")
    return folder


@pytest.fixture(params=["feature", "diffusion"])
def make(request, tokenizer):
    """A fresh baseline, the same every time."""

    def feature():
        encoder = TokenizerEncoder(tokenizer, "cpu")
        torch.manual_seed(0)
        return FeatureWorldModel(encoder, FeaturePredictor(CONTEXT, encoder.tokens, encoder.width, 2, 32, 1, 2, 64, 4))

    def diffusion():
        torch.manual_seed(0)
        return VideoDiffusion(DiffusionModel(CONTEXT, 2, [16, 32], 1, 4, 1, 2, "v_prediction", 50), 4)

    return feature if request.param == "feature" else diffusion


def settings(**changes) -> BaselineTraining:
    values = {
        "start": "scratch",
        "updates": 4,
        "batch": 4,
        "learning_rate": 3e-3,
        "betas": (0.9, 0.999),
        "weight_decay": 0.0,
        "warmup": 0,
    }
    values |= {"grad_clip": 1.0, "schedule": "constant", "save_every": 2}
    return BaselineTraining(**{**values, **changes})


def trainer(baseline, episodes, folder, **changes) -> BaselineRun:
    source = ClipSource(episodes, episodes.train, CONTEXT + 1, whole_only=True)
    return BaselineRun(baseline, source, BINS, settings(**changes), folder, seed=5)


def held_out(episodes, number=3):
    rng = np.random.default_rng(1)
    return [cut(episodes[name], training_segment(8, CONTEXT + 1, rng)) for name in (episodes.test * number)[:number]]


def weights(model) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


def test_predictions_are_frames_drawn_by_a_seed_from_the_history_alone(make, episodes):
    baseline, clips = make(), held_out(episodes)
    torch.manual_seed(1)
    with torch.no_grad():
        for value in baseline.model.parameters():  # an untrained feature model copies, whatever it is shown
            value += 0.05 * torch.randn_like(value)
    first = predict_next(baseline, BINS, clips, seed=1)
    assert first.shape == (3, 1, 3, 16, 16) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, predict_next(baseline, BINS, clips, seed=1))
    assert torch.equal(first, predict_next(baseline, BINS, clips, seed=2)) is not baseline.random
    changed = [type(clip)(clip.frames.clone(), clip.actions.copy()) for clip in clips]
    for clip in changed:
        clip.frames[-1], clip.actions[-1] = torch.rand(3, 16, 16), 0.5
    assert torch.equal(first, predict_next(baseline, BINS, changed, seed=1))
    for clip in changed:
        clip.actions[-2] *= -1
    other = predict_next(baseline, BINS, changed, seed=1)
    history = [type(clip)(clip.frames.roll(1, -1), clip.actions) for clip in clips]
    assert not torch.equal(first, predict_next(baseline, BINS, history, seed=1))
    assert baseline.encode is not None or not torch.equal(first, other)  # rounding may hide it in a toy's features


def test_training_lowers_the_loss_and_leaves_the_encoder(make, episodes, tmp_path):
    baseline = make()
    frozen = weights(baseline.encoder.model) if baseline.encode else None
    updates = 60 if baseline.encode else 30
    run = trainer(baseline, episodes, tmp_path, updates=updates, batch=8, save_every=updates)
    frames, features, actions = run.batch(np.random.default_rng(0))
    if frozen is not None:
        online = trainer(baseline, episodes, tmp_path)
        online._keeps, online.settings = False, run.settings
        assert torch.allclose(online.batch(np.random.default_rng(0))[1], features, atol=1e-5)

    def loss() -> float:
        with torch.no_grad():
            draws = [baseline.loss(frames, features, actions, torch.Generator().manual_seed(n)) for n in range(4)]
            return float(torch.stack(draws).mean())

    start, facts = loss(), run.run()
    assert loss() < 0.7 * start and facts["clips_seen"] == 8 * updates and math.isfinite(facts["loss"])
    assert facts["parameters"] == sum(value.numel() for value in baseline.model.parameters())
    again = type(baseline.model).from_pretrained(tmp_path / "model")
    assert not torch.equal(weights(again), weights(make().model))
    if frozen is not None:
        assert torch.equal(weights(baseline.encoder.model), frozen)
        assert not any(value.requires_grad for value in baseline.encoder.model.parameters())


def test_a_broken_run_resumes_to_the_bit(make, episodes, tmp_path, cut_off):
    whole, broken = make(), make()
    trainer(whole, episodes, tmp_path / "whole").run()
    run = trainer(broken, episodes, tmp_path / "broken")
    cut_off(run, "_step", "update", at=3)
    resumed = make()
    trainer(resumed, episodes, tmp_path / "broken").run()
    assert torch.equal(weights(resumed.model), weights(whole.model))
    other = make()
    BaselineRun(other, run.source, BINS, settings(), tmp_path / "other", seed=6).run()
    assert not torch.equal(weights(other.model), weights(whole.model))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_sampler_finds_the_frame_that_a_perfect_oracle_knows(kind):
    """The oracle's targets are worked out here from the definition of the noisy frame, not by the scheduler."""
    noise = DiffusionModel(CONTEXT, 2, [8, 16], 1, 4, 0, 2, kind, 100).noise
    torch.manual_seed(0)
    frame = torch.rand(2, 3, 8, 8) * 2 - 1
    seen = []

    def oracle(noisy, step):
        seen.append(int(step))
        keep = math.sqrt(noise.alphas_cumprod[step])
        blur = math.sqrt(1 - keep**2)
        random = (noisy - keep * frame) / blur
        return {"epsilon": random, "sample": frame, "v_prediction": keep * random - blur * frame}[kind]

    found = denoise(oracle, noise, torch.randn_like(frame), 10)
    assert seen[0] == 99 and len(seen) == 10 and seen == sorted(seen, reverse=True)
    assert torch.allclose(found, frame, atol=1e-4)


def test_the_loss_of_the_noise_is_that_of_ddpm():
    """A U-Net that says nothing leaves the mean square of its target: 1 for noise, the frame's own for the frame."""
    frames = torch.full((64, CONTEXT + 1, 3, 16, 16), 0.75)
    for target, expected in (("epsilon", 1.0), ("sample", 0.25)):
        model = DiffusionModel(CONTEXT, 2, [8, 16], 1, 4, 0, 4, target, 50)
        model.forward = lambda noisy, step, condition: torch.zeros_like(noisy)
        loss = VideoDiffusion(model, 2).loss(
            frames, None, torch.zeros(64, CONTEXT, 2), torch.Generator().manual_seed(0)
        )
        assert float(loss) == pytest.approx(expected, rel=0.03)


def test_folding_and_the_place_of_every_condition():
    model = DiffusionModel(CONTEXT, 2, [8, 16], 1, 4, 0, 2, "epsilon", 10)
    frames, actions = torch.rand(3, CONTEXT, 3, 16, 16), torch.rand(3, CONTEXT, 2)
    assert torch.allclose(model.unfold(model.fold(frames)), frames, atol=1e-6)
    condition = model.condition(frames, actions)
    assert condition.shape == (3, CONTEXT * 12 + CONTEXT * 2 + 2, 8, 8)
    assert torch.allclose(condition[:, 24:28], actions.flatten(1)[:, :, None, None].expand(-1, -1, 8, 8))
    assert condition[0, -2, 0, 0] == -1 and condition[0, -2, 7, 0] == 1 and condition[0, -1, 0, 7] == 1


def test_features_are_the_codes_before_rounding(tokenizer, episodes):
    """Rounded and drawn they give what the tokenizer gives; an untrained model therefore copies the newest frame."""
    encoder, clips = TokenizerEncoder(tokenizer, "cpu"), held_out(episodes)
    frames = torch.cat([clip.frames for clip in clips])
    features, model = encoder.features(frames), encoder.model
    assert features.shape == (9, 16, 2) and features.abs().max() <= 1.01
    assert torch.allclose(encoder.decode(features), model.decode(model.encode(frames)), atol=1e-6)
    quantiser = FSQ([8, 5])
    latent = 3 * torch.randn(500, 2)
    assert torch.equal(quantiser.nearest(quantiser.unrounded(latent)), quantiser(latent)[0].detach())
    ends = quantiser.nearest(torch.tensor([[-9.0, -9.0], [9.0, 9.0]]))
    assert ends.tolist() == [[-1.0, -1.0], [0.75, 1.0]]
    predictor = FeaturePredictor(CONTEXT, encoder.tokens, encoder.width, 2, 32, 1, 2, 64, 4)
    copied = predict_next(FeatureWorldModel(encoder, predictor), BINS, clips)
    newest = torch.stack([clip.frames[-2] for clip in clips])
    assert torch.allclose(copied[:, 0], model.decode(model.encode(newest)), atol=1e-5)


def test_dinov2_is_frozen_beside_a_decoder_that_is_trained(tmp_path, episodes):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dino")
    encoder = DinoEncoder(str(tmp_path / "dino"), (32, 32), "cpu")
    assert encoder.features(torch.rand(2, 3, 32, 32)).shape == (2, 4, 16)
    before = weights(encoder.model)
    predictor = FeaturePredictor(CONTEXT, encoder.tokens, encoder.width, 2, 16, 1, 2, 32, 4, encoder.doublings)
    baseline = FeatureWorldModel(encoder, predictor)
    frames, actions = torch.rand(2, CONTEXT + 1, 3, 32, 32), torch.zeros(2, CONTEXT, 2)
    features = baseline.encode(frames.flatten(0, 1)).unflatten(0, (2, CONTEXT + 1))
    baseline.loss(frames, features, actions, torch.Generator()).backward()
    assert all(value.grad is not None for value in predictor.decoder.parameters())
    assert baseline.next_frame(frames[:, :-1], actions, torch.Generator()).shape == (2, 3, 32, 32)
    assert torch.equal(weights(encoder.model), before) and baseline.name == "feature world model (DINOv2 encoder)"
    with pytest.raises(UserError, match=r"domains\.baselines\.feature\.dinov2: .*encoder=tokenizer"):
        DinoEncoder(str(tmp_path / "nowhere"), (32, 32), "cpu")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("feature.heads=3", r"domains\.baselines\.feature\.hidden: 128 is not a multiple of heads"),
        ("diffusion.norm_groups=5", r"domains\.baselines\.diffusion\.widths: must be multiples of norm_groups, 5"),
        ("diffusion.attention_levels=4", r"domains\.baselines\.diffusion\.attention_levels: 4 of 3 levels"),
        ("sampling_steps=101", r"domains\.baselines\.sampling_steps: 101, more than diffusion\.noise_steps, 100"),
        ("diffusion.patch=3", r"domains\.height: 64 is not a multiple of 12, which baselines\.diffusion\.widths"),
        ("feature.encoder=vit", r"domains\.baselines\.feature\.encoder"),
    ],
)
def test_impossible_settings_are_named(overrides, words):
    with pytest.raises(UserError, match=words):
        load_profile("laptop", overrides=f"domains.baselines.{overrides}")


def test_a_loss_out_of_range_names_the_rate(make, episodes, tmp_path):
    run = trainer(make(), episodes, tmp_path)
    run._step = lambda: torch.tensor(float("nan"))
    with pytest.raises(UserError, match=r"lower domains\.baselines\.(feature|diffusion)\.learning_rate"):
        run.run()


def test_budgets_are_told_side_by_side():
    base = {"updates": 160, "clips": 2560, "parameters": 2254272, "seconds": 79.4, "note": " (released)"}
    text = budget_text("pusht", [("base", base), ("video diffusion", {"updates": 240})])
    assert text == (
        "PushT: base 160 updates, 2 560 clips, 2 254 272 parameters, 79 s (released); video diffusion 240 updates."
    )
