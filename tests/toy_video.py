"""A toy robot-video world for tests: noise episodes, untrained tokenizers of 16 x 16 frames, a tiny world model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask
from rlvr_lib.tokens.world_model import Size, world_model
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet, save_episode

TOY = {"height": 16, "width": 16, "widths": [8, 8, 8], "encoder_blocks": 1, "decoder_blocks": 1, "latent": 8}
TOY |= {"levels": [3, 3], "groups": 4}
BINS = ActionBins([-1, -1], [1, 1], bins=8)


class Squares(torch.nn.Module):
    """A distance with features, simple enough to check by hand: mean squared difference."""

    def features(self, frames):
        return [frames]

    def compare(self, pairs):
        return (pairs[0][0] - pairs[0][1]).square().mean((-3, -2, -1))

    def forward(self, truth, prediction):
        return (truth - prediction).square().mean((-3, -2, -1))


def make_episodes(folder: Path) -> None:
    """Eight episodes of noise, the same every time."""
    folder.mkdir(exist_ok=True)
    for number in range(8):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 256, (6 + 2 * (number % 3), 16, 16, 3), dtype=np.uint8)
        save_episode(folder / f"{number}.npz", Episode(frames, rng.uniform(-1, 1, (len(frames), 2)).astype(np.float32)))


@pytest.fixture(scope="module")
def episodes(tmp_path_factory) -> EpisodeSet:
    folder = tmp_path_factory.mktemp("episodes")
    make_episodes(folder)
    return EpisodeSet(folder, test_every=4)


@pytest.fixture(scope="module", params=["single", "multi"])
def task(request):
    torch.manual_seed(3)
    if request.param == "single":
        return SingleStepTask(FrameTokenizer(**TOY), BINS, context=2)
    return MultiStepTask(CompressiveTokenizer(**TOY, patch=2, heads=2), BINS, horizon=3)


def toy_model(task):
    return world_model(task.layout, Size(16, 1, 2, 32), seed=1).eval()


def answer(row: int, frame: np.ndarray, step: int) -> np.ndarray:
    """An action that depends on the picture; episode 1 has none at step 2."""
    if (row, step) == (1, 2):
        return np.array([np.nan, 0.3], dtype=np.float32)
    return np.array([frame.mean() / 127.5 - 1, np.sin(row + step)], dtype=np.float32)


def observer(rows, frames, step):
    assert frames.dtype == np.uint8 and frames.shape[1:] == (16, 16, 3)
    actions = np.stack([answer(int(row), frame, step) for row, frame in zip(rows, frames, strict=True)])
    return actions, frames.mean((1, 2, 3)) / 255
