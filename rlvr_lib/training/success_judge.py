"""The judge of success: a classifier of single frames, trained on real frames of training episodes (spec G: open).

Inside a world model there is no simulator state, so success has to be read from predicted frames. The judge says how
probably the task is done in a frame; an episode's probability is the largest mean of a few frames in a row. Between the
two ends of a band it is undecided. How often it errs is measured on held-out real episodes and carried into every
interval (evaluation/real2sim_metrics.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from rlvr_lib.artifacts import UserError, atomic_write_json, atomic_write_text, read_json
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say, track
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask, VideoTask
from rlvr_lib.training.picture_policies import PictureNet, fit, write_net
from rlvr_lib.training.released import policy_world
from rlvr_lib.training.success_labels import LabelledFrames, Marks
from rlvr_lib.training.video import make_task, open_episodes
from rlvr_lib.worlds.video_episodes import EpisodeSet
from rlvr_lib.worlds.video_segments import to_float

SUCCESS, FAILURE, UNDECIDED = "success", "failure", "undecided"
CAMERA, TOKENIZER = "camera", "through the tokenizer"
SCORES = {SUCCESS: 1.0, FAILURE: 0.0, UNDECIDED: 0.5}  # what an episode counts in a rate
AT_ONCE = 256


class SuccessJudge:
    """A network and the rule that turns its probabilities into a verdict on an episode."""

    def __init__(self, net: PictureNet, tasks: Sequence[str], window: int, band: Sequence[float]):
        self.net, self.tasks, self.window, self.band = net.eval(), list(tasks), window, tuple(band)

    @torch.no_grad()
    def probability(self, frames: NDArray[np.uint8], tasks: Sequence[str]) -> NDArray[np.float64]:
        """Frames uint8 [n, H, W, 3] with a task each -> the probability that the task is done in it, [n]."""
        numbers = torch.tensor([self.tasks.index(task) for task in tasks])
        parts = [slice(first, first + AT_ONCE) for first in range(0, len(frames), AT_ONCE)]
        logits = torch.cat([self.net(to_float(frames[part]), numbers[part])[:, 0] for part in parts])
        return logits.sigmoid().double().numpy()

    def of_episode(self, frames: NDArray[np.uint8], task: str) -> float:
        """Probability of success of an episode's frames [T, H, W, 3]."""
        return episode_probability(self.probability(frames, [task] * len(frames)), self.window)

    def verdict(self, probability: float) -> str:
        return verdict(probability, self.band)


def episode_probability(frames: NDArray[np.float64], window: int) -> float:
    """The largest mean of ``window`` probabilities in a row (of all, if there are fewer); NaN if any is NaN."""
    window = min(window, len(frames))
    return float(np.lib.stride_tricks.sliding_window_view(frames, window).mean(-1).max())


def verdict(probability: float, band: Sequence[float]) -> str:
    """Success above the band, failure below it, undecided within (ends included); NaN is undecided."""
    if probability > band[1]:
        return SUCCESS
    return FAILURE if probability < band[0] else UNDECIDED


def make_judge(folder: Path, profile: Profile, data: Path, tokenizer: Path) -> dict[str, Any]:
    """``folder``/judge.safetensors, and ``validation.csv``: what it says of held-out real episodes, one row each.

    Some of these are judged a second time after a pass through the tokenizer, which is how predicted frames look.
    """
    settings, episodes = profile.video.real2sim, open_episodes(profile, data)
    marks = Marks(episodes, settings.judge.labels)
    judge = SuccessJudge(_new_net(profile), settings.tasks, settings.judge.window, settings.judge.undecided)
    path = folder / "judge.safetensors"
    if path.exists():
        judge.net.load_state_dict(load_file(path))
    else:
        train = LabelledFrames.of(episodes, episodes.train, settings.tasks, marks)
        train_judge(judge.net, train, settings.judge, profile.seed)
        write_net(judge.net, path)
    atomic_write_json(folder / "judge.json", {"tasks": settings.tasks, "window": judge.window, "band": judge.band})
    task = make_task(profile, data, tokenizer, policy_world(profile))
    judge.net.eval()
    table = validation(judge, episodes, marks, task, settings.judge.through_tokenizer)
    atomic_write_text(folder / "validation.csv", table.to_csv(index=False))
    return {"held_out_episodes": int((table["look"] == CAMERA).sum())}


