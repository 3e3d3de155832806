"""Likelihood training and SFT: interrupted ones end as unbroken ones, damaged checkpoints, merging, TensorBoard."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from rlvr_lib.artifacts import UserError
from rlvr_lib.cli import main
from rlvr_lib.progress import MetricsLog
from rlvr_lib.training.likelihood import tiny_qwen2
from rlvr_lib.training.sft import LengthGroupedSFT

STEPS, EVERY = 12, 3
JOB = """
import sys
from pathlib import Path
import rlvr_lib
from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.training import likelihood
from rlvr_lib.training.sft import train_sft
kind, folder, start = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
settings = ("epochs_planned=4", "epochs_used=4", "patience=9", f"length_grouped={kind == 'sft_grouped'}".lower())
profile = load_profile("smoke", overrides=" ".join(f"text_game.sft.{setting}" for setting in settings))
profile.seed_everything()
tokenizer = load_tokenizer(start)
words = [f"open door (ID: {index}) " * (1 + index % 5) for index in range(27)]
if kind == "likelihood":
    parts = [[(word, False), (word * 2, True)] for word in words]
    pages = likelihood.Pages([likelihood.encode_page(tokenizer, part, 99) for part in parts])
    model = likelihood.tiny_qwen2(tokenizer, 32, 2, 2, 1, 64, 0)
    likelihood.train_likelihood(
        model, pages, pages, folder, steps=12, batch=4, learning_rate=1e-2, warmup=2, weight_decay=0.01, seed=0,
        evaluate_every=3, save_every=3, bf16=True,
    )
    model.save_pretrained(folder / "model")
else:
    pairs = [(word, word) for word in words]
    train_sft(start, tokenizer, pairs[3:], pairs[:3], folder, profile.text_game.sft, 0)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A tokenizer and an untrained model to begin with."""
    from rlvr_lib.tokens.text_tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("start")
    tokenizer = train_tokenizer(["open door (ID: 1) close door (ID: 2)"], 600)
    tokenizer.save_pretrained(folder)
    tiny_qwen2(tokenizer, 32, 2, 2, 1, 64, 0).save_pretrained(folder)
    return folder


def job(kind: str, folder: Path, start: Path, kill_after: int | None = None) -> None:
    """Train in a process of its own; ``kill_after``: SIGKILL as soon as the log has passed that step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-c", JOB, kind, str(folder), str(start)], env=environment)
    if kill_after is None:
        assert process.wait() == 0
        return
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        rows = MetricsLog(folder / "metrics.jsonl").read() if (folder / "metrics.jsonl").exists() else []
        if rows and rows[-1]["step"] > kill_after and list((folder / "checkpoints").glob("checkpoint-*")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = MetricsLog(folder / "metrics.jsonl").read()
    return [(row["step"], row[name]) for row in rows for name in ("loss", "eval_loss") if name in row]


@pytest.mark.parametrize(("kind", "every"), [("likelihood", 3), ("sft", 3), ("sft_grouped", 3)])
def test_a_killed_training_ends_like_an_unbroken_one(kind, every, start, tmp_path, capfd):
    job(kind, tmp_path / "whole", start)
    job(kind, tmp_path / "killed", start, kill_after=every)
    assert not (tmp_path / "killed" / "model").exists()
    job(kind, tmp_path / "killed", start)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == killed.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    newest = max((tmp_path / "killed" / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    (newest / "optimizer.pt").write_bytes(b"half")  # the last save was cut
    job(kind, tmp_path / "killed", start)
    assert f"{newest.name} is not usable" in capfd.readouterr().out
    again = weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_grouped_batches_of_sft_are_hardly_padded():
    """Lengths 1 to 200 at random, batches of 4: each batch as long as its longest sample."""
    rows = Dataset.from_dict({"input_ids": [[1] * length for length in torch.randperm(200).add(1).tolist()]})
    trainer = LengthGroupedSFT.__new__(LengthGroupedSFT)
    trainer.args, trainer.train_dataset = SimpleNamespace(train_batch_size=4, seed=0), rows
    drawn = [len(rows[index]["input_ids"]) for index in trainer._get_train_sampler()]
    assert sorted(drawn) == list(range(1, 201))
    cost = sum(4 * max(drawn[first : first + 4]) for first in range(0, 200, 4))
    assert cost < 1.25 * sum(drawn)  # at random about 1.6


def test_merge_lora_verb(start, tmp_path, capsys):
    """The merged checkpoint answers as base and adapter together do."""
    base = AutoModelForCausalLM.from_pretrained(start)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    ids = torch.arange(10)[None]
    expected = model(ids).logits
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(SystemExit) as ended:
        main(["merge-lora", str(tmp_path / "adapter"), str(tmp_path / "merged"), "--base", str(start)])
    assert ended.value.code == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.allclose(merged(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(AutoModelForCausalLM.from_pretrained(start)(ids).logits, expected, atol=1e-3)
    with pytest.raises(SystemExit) as ended:
        main(["merge-lora", str(start), str(tmp_path / "other")])
    assert ended.value.code == 2 and "no adapter_config.json" in capsys.readouterr().err


def test_a_truncated_adapter_is_named(start, tmp_path):
    from rlvr_lib.training.sft import merge_lora

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(start), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    broken = tmp_path / "adapter" / "adapter_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match="adapter cannot be merged"):
        merge_lora(tmp_path / "adapter", tmp_path / "out", str(start))


def test_metrics_reach_tensorboard_once_per_step(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        log.log(step, reward=step / 10, note="text")
    time.sleep(1.1)  # TensorBoard reads event files in the order of their names, which hold whole seconds
    resumed = MetricsLog(tmp_path / "metrics.jsonl", resume_step=3)
    resumed.log(4, reward=0.4)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, pytest.approx(event.value)) for event in board.Scalars("reward")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]
