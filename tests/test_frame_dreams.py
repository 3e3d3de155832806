"""Dreams in a single-step model against the slow way: one fresh request per episode and frame."""

import numpy as np
import pytest
import torch
from toy_video import BINS, TOY, answer, observer

from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.video_task import SingleStepTask
from rlvr_lib.tokens.world_model import Size, world_model
from rlvr_lib.training.dreams import STATE
from rlvr_lib.training.frame_dreams import FrameDreamer, dreamer_of
from rlvr_lib.worlds.policy_scenes import usable

FRAMES, EPISODES = 5, 3


@pytest.fixture(scope="module", params=[1, 3])
def toy(request):
    torch.manual_seed(3)
    task = SingleStepTask(FrameTokenizer(**TOY), BINS, context=request.param)
    model = world_model(task.layout, Size(16, 1, 2, 32), seed=1).eval()
    model.lm_head.weight.data *= 40  # far from even, so that the history matters
    return task, model, torch.rand(EPISODES, 3, 16, 16)


def settings(**changes):
    plain = {"rounds": FRAMES, "top_k": 1, "repetition_penalty": 1.0, "batch": 8}
    return load_profile("smoke").domains.real2sim.model_copy(update={**plain, **changes})


def picture(task, codes):
    return np.floor(task.tokenizer.decode(codes[None])[0].movedim(0, -1).double().numpy() * np.float32(255))


@torch.no_grad()
def slow(toy, row: int):
    """Codes of the predicted frames, strange ids and the brightness of what the policy saw."""
    task, model, starts = toy
    layout = task.layout
    frames = [task.tokenizer.encode(starts[row][None])[0]] * layout.context
    actions = [np.zeros(2, dtype=np.float32)] * (layout.context - 1)
    found, invalid, seen = [], 0, []
    for step in range(FRAMES):
        frame = picture(task, frames[-1]).astype(np.uint8)
        seen.append(frame.mean() / 255)
        actions.append(usable(answer(row, frame, step), 2)[0])
        text = []
        for codes, action in zip(frames[-layout.context :], actions[-layout.context :], strict=True):
            text += codes.tolist() + (task.bins.to_bins(action) + layout.action_offset).tolist()
        text.append(layout.bos)
        ids = []
        for _ in range(layout.tokens):
            ids.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
            text.append(ids[-1])
        invalid += sum(number >= layout.codes for number in ids)
        frames.append(torch.tensor(ids).clamp(0, layout.codes - 1))
        found.append(frames[-1])
    return torch.stack(found), invalid, [*seen, picture(task, frames[-1]).astype(np.uint8).mean() / 255]


@pytest.mark.parametrize("batch", [8, 2])
def test_side_by_side_equals_one_request_per_frame(toy, tmp_path, batch):
    task, model, starts = toy
    dreamer = dreamer_of(model, task, observer, settings(batch=batch), tmp_path)
    dreams = dreamer.run(starts, 0)
    assert type(dreamer) is FrameDreamer and dreams.frames == FRAMES
    for row in range(EPISODES):
        codes, invalid, seen = slow(toy, row)
        assert torch.equal(dreams.codes[row], codes)
        assert dreams.invalid[row] == invalid
        assert dreams.probability[row] == pytest.approx(seen, abs=1 / 255)
        film = dreamer.film(dreams, row)
        assert film.shape == (FRAMES, 16, 16, 3) and np.abs(film[-1] - picture(task, codes[-1])).max() <= 1
    assert dreams.bad_actions.tolist() == [0, 1, 0]
    assert not (tmp_path / STATE).exists()


def test_a_broken_run_goes_on_with_its_next_frame(toy, tmp_path, monkeypatch):
    task, model, starts = toy
    options = settings(top_k=0)
    whole = FrameDreamer(model, task, observer, options, tmp_path / "whole").run(starts, 5)
    numbers, real = [], FrameDreamer._round

    def failing(self, dreams, features, number, seed):
        numbers.append(number)
        if numbers == [0, 1, 2]:
            raise KeyboardInterrupt
        real(self, dreams, features, number, seed)

    monkeypatch.setattr(FrameDreamer, "_round", failing)
    with pytest.raises(KeyboardInterrupt):
        FrameDreamer(model, task, observer, options, tmp_path / "broken").run(starts, 5)
    again = FrameDreamer(model, task, observer, options, tmp_path / "broken").run(starts, 5)
    assert numbers == [0, 1, 2, 2, 3, 4]
    assert torch.equal(again.codes, whole.codes) and np.array_equal(again.probability, whole.probability)
