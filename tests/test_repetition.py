"""The repetition study: pairs by hand, shared noise really shared, frames that freeze only under it."""

import numpy as np
import pytest
import torch
from toy_video import toy_model

from rlvr_lib.evaluation.repetition import (
    repetition_curve,
    repetition_study,
    shared_race,
    standing_still,
)
from rlvr_lib.profile import load_profile
from rlvr_lib.worlds.video_clips import held_out_clips


def test_pairs_by_hand():
    current = torch.tensor([[1, 2], [3, 3]])
    codes = torch.tensor([[[1, 2], [1, 2], [1, 4]], [[3, 0], [3, 0], [3, 0]]])
    assert standing_still(codes, current).tolist() == [[True, True, False], [False, True, True]]


@pytest.fixture
def multi(task):
    if not task.has_context:
        pytest.skip("rollouts have several frames")
    return task


def test_every_frame_meets_the_same_numbers(multi):
    layout = multi.layout
    race = shared_race(layout, 3)
    frames = race[layout.frame_at[1:] - layout.prompt]
    assert race.shape == (layout.response, layout.vocabulary) and (frames == frames[:1]).all()
    assert len(frames[0].unique()) == frames[0].numel()
    assert not torch.equal(shared_race(layout, 4), race)


def test_shared_noise_freezes_a_model_whose_frames_have_equal_distributions(multi, episodes):
    """A model that knows nothing but the position within a frame: fresh noise moves it, shared noise does not."""

    model = toy_model(multi)
    for value in model.parameters():
        torch.nn.init.zeros_(value)  # the same even distribution at every position
    clips = list(held_out_clips(episodes, multi.clip_frames, 2, True))
    study = repetition_study({"blind": model}, multi, clips, load_profile("smoke"))
    rate = study[study["frame"] > 1].groupby(["model", "noise"])["repeats"].mean()
    assert rate["blind", "shared"] == 1 and rate["blind", "independent"] < 0.5
    assert set(study[study["model"] == "truth"]["noise"]) == {"none"}
    assert len(study) == 3 * 2 * multi.layout.horizon
    curve = repetition_curve(study, seed=0)
    assert (curve["n"] == 2).all() and curve["frame"].max() == multi.layout.horizon
    part = study[(study["model"] == "blind") & (study["noise"] == "independent") & (study["frame"] == 2)]
    row = curve[(curve["model"] == "blind") & (curve["noise"] == "independent") & (curve["frame"] == 2)]
    assert row["rate"].item() == pytest.approx(np.mean(part["repeats"]))
