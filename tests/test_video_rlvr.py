"""GRPO of video world models at toy size: rewards, masks and gradients against slow computations; resuming; faults."""

import json

import numpy as np
import pytest
import torch
import torchvision
from toy_video import Squares, toy_model
from transformers import LlamaForCausalLM

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile_schema_video import RewardWeights, VideoRLVR
from rlvr_lib.training.grpo import MetricsCallback
from rlvr_lib.training.video_rlvr import FrameValidation, Group, build_trainer, id_tokenizer
from rlvr_lib.training.video_rollouts import FrameReward, RolloutClips
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.perceptual import FALLBACK, MultiScaleDissimilarity, Perceptual, _Lpips
from rlvr_lib.worlds.video_clips import ClipSource, held_out_clips

G = 4
WEIGHTS = {"mae": 1.0, "lpips": 0.5, "mse": 2.0, "psnr": 0.01, "ssim": 0.25}


def settings(**changes) -> VideoRLVR:
    values = {
        **{"steps": 4, "prompts_per_step": 4, "prompts_per_update": 2, "group_size": G, "learning_rate": 1e-2},
        **{"betas": (0.9, 0.999), "weight_decay": 0.01, "grad_clip": 1e6, "kl_coefficient": 0.001, "clip": 0.2},
        **{"dual_clip": 3.0, "entropy_coefficient": 0.0, "temperature": 1.0, "top_p": 1.0, "reward": WEIGHTS},
        **{
            "evaluate_every": 2,
            "evaluate_segments": 2,
            "save_every": 2,
            "bf16": False,
            "shared_prompt": True,
            "skip_equal": False,
            "trainable": "all",
            "head_scale_rate": 0.0,
        },
        "sequences_per_micro_batch": 8,
    }
    return VideoRLVR(**{**values, **changes})


@pytest.fixture
def clips(task, episodes):
    source = ClipSource(episodes, episodes.train, task.clip_frames, context=task.has_context)
    return RolloutClips(task, source, seed=5, keep=3)


@pytest.fixture
def reward(task, clips, tmp_path):
    return FrameReward(task, clips, Perceptual("squares", Squares()), RewardWeights(**WEIGHTS), tmp_path)