def _new_net(profile: Profile) -> PictureNet:
    torch.manual_seed(profile.seed)
    return PictureNet(profile.video.data.height, profile.video.data.width, len(profile.video.real2sim.tasks), 1)


def load_judge(folder: Path, profile: Profile) -> SuccessJudge:
    """The judge that :func:`make_judge` left in ``folder``."""
    about, net = read_json(folder / "judge.json"), _new_net(profile)
    net.load_state_dict(load_file(folder / "judge.safetensors"))
    return SuccessJudge(net, about["tasks"], about["window"], about["band"])


def train_judge(net: PictureNet, data: LabelledFrames, settings: Any, seed: int) -> None:
    """Logistic regression on top of the network. Done frames are rare and weigh no more for that: with a weight the
    judge took nearly done for done (docs/tried.md).

    Frames are blurred and made noisy at random, as those of a tokenizer are.
    """
    rng = np.random.default_rng(seed)

    def loss(picked: NDArray[np.int64]) -> Tensor:
        frames = worsened(to_float(data.frames[picked]), rng)
        logits = net(frames, data.tasks[picked])[:, 0]
        return functional.binary_cross_entropy_with_logits(logits, data.labels[picked])

    fit(net, loss, len(data.frames), settings, seed, "judge of success")


def worsened(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the batches blurred (3 x 3 mean), all with a little noise; [B, 3, H, W] in [0, 1]."""
    if rng.random() < 0.5:
        frames = functional.avg_pool2d(functional.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = torch.from_numpy(rng.normal(0, 0.02, frames.shape).astype(np.float32))
    return (frames + noise).clamp(0, 1)


def validation(
    judge: SuccessJudge, episodes: EpisodeSet, marks: Marks, task: VideoTask, through_tokenizer: int
) -> pd.DataFrame:
    """One row per held-out episode, task and look: recorded success, the judge's probability and verdict."""
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(track(episodes.test, label="judging held-out episodes", unit="episodes")):
        episode = episodes[name]
        looks = {CAMERA: episode.frames}
        if number < through_tokenizer:
            looks[TOKENIZER] = through(task, episode.frames)
        for command, labels in marks(name, episode).items():
            truth = bool(episode.facts.get("success", np.nanmax(labels, initial=0) > 0))
            for look, frames in looks.items() if command in judge.tasks else ():
                probability = judge.of_episode(frames, command)
                row = {"episode": name, "task": command, "look": look, "success": truth, "probability": probability}
                rows.append({**row, "verdict": judge.verdict(probability)})
    if not rows:
        raise UserError("the judge of success has no held-out episode of these tasks")
    right = [(row["verdict"] == SUCCESS) == row["success"] for row in rows]
    say(f"judge: right on {100 * np.mean(right):.0f} % of {len(rows)} held-out episodes")
    return pd.DataFrame(rows)


def through(task: VideoTask, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An episode's frames after encoding and decoding (multi-step: the first one as context): uint8 [T, H, W, 3]."""
    pictures = to_float(frames).to(task.device)
    if isinstance(task, SingleStepTask):
        return to_bytes(task.frames_of(task.codes(pictures)))
    assert isinstance(task, MultiStepTask)
    context, codes = task.codes(pictures[0], pictures)
    ids = (context + task.layout.context_offset)[None].cpu()
    owner = torch.zeros(len(codes), dtype=torch.long, device=task.device)
    return to_bytes(task.frames_of(task.context_features(ids), owner, codes))


def to_bytes(frames: Tensor) -> NDArray[np.uint8]:
    """Float frames [n, 3, H, W] in [0, 1] -> uint8 [n, H, W, 3], cut off, not rounded, as the paper's code does (G)."""
    return (frames.clamp(0, 1) * 255).to(torch.uint8).movedim(-3, -1).contiguous().cpu().numpy()
