"""One GRPO iteration of a video world model at the paper's size, with random weights; made for a GPU.

    python benchmarks/paper_step.py [--kind single_step multi_step] [--iterations 3] [--tiny] [--out FILE]

120 or 127 million parameters, 128 prompts x 16 responses, frames of 256 x 320 (random noise), the tokenizers and
LPIPS-VGG at their full size. A small iteration warms up (it compiles); then medians of whole ones on the wall clock,
from drawing the clips to the last update, by part, beside the floor that the operation count of the cost model gives at
the GPU's peak. Without a GPU use ``--tiny``: everything runs, the figures mean nothing.
"""

import argparse
import json
import os
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import PeakMemory, surroundings

import rlvr_lib  # noqa: F401

# isort: split
import torchvision

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.profile import Profile, load_profile
from rlvr_lib.progress import MetricsLog
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask, VideoTask
from rlvr_lib.tokens.world_model import Size, world_model
from rlvr_lib.training.grpo import MetricsCallback
from rlvr_lib.training.video import new_tokenizer
from rlvr_lib.training.video_rlvr import build_trainer
from rlvr_lib.training.video_rollouts import FrameReward, RolloutClips
from rlvr_lib.worlds.perceptual import Perceptual, _Lpips
from rlvr_lib.worlds.video_clips import ClipSource
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet, save_episode

RESULTS = Path(__file__).parent / "results"
PETAFLOPS = {"single_step": 1.9, "multi_step": 12.2}  # of one iteration, every prompt once per group (cost model I.5)
PEAK = 0.989  # dense bfloat16 petaflops a second of an H100 or H200
TINY = (
    "video.data.height=64 video.data.width=80 video.single_step.hidden=32 video.multi_step.hidden=32 "
    "video.single_step.layers=1 video.multi_step.layers=1 video.single_step.heads=2 video.multi_step.heads=2 "
    "video.single_step.intermediate=64 video.multi_step.intermediate=64 "
    "video.frame_tokenizer.widths=[8,8,8,16] video.compressive_tokenizer.widths=[8,8,8,16] "
    "video.frame_tokenizer.norm_groups=4 video.compressive_tokenizer.norm_groups=4 video.dynamics_patch=2 "
    "video.frame_tokenizer.latent=8 video.compressive_tokenizer.latent=8 "
    "video.frame_tokenizer.levels=[5,5] video.compressive_tokenizer.levels=[5,5] "
) + " ".join(
    f"video.{kind}_rlvr.{setting}"
    for kind in PETAFLOPS
    for setting in ("prompts_per_step=2", "prompts_per_update=1", "group_size=2", "sequences_per_micro_batch=2")
)


def noise_episodes(folder: Path, profile: Profile, dims: int) -> EpisodeSet:
    """Four episodes of noise: what the pictures show costs nothing."""
    rng = np.random.default_rng(0)
    for number in range(4):
        frames = rng.integers(0, 256, (12, profile.video.data.height, profile.video.data.width, 3), dtype=np.uint8)
        save_episode(folder / f"{number}.npz", Episode(frames, rng.uniform(-1, 1, (12, dims)).astype(np.float32)))
    return EpisodeSet(folder, test_every=4)


def task_of(profile: Profile, kind: str, device: str) -> VideoTask:
    """The task with a random tokenizer of the profile's size; 13 action numbers, as RT-1 has."""
    bins = ActionBins([-1.0] * 13, [1.0] * 13)
    if kind == "single_step":
        return SingleStepTask(new_tokenizer(profile, "frame"), bins, profile.video.single_step.context, device)
    return MultiStepTask(new_tokenizer(profile, "compressive"), bins, profile.video.multi_step.horizon, device)


def lpips_vgg(device: str, tiny: bool) -> Perceptual:
    """LPIPS at full size with random weights (a tiny run takes the small trunk)."""
    net, make = ("squeeze", torchvision.models.squeezenet1_1) if tiny else ("vgg", torchvision.models.vgg16)
    return Perceptual(f"LPIPS-{net}, random", _Lpips(net, make(weights=None).features.state_dict())).to(device)