def responses(task, clips, items, seed=0):
    """Any ids at all, actions put in."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, task.layout.vocabulary, (len(items), task.layout.response))
    if len(task.layout.given):
        ids[:, task.layout.given] = [prompt.given.tolist() for prompt in clips.prompts(items)]
    return ids.tolist()


@pytest.mark.parametrize("scale", ["lpips", FALLBACK])
def test_a_group_is_compared_as_its_pairs_are(scale):
    torch.manual_seed(0)
    trunk = torchvision.models.squeezenet1_1(weights=None).features.state_dict()
    distance = Perceptual(scale, _Lpips("squeeze", trunk) if scale == "lpips" else MultiScaleDissimilarity())
    truth, frames = torch.rand(2, 3, 3, 32, 40), torch.rand(2, 4, 3, 3, 32, 40)
    frames[0, 1] = truth[0]
    found = distance.to_group(truth, frames)
    assert found.shape == (2, 4, 3) and found[0, 1].abs().max() < 1e-6 < found[0, 0].min()
    for place in np.ndindex(2, 4, 3):
        pair = distance(truth[place[0], place[2]][None], frames[place][None])
        torch.testing.assert_close(found[place], pair[0], rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # neither scale may notice
        assert torch.equal(distance.to_group(truth, frames), found)
    with pytest.raises(ValueError, match="no group"):
        distance.to_group(truth, frames[:, :, :2])


def test_groups_are_decoded_as_rows_are(task, clips):
    items = [3, 8]
    prompt = torch.stack([one.ids for one in clips.prompts(items)])
    ids = torch.tensor(responses(task, clips, [3, 3, 3, 8, 8, 8])).unflatten(0, (2, 3))
    frames = task.decode_groups(prompt, ids)
    for place in np.ndindex(2, 3):
        alone = task.decode(prompt[place[0]][None], ids[place][None])[0]
        torch.testing.assert_close(frames[place], alone, rtol=1e-4, atol=1e-5)


def test_rewards_by_hand(task, clips, reward):
    """The formula of E.3 in numpy, from the frames of each response alone; ids that are no codes count as the last."""
    items = [7, 7, 7, 2, 2, 2]
    ids = responses(task, clips, items)
    logged = {}
    found = reward(completion_ids=ids, item=items, log_metric=lambda name, value: logged.update({name: value}))
    maes = []
    for row, item in enumerate(items):
        prompt = clips.prompts([item])[0]
        clip = clips.source.draw(np.random.default_rng((5, item)))
        truth = (clip.frames[2:] if task.has_context else clip.frames[-1:]).double().numpy()
        assert np.array_equal(prompt.truth.numpy(), truth.astype(np.float32))
        clamped = torch.tensor(ids[row])
        clamped[task.layout.sampled] = clamped[task.layout.sampled].clamp(max=task.layout.codes - 1)
        frames = task.decode(prompt.ids[None], clamped[None])[0].double().numpy()
        mse = ((truth - frames) ** 2).mean((1, 2, 3))
        mae = np.abs(truth - frames).mean((1, 2, 3))
        psnr = 10 * np.log10(1 / (mse + 1e-8))
        ssim = reward.compare(prompt.truth[None], torch.tensor(frames[None, None]).float())["ssim"].item()
        expected = -(mae.mean() + 0.5 * mse.mean() + 2 * mse.mean() - 0.01 * psnr.mean() - 0.25 * ssim)
        assert found[row] == pytest.approx(expected, rel=1e-4)
        maes.append(mae.mean())
    assert logged["mae"] == pytest.approx(np.mean(maes), rel=1e-5) and set(logged) == set(WEIGHTS)
    assert len(set(found)) > 3


def test_prompts_are_kept_only_so_long_and_always_the_same(task, clips):
    first = clips.prompts([0, 1, 0])
    assert first[0] is first[2]
    rows = clips.dataset(6)
    assert rows[4]["prompt"] == clips.prompts([4])[0].ids.tolist() and rows[4]["item"] == 4
    clips.prompts([5, 2])
    assert len(rows) == 6 and len(clips._kept) <= 3
    assert torch.equal(clips.prompts([0])[0].ids, first[0].ids) and clips.prompts([0])[0] is not first[0]


def test_a_failing_reward_saves_its_sample(clips, reward, monkeypatch, tmp_path, task):
    def spoilt(truth, frames):
        raise RuntimeError("no such colour")

    monkeypatch.setattr(reward, "compare", spoilt)
    ids = responses(task, clips, [6, 6])
    with pytest.raises(UserError, match=r"item 6 failed \(RuntimeError: no such colour\)"):
        reward(completion_ids=ids, item=[6, 6])
    saved = json.loads((tmp_path / "failed_reward.json").read_text())
    assert saved["item"] == 6 and saved["seed"] == 5 and saved["responses"] == ids


def trainer_in(folder, task, clips, reward, **changes):
    toy_model(task).save_pretrained(folder / "base")
    trainer = build_trainer(folder / "base", clips, reward, settings(**changes), folder, seed=0)
    trainer.add_callback(MetricsCallback(folder / "metrics.jsonl"))
    return trainer


def read(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_update_by_hand(task, clips, reward, tmp_path):
    """The gradient of E.4 from whole rows, given ids masked out: ratio 1 and KL 0 at the start, so A times d log p."""
    trainer = trainer_in(tmp_path, task, clips, reward, steps=1, prompts_per_update=4, sequences_per_micro_batch=16)
    kept = {}
    inner = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: kept.setdefault("batch", inner(inputs))
    trainer.train()
    batch, layout = kept["batch"], task.layout
    items = [item for item in range(4) for _ in range(G)]
    ids = batch["completion_ids"]
    assert ids.shape == (16, layout.response) and batch["prompt_ids"].shape == (16, layout.prompt)
    truth = reward(completion_ids=ids.tolist(), item=items)
    grouped = torch.tensor(truth).view(4, G)
    advantage = ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()
    torch.testing.assert_close(batch["advantages"], advantage, rtol=1e-3, atol=1e-3)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    whole = torch.cat([batch["prompt_ids"], ids], 1)
    logps = model(input_ids=whole).logits[:, layout.prompt - 1 : -1].log_softmax(-1).gather(2, ids[..., None])[..., 0]
    mask = layout.sampled.float().expand(16, -1)
    loss = -(advantage[:, None] * logps * mask).sum() / mask.sum()
    loss.backward()
    norm = torch.stack([value.grad.norm() for value in model.parameters()]).norm()
    assert read(tmp_path)[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-3)
    if len(layout.given):
        assert mask.sum() < mask.numel() and batch["tool_mask"].sum() == mask.sum()
        expected = torch.stack([clips.prompts([item])[0].given for item in items])
        assert torch.equal(ids[:, layout.given], expected)
    assert trainer.fallback_reason is None and trainer.largest_ratio == 1


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_a_resumed_run_is_an_unbroken_one(task, clips, reward, tmp_path, rate):
    """Also with the scale before the head, whose moments are part of the optimiser's state."""
    rows = {}
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        trainer = trainer_in(tmp_path / name, task, clips, reward, head_scale_rate=rate)
        if name == "broken":
            trainer.args.max_steps = 4  # of 8 updates: two rollout batches
            trainer.train()
            trainer = trainer_in(tmp_path / name, task, clips, reward, head_scale_rate=rate)
        trainer.train(resume_from_checkpoint=name == "broken")
        rows[name] = read(tmp_path / name)
    assert [row["step"] for row in rows["broken"]] == [row["step"] for row in rows["whole"]] == [1, 2, 3, 4]
    for one, other in zip(rows["whole"], rows["broken"], strict=True):
        for key in ("reward", "mae", "lpips", "kl", "loss", "grad_norm"):
            assert one[key] == pytest.approx(other[key], rel=1e-5, abs=1e-7), key
    assert rows["whole"][3]["kl"] > 0


