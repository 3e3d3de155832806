"""Dreams against the slow way: one episode at a time, one fresh request per frame, as the paper does it (spec G)."""

import numpy as np
import pytest
import torch
from toy_video import BINS, TOY, answer, observer
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.video_task import MultiStepTask
from rlvr_lib.tokens.world_model import Size, world_model
from rlvr_lib.training.dreams import STATE, Dreamer
from rlvr_lib.worlds.policy_scenes import usable

HORIZON, ROUNDS, EPISODES = 3, 2, 3


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(3)
    task = MultiStepTask(CompressiveTokenizer(**TOY, patch=2, heads=2), BINS, horizon=HORIZON)
    model = world_model(task.layout, Size(16, 1, 2, 32), seed=1).eval()
    model.lm_head.weight.data *= 40  # far from even, so that the penalty and the history matter
    starts = torch.rand(EPISODES, 3, 16, 16)
    return task, model, starts


def settings(**changes):
    plain = {"rounds": ROUNDS, "top_k": 1, "repetition_penalty": 1.5, "batch": 8}
    return load_profile("smoke").video.real2sim.model_copy(update={**plain, **changes})


def picture(task, context, codes):
    """The tokenizer's own decoding of one frame, cut to whole numbers and not rounded."""
    _, frame = task.tokenizer.decode(context[None], codes[None, None])
    return np.floor(frame[0, 0].movedim(0, -1).double().numpy() * np.float32(255)).astype(np.uint8)


@torch.no_grad()
def slow(toy, row: int, penalty: float):
    task, model, starts = toy
    layout, processor = task.layout, RepetitionPenaltyLogitsProcessor(penalty)
    context, (newest,) = task.codes(starts[row], starts[row][None])
    before = (context + layout.context_offset).tolist()
    text, codes, invalid, seen = [*before, *newest.tolist()], [], 0, []
    for step in range(HORIZON * ROUNDS):
        if step and step % HORIZON == 0:
            text = [*before, *codes[-1].tolist()]
        frame = picture(task, context, newest)
        seen.append(frame.mean() / 255)
        action, _ = usable(answer(row, frame, step), 2)
        text += (task.bins.to_bins(action) + layout.action_offset).tolist()
        ids = []
        for _ in range(layout.tokens):
            logits = processor(torch.tensor([text]), model(torch.tensor([text])).logits[:, -1])
            ids.append(int(logits.argmax()))
            text.append(ids[-1])
        invalid += sum(not 0 <= number < layout.codes for number in ids)
        newest = torch.tensor(ids).clamp(0, layout.codes - 1)
        codes.append(newest)
    return torch.stack(codes), invalid, [*seen, picture(task, context, newest).mean() / 255]


@pytest.mark.parametrize("batch", [8, 2])
def test_side_by_side_equals_one_request_per_frame(toy, tmp_path, batch):
    task, model, starts = toy
    dreams = Dreamer(model, task, observer, settings(batch=batch), tmp_path).run(starts, 0)
    for row in range(EPISODES):
        codes, invalid, seen = slow(toy, row, 1.5)
        assert torch.equal(dreams.codes[row], codes)
        assert dreams.invalid[row] == invalid
        assert dreams.probability[row] == pytest.approx(seen, abs=1 / 255)
    assert dreams.invalid.sum() > 0, "an untrained model leaves the vocabulary of frames now and then"
    assert dreams.bad_actions.tolist() == [0, 1, 0]
    assert not (tmp_path / STATE).exists()


def test_a_film_shows_what_the_policy_saw(toy, tmp_path):
    task, model, starts = toy
    seen = {}

    def watching(rows, frames, step):
        seen.update({(int(row), step): frame for row, frame in zip(rows, frames, strict=True)})
        return observer(rows, frames, step)

    dreamer = Dreamer(model, task, watching, settings(), tmp_path)
    frames = dreamer.film(dreamer.run(starts, 0), 2)
    assert len(frames) == HORIZON * ROUNDS
    for step, frame in enumerate(frames, 1):
        assert np.abs(frame.astype(int) - seen[2, step]).max() <= 1


def test_a_broken_run_goes_on_with_its_next_round(toy, tmp_path, monkeypatch):
    """Random sampling: the same ids, probabilities and counts as a run that was not broken; round 1 is not repeated."""
    task, model, starts = toy
    options = settings(top_k=0, repetition_penalty=1.0)
    whole = Dreamer(model, task, observer, options, tmp_path / "whole").run(starts, 5)
    broken, rounds = Dreamer(model, task, observer, options, tmp_path / "broken"), []
    real = Dreamer._round

    def failing(self, dreams, features, number, seed):
        rounds.append(number)
        if rounds == [0, 1]:
            raise KeyboardInterrupt
        real(self, dreams, features, number, seed)

    monkeypatch.setattr(Dreamer, "_round", failing)
    with pytest.raises(KeyboardInterrupt):
        broken.run(starts, 5)
    again = Dreamer(model, task, observer, options, tmp_path / "broken").run(starts, 5)
    assert rounds == [0, 1, 1]
    assert torch.equal(again.codes, whole.codes) and np.array_equal(again.probability, whole.probability)
    assert np.array_equal(again.invalid, whole.invalid) and again.bad_actions.tolist() == [0, 1, 0]
    other = Dreamer(model, task, observer, options, tmp_path / "other").run(starts, 6)
    assert not torch.equal(other.codes, whole.codes)