class Bench:
    """Model, tokenizer, clips and reward of a kind at full size; a trainer of its own for every run."""

    def __init__(self, kind: str, folder: Path, tiny: bool):
        self.kind, self.folder = kind, folder
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        profile = load_profile("paper", overrides=TINY if tiny else "")
        self.settings, size = getattr(profile.video, f"{kind}_rlvr"), getattr(profile.video, kind)
        self.task = task = task_of(profile, kind, self.device)
        (folder / "episodes").mkdir()
        episodes = noise_episodes(folder / "episodes", profile, task.bins.dims)
        source = ClipSource(episodes, episodes.train, task.clip_frames, context=task.has_context)
        self.clips = RolloutClips(task, source, 0, keep=2 * self.settings.prompts_per_step)
        model = world_model(task.layout, Size(size.hidden, size.layers, size.heads, size.intermediate))
        model.save_pretrained(folder / "model")
        self.parameters = model.num_parameters()
        self.reward = FrameReward(task, self.clips, lpips_vgg(self.device, tiny), self.settings.reward, folder)

    def run(self, **changes: int) -> tuple[list[dict[str, float]], float]:
        """Rows of the log, one per iteration, and peak GiB. Every run begins with the same model and clips anew."""
        settings = self.settings.model_copy(update=changes)
        log = self.folder / "metrics.jsonl"
        log.unlink(missing_ok=True)
        self.clips._kept.clear()  # tokenising the prompts belongs to an iteration
        arguments = (self.folder / "model", self.clips, self.reward, settings, self.folder, 0, self.device)
        trainer = build_trainer(*arguments, save_strategy="no")
        trainer.self_check = False
        trainer.add_callback(MetricsCallback(log))
        with PeakMemory(self.device) as memory:
            trainer.train()
        return MetricsLog(log).read(), memory.mib / 1024

    def warm_up(self) -> None:
        """One small iteration with passes of the full size: compiles, and tries the kernels."""
        prompts = min(8, self.settings.prompts_per_update)
        self.run(steps=1, prompts_per_step=prompts, prompts_per_update=prompts)

    def measure(self, iterations: int, floor: float | None) -> dict[str, Any]:
        """Medians of wall seconds and seconds by part over ``iterations``, and peak memory."""
        rows, gib = self.run(steps=iterations)
        ends = [0.0, *(row["seconds"] for row in rows)]
        walls = [after - before for before, after in pairwise(ends)]
        parts = {
            key.removeprefix("seconds_"): round(statistics.median(row[key] for row in rows), 3)
            for key in rows[0]
            if key.startswith("seconds_")
        }
        wall = statistics.median(walls)
        return {
            **{"parameters": self.parameters, "prompts": self.settings.prompts_per_step},
            **{"group": self.settings.group_size, "prompt": self.task.layout.prompt},
            **{"response": self.task.layout.response, "seconds": round(wall, 3)},
            "by_part": {**parts, "prompts and the rest": round(wall - sum(parts.values()), 3)},
            "every_iteration": [round(one, 3) for one in walls],
            **{"floor_seconds": floor, "peak_gib": round(gib, 2)},
        }


def measure(kind: str, iterations: int, tiny: bool) -> dict[str, Any]:
    """An iteration of a kind, after a warm-up."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(kind, Path(name), tiny)
        bench.warm_up()
        return bench.measure(iterations, None if tiny else round(PETAFLOPS[kind] / PEAK, 2))


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=tuple(PETAFLOPS), default=list(PETAFLOPS))
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a size for tests; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("the paper's size wants a GPU; --tiny runs the same code at a size for tests")
    load, result = os.getloadavg()[0], {}
    for kind in given.kind:
        result[kind] = measure(kind, given.iterations, given.tiny)
        print(kind, json.dumps(result[kind]), flush=True)
    out = given.out or RESULTS / "paper_step_cuda.json"
    atomic_write_text(out, json.dumps({**result, **surroundings(given.iterations, load)}, indent=1) + "\n")
    return out


if __name__ == "__main__":
    main()