def test_rlvr_learns_what_the_reward_wants(task, clips, tmp_path):
    """A reward for dark frames: later rollouts are darker."""
    wanted = FrameReward(task, clips, Perceptual("squares", Squares()), RewardWeights(**WEIGHTS), tmp_path)
    wanted.compare = lambda truth, frames: {"mae": frames.mean((-4, -3, -2, -1)).flatten()}
    wanted.weights = {"mae": 1.0}
    trainer = trainer_in(tmp_path, task, clips, wanted, steps=25, group_size=8, learning_rate=3e-2, kl_coefficient=0.0,
                         grad_clip=1.0, sequences_per_micro_batch=16, save_every=25)  # fmt: skip
    trainer.train()
    curve = [row["reward"] for row in read(tmp_path)]
    spread = np.std(curve[:3]) + 1e-6
    assert np.mean(curve[-3:]) > np.mean(curve[:3]) + 2 * spread


def test_only_the_norms_change_where_that_is_asked(task, clips, reward, tmp_path):
    trainer = trainer_in(tmp_path, task, clips, reward, steps=2, trainable="norms")
    trainer.train()
    before = dict(LlamaForCausalLM.from_pretrained(tmp_path / "base").named_parameters())
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    layers = range(trainer.model.config.num_hidden_layers)
    inner = {
        f"model.layers.{n}.{which}.weight" for n in layers for which in ("input_layernorm", "post_attention_layernorm")
    }
    assert changed == inner | {"model.norm.weight"}


def test_the_scale_before_the_head_is_learnt_beside_the_weights(task, clips, reward, tmp_path):
    """At a rate of 0 for all else, the gains before the head change by one factor and nothing else does."""
    changes = {"steps": 2, "head_scale_rate": 0.1, "learning_rate": 1e-30, "weight_decay": 0.0}
    trainer = trainer_in(tmp_path, task, clips, reward, **changes)
    trainer.train()
    optimiser = trainer.optimizer
    held = [weight for group in optimiser.param_groups for weight in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, trainer.model.parameters()))  # each once
    before = dict(LlamaForCausalLM.from_pretrained(tmp_path / "base").named_parameters())
    factors = {name: value / before[name] for name, value in trainer.model.named_parameters()}
    head = factors.pop("model.norm.weight")
    assert abs(head.mean().item() - 1) > 0.01
    torch.testing.assert_close(head, head.mean().expand_as(head))
    logged = [row["head_scale"] for row in read(tmp_path)]
    assert logged[0] == 1 and abs(logged[1] - 1) > 0.01  # as it was when the batch was sampled
    assert all(torch.equal(value.nan_to_num(1.0), torch.ones_like(value)) for value in factors.values())


def test_validation_scores_the_first_test_segments(task, clips, reward, episodes, tmp_path):
    held = list(held_out_clips(episodes, task.clip_frames, 2, task.has_context))
    trainer = trainer_in(tmp_path, task, clips, reward, steps=1)
    trainer.add_callback(FrameValidation(held, reward, settings(steps=1), trainer, seed=0))
    check = trainer.callback_handler.callbacks[-1]
    found = check._measure(0)
    prompt, given = task.prompt(held), task.given(held)
    ids = sample_response(
        toy_model(task), task.layout, prompt, given, top_k=100, generator=torch.Generator().manual_seed(0)
    )
    error = (task.truth(held) - task.decode(prompt, ids)).abs().mean()
    assert found["validation_mae"] == pytest.approx(float(error), rel=1e-4)


def test_a_group_has_advantages_around_its_mean():
    group = Group(torch.zeros(1), torch.zeros(3, 1), torch.tensor([-0.1, -0.2, -0.6]))
    expected = (np.array([-0.1, -0.2, -0.6]) + 0.3) / (np.std([-0.1, -0.2, -0.6], ddof=1) + 1e-4)
    assert group.advantages.tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert Group(torch.zeros(1), torch.zeros(3, 1), torch.full((3,), -0.7)).advantages.tolist() == [0, 0, 0]


def test_ids_are_words(task):
    words, layout = id_tokenizer(task.layout), task.layout
    assert words("0 7 12")["input_ids"] == [0, 7, 12] and words.decode([3, 11]) == "3 11"
    assert len(words) == layout.vocabulary and {words.pad_token_id, words.eos_token_id} == {
        layout.vocabulary - 2,
        layout.vocabulary - 1,
    }
