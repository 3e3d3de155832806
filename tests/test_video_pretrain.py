"""From episodes to a trained world model at toy size: tokens, sampling against the slow way, resuming, learning."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_video import BINS, toy_model

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile_schema_video import VideoModel
from rlvr_lib.tokens.video_layouts import IGNORED
from rlvr_lib.training.video_pretrain import (
    ContextSequences,
    FrameSequences,
    OnlineSequences,
    predict_samples,
    predict_with_codes,
    pretrain,
)
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.video_clips import ClipSource, cut, held_out_clips
from rlvr_lib.worlds.video_segments import REACH, Segment


def settings(**changes) -> VideoModel:
    values = {
        **{"start": "scratch", "hidden": 16, "layers": 1, "heads": 2, "intermediate": 32, "context": 2, "horizon": 1},
        **{"steps": 6, "live_steps": 0, "batch": 2, "learning_rate": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.0},
        **{"warmup": 0, "grad_clip": 1.0, "schedule": "constant", "evaluate_every": 3, "evaluate_segments": 2},
        **{"history_loss": False, "keep_best": False},
    }
    return VideoModel(**{**values, "save_every": 2, **changes})


def distance(truth, prediction):
    return (truth - prediction).square().mean((-3, -2, -1))


def test_a_clip_becomes_the_sequence_of_its_frames_and_actions(task, episodes):
    clips = list(held_out_clips(episodes, task.clip_frames, 2, task.has_context))
    ids = task.encode(clips)
    assert ids.shape == (2, task.layout.length)
    if task.has_context:
        context, codes, bins = task.layout.decode(ids)
        frames = torch.stack([clip.frames for clip in clips])
        assert torch.equal(context, task.tokenizer.encode(frames[:, 0], frames[:, 1:])[0])
        assert bins.tolist() == [BINS.to_bins(clip.actions[1:]).tolist() for clip in clips]
        assert torch.equal(task.truth(clips), frames[:, 2:]) and torch.equal(task.last_seen(clips), frames[:, 1])
    else:
        codes, bins = task.layout.decode(ids)
        for clip, rows in zip(clips, codes, strict=True):
            assert torch.equal(rows, task.tokenizer.encode(clip.frames))
        assert bins.tolist() == [BINS.to_bins(clip.actions[:2]).tolist() for clip in clips]
    prompt, response = ids[:, : task.layout.prompt], ids[:, task.layout.prompt :]
    decoded = task.decode(prompt, response)
    assert decoded.shape == task.truth(clips).shape
    if not task.has_context:
        torch.testing.assert_close(decoded[:, 0], task.tokenizer.decode(codes[:, -1]))


def test_frames_tokenised_once_give_the_items_of_the_on_line_way(task, episodes):
    if task.has_context:
        pytest.skip("a frame's codes depend on the context frame there")
    source = ClipSource(episodes, episodes.train, task.clip_frames, whole_only=True)
    slow, fast = OnlineSequences(task, source, 20, 5), FrameSequences(task, source, 20, 5)
    for item in range(20):
        assert torch.equal(slow[item]["input_ids"], fast[item]["input_ids"])
        assert torch.equal(slow[item]["labels"], fast[item]["labels"])
    assert len({tuple(fast[item]["input_ids"].tolist()) for item in range(20)}) > 10


def test_greedy_sampling_agrees_with_the_slow_way(task, episodes):
    """Without a cache, one whole pass per id."""
    clips = list(held_out_clips(episodes, task.clip_frames, 2, task.has_context))
    model, layout = toy_model(task), task.layout
    prompt, given = task.prompt(clips), task.given(clips)
    fast = sample_response(model, layout, prompt, given, temperature=0)
    ids, handed = prompt, 0
    for place in range(layout.response):
        if layout.sampled[place]:
            with torch.no_grad():
                new = model(input_ids=ids).logits[:, -1].argmax(-1)
        else:
            new, handed = given[:, handed], handed + 1
        ids = torch.cat([ids, new[:, None]], dim=1)
    assert torch.equal(fast, ids[:, layout.prompt :])
    with pytest.raises(ValueError, match="a prompt has"):
        sample_response(model, layout, prompt[:, 1:], given)


def test_drawing_follows_the_distribution_and_the_top_k(task, episodes):
    """The first id of 4 000 responses to one prompt, against the model's own probabilities."""
    clip = list(held_out_clips(episodes, task.clip_frames, 1, task.has_context))
    model, layout = toy_model(task), task.layout
    prompt, given = task.prompt(clip), task.given(clip)
    with torch.no_grad():
        logits = 3 * model(input_ids=prompt).logits[0, -1]
    model.lm_head.weight.data *= 3
    for temperature, top_k in ((1.0, 0), (1.0, 2), (0.5, 0)):
        expected = (logits / temperature).softmax(-1)
        if top_k:
            expected[expected.argsort(descending=True)[top_k:]] = 0
            expected /= expected.sum()
        numbers = torch.rand(1, 4000, layout.response, generator=torch.Generator().manual_seed(0))
        options = {"temperature": temperature, "top_k": top_k, "uniforms": numbers, "max_rows": 4000}
        drawn = sample_response(model, layout, prompt, given, group=4000, **options)
        assert drawn.shape == (4000, layout.response)
        share = torch.bincount(drawn[:, 0], minlength=len(expected)) / 4000
        assert (share[expected == 0] == 0).all()
        assert float((share - expected).abs().sum()) < 3 * (len(expected) / 4000) ** 0.5


