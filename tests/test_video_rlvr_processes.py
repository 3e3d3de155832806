"""Video GRPO in processes of its own: two of them (gloo) give what one gives, a killed one goes on where it was.

Run as a program with a kind, a folder and a number of rollout batches, it is one of the processes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent


def train(kind: str, folder: Path, steps: int) -> None:
    """Rollout batches of four prompts, from the last checkpoint if there is one, in a toy world made from seeds."""
    import rlvr_lib  # noqa: F401  (first: makes torchvision importable beside a CPU torch)

    # isort: split
    from test_video_rlvr import WEIGHTS, settings
    from toy_video import BINS, TOY, Squares, toy_model

    from rlvr_lib.profile_schema_video import RewardWeights
    from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
    from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
    from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask
    from rlvr_lib.training.checkpoints import train_from_last
    from rlvr_lib.training.grpo import MetricsCallback
    from rlvr_lib.training.video_rlvr import build_trainer
    from rlvr_lib.training.video_rollouts import FrameReward, RolloutClips
    from rlvr_lib.worlds.perceptual import Perceptual
    from rlvr_lib.worlds.video_clips import ClipSource
    from rlvr_lib.worlds.video_episodes import EpisodeSet

    torch.set_num_threads(1)
    torch.manual_seed(3)
    if kind == "single":
        task = SingleStepTask(FrameTokenizer(**TOY), BINS, context=2)
    else:
        task = MultiStepTask(CompressiveTokenizer(**TOY, patch=2, heads=2), BINS, horizon=3)
    episodes = EpisodeSet(folder.parent / "episodes", test_every=4)
    clips = RolloutClips(task, ClipSource(episodes, episodes.train, task.clip_frames, context=task.has_context), seed=5)
    reward = FrameReward(task, clips, Perceptual("squares", Squares()), RewardWeights(**WEIGHTS), folder)
    toy_model(task).save_pretrained(base := folder.parent / f"base{os.environ.get('RANK', '')}")
    values = settings(steps=steps, prompts_per_update=4, sequences_per_micro_batch=8, save_every=2)
    distributed = {"ddp_backend": "gloo"} if "RANK" in os.environ else {}
    trainer = build_trainer(base, clips, reward, values, folder, 0, **distributed)
    trainer.add_callback(MetricsCallback(folder / "metrics.jsonl"))
    train_from_last(trainer, "")
    if trainer.accelerator.is_main_process:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder / "model")


def start(kind: str, folder: Path, steps: int = 2, **more: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command = [sys.executable, str(Path(__file__)), kind, str(folder), str(steps)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**environment, **more}, **pipes)


def rows_of(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same_curves(one: Path, other: Path, rows: int) -> None:
    assert [row["step"] for row in rows_of(one)] == [row["step"] for row in rows_of(other)] == list(range(1, rows + 1))
    for left, right in zip(rows_of(one), rows_of(other), strict=True):
        for key in ("reward", "mae", "kl", "zero_spread"):
            assert right[key] == pytest.approx(left[key], rel=1e-4, abs=1e-6), key


def ended(process: subprocess.Popen) -> None:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-3000:]


def test_a_killed_run_resumes_to_the_same_curve(tmp_path):
    """SIGKILL after the third rollout batch, when the fourth is under way; the checkpoint is of the second."""
    from toy_video import make_episodes

    make_episodes(tmp_path / "episodes")
    ended(start("multi", tmp_path / "whole", steps=5))
    process, deadline = start("multi", tmp_path / "killed", steps=5), time.monotonic() + 240
    while len(rows_of(tmp_path / "killed")) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(rows_of(tmp_path / "killed")) < 5
    ended(start("multi", tmp_path / "killed", steps=5))
    same_curves(tmp_path / "whole", tmp_path / "killed", rows=5)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_two_processes_give_what_one_gives(kind, tmp_path):
    from safetensors.torch import load_file
    from toy_video import make_episodes

    make_episodes(tmp_path / "episodes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [start(kind, tmp_path / "one")]
    running += [start(kind, tmp_path / "two", RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    for process in running:
        ended(process)
    same_curves(tmp_path / "one", tmp_path / "two", rows=2)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=2e-5, err_msg=name)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
