"""Clips of episodes: worked evaluation segments, padding, and the bounds of random ones (A.1)."""

import numpy as np
import torch

from rlvr_lib.worlds.video_segments import Jitter, crop_box, evaluation_segment, to_float, training_segment


def test_worked_evaluation_segments():
    first = evaluation_segment(22, 8, 0, context=True)
    assert first.context == 5 and first.frames.tolist() == list(range(12, 20))
    assert first.indices.tolist() == [5, *range(12, 20)]
    short = evaluation_segment(5, 8, 4, context=True)
    assert short.context == 0 and short.frames.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert evaluation_segment(22, 5, 0).frames.tolist() == [12, 13, 14, 15, 16]


def test_evaluation_does_not_disturb_the_global_generator():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    evaluation_segment(40, 8, 7, context=True)
    assert np.array_equal(np.random.get_state()[1], before)


def test_training_segments_reach_every_start_and_stay_inside():
    rng = np.random.default_rng(0)
    drawn = [training_segment(12, 8, rng, context=True) for _ in range(600)]
    assert {int(item.frames[0]) for item in drawn} == {0, 1, 2, 3, 4}
    assert all(np.array_equal(np.diff(item.frames), np.ones(7)) for item in drawn)
    assert all(0 <= item.context <= item.frames[0] for item in drawn)
    long = [training_segment(60, 8, rng, context=True) for _ in range(3000)]
    gaps = {int(item.frames[0] - item.context) for item in long}
    assert gaps == set(range(16))
    assert training_segment(3, 5, rng).frames.tolist() == [0, 1, 2, 2, 2]


def test_pixels_become_channels_first_floats():
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    values = to_float(frames)
    assert values.shape == (2, 3, 3, 4) and values.dtype == torch.float32
    assert values[1, 2, 0, 3].item() == np.float32(frames[1, 0, 3, 2]) / np.float32(255)


def test_jitter_treats_the_frames_of_a_clip_alike():
    frames = torch.rand(4, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    jitter = Jitter.draw(np.random.default_rng(1))
    together = jitter(frames)
    assert together.min() >= 0 and together.max() <= 1
    for place in range(4):
        torch.testing.assert_close(jitter(frames[place]), together[place])
    assert not torch.allclose(together, frames)
    unchanged = Jitter((1.0, 1.0, 1.0), 0.0, (0, 1, 2, 3))
    torch.testing.assert_close(unchanged(frames), frames, atol=2e-6, rtol=0)


def test_crops_keep_their_promises():
    rng = np.random.default_rng(2)
    for _ in range(300):
        top, left, rows, columns = crop_box(256, 320, rng)
        assert 0 <= top <= 256 - rows and 0 <= left <= 320 - columns
        assert 0.79 <= rows * columns / (256 * 320) <= 1.0 and 0.98 <= columns / rows <= 1.42