def test_items_depend_on_seed_and_place_only(task, episodes):
    source = ClipSource(episodes, episodes.train, task.clip_frames, context=task.has_context, whole_only=True)
    online = OnlineSequences(task, source, 5, seed=1)
    assert torch.equal(online[3]["input_ids"], online[3]["input_ids"])
    assert not torch.equal(online[3]["input_ids"], online[2]["input_ids"])
    row = OnlineSequences(task, source, 5, seed=1, history=True)[0]
    learnt = task.layout.supervised | task.layout.history
    assert torch.equal(row["labels"] != IGNORED, learnt) and learnt.sum() > task.layout.supervised.sum()


def test_stored_contexts_give_sequences_that_the_episode_holds(task, episodes):
    """Every item is the on-line sequence of some clip of the set, with its context within the paper's reach."""
    if not task.has_context:
        pytest.skip("frames need no context there")
    source = ClipSource(episodes, episodes.train, task.clip_frames, context=True, whole_only=True)
    data, seen = ContextSequences(task, source, 300, seed=7), set()
    possible = {}
    for name in episodes.train:
        for start in range(len(source.episode(name)) - task.clip_frames + 1):
            for context in range(max(0, start - REACH), start + 1):
                clip = cut(source.episode(name), Segment(np.arange(start, start + task.clip_frames), context))
                possible[tuple(task.encode([clip])[0].tolist())] = (name, start, context)
    for item in range(300):
        seen.add(possible[tuple(data[item]["input_ids"].tolist())])
        assert torch.equal(data[item]["labels"], task.layout.labels(data[item]["input_ids"]))
    starts = {(name, start) for name, start, _ in possible.values()}
    assert {(name, start) for name, start, _ in seen} == starts and len(seen) > len(starts)


@pytest.mark.parametrize("frames", [4, 11, 12, 19, 20, 36, 90])
def test_every_start_has_a_stored_context_within_reach(frames):
    data = ContextSequences.__new__(ContextSequences)
    data.source = SimpleNamespace(length=4)
    for seed in range(50):
        contexts = data._contexts(frames, np.random.default_rng(seed))
        assert contexts == sorted(set(contexts)) and contexts[-1] <= frames - 4
        for start in range(frames - 4 + 1):
            assert any(start - REACH <= at <= start for at in contexts)


class RepeatedItems(torch.utils.data.Dataset):
    """The same few items again and again, so that something can be learnt in six updates."""

    def __init__(self, data, length):
        self.items, self.length = [data[place] for place in range(len(data))], length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.items[index % len(self.items)]


def test_training_learns_logs_and_resumes_to_the_bit(task, episodes, tmp_path):
    source = ClipSource(episodes, episodes.train, task.clip_frames, context=task.has_context, whole_only=True)
    clips = list(held_out_clips(episodes, task.clip_frames, 2, task.has_context))
    data = RepeatedItems(OnlineSequences(task, source, 4, seed=0), 40)

    def train(folder, steps):
        model = toy_model(task)
        options = {"steps": steps, "seed": 0, "distance": distance, "top_k": 0, "label": "toy"}
        facts = pretrain(model, task, data, clips, folder, settings(), **options)
        return model, facts

    whole, facts = train(tmp_path / "whole", 6)
    assert facts["steps"] == 6 and facts["validation_perceptual"] > 0
    log = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert log.count("eval_loss") == 2 and log.count("eval_perceptual") == 2
    losses = [line for line in log.splitlines() if '"loss"' in line]
    import json

    assert json.loads(losses[-1])["loss"] < json.loads(losses[0])["loss"]
    train(tmp_path / "broken", 6)
    import shutil

    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "checkpoint-6")
    shutil.rmtree(tmp_path / "broken" / "model")
    resumed, _ = train(tmp_path / "broken", 6)
    for left, right in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_predictions_are_frames_and_codes(task, episodes):
    clips = list(held_out_clips(episodes, task.clip_frames, 2, task.has_context))
    frames, codes = predict_with_codes(toy_model(task), task, clips, top_k=5, seed=1, batch=1)
    assert frames.shape == task.truth(clips).shape and codes.shape == (*frames.shape[:2], task.layout.tokens)
    again, _ = predict_with_codes(toy_model(task), task, clips, top_k=5, seed=1, batch=1)
    assert torch.equal(frames, again)


def test_samples_of_a_clip_share_its_prompt(task, episodes):
    """Greedily all are what one sample is, in whatever batches; with noise they are samples of their own."""
    clips = list(held_out_clips(episodes, task.clip_frames, 2, task.has_context))
    model = toy_model(task)
    frames, codes = predict_with_codes(model, task, clips, temperature=0.0)
    for batch in (1, 4, 100):
        many, ids = predict_samples(model, task, clips, 3, temperature=0.0, batch=batch)
        assert many.shape == (len(clips), 3, *frames.shape[1:]) and ids.shape == (len(clips), 3, *codes.shape[1:])
        assert torch.equal(ids, codes[:, None].expand_as(ids))
        assert torch.allclose(many, frames[:, None].expand_as(many), atol=1e-5)
    _, ids = predict_samples(model, task, clips, 3, seed=1)
    assert not torch.equal(ids[:, 0], ids[:, 1]) and not torch.equal(ids[:, 1], ids[:, 2])


def test_too_short_episodes_are_drawn_again_or_padded(episodes):
    whole = ClipSource(episodes, episodes.train, 10, whole_only=True)
    rng = np.random.default_rng(0)
    assert whole.draw(rng).frames.shape[0] == 10
    padded = ClipSource(episodes, ["0.npz"], 9).draw(rng)
    assert torch.equal(padded.frames[-1], padded.frames[-2]) and np.array_equal(padded.actions[-1], padded.actions[-2])
    with pytest.raises(UserError, match="no episode has 99 frames"):
        ClipSource(episodes, episodes.train, 99, whole_only=True).draw(rng)
    with pytest.raises(UserError, match="no episodes in this split"):
        ClipSource(episodes, [], 5)
