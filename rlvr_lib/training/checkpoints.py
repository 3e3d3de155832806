"""Checkpoints: a Trainer's (transformers writes them, we check them), and those of our own training loops."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import Sampler

from rlvr_lib.artifacts import UserError, atomic_write_bytes
from rlvr_lib.progress import say


def train_from_last(trainer: Any, lower: str) -> None:
    """``trainer.train()`` from its newest whole checkpoint, or from the start.

    ``lower`` names the setting that takes less GPU memory, for the error when there is not enough of it.
    """
    last = last_whole_checkpoint(trainer.args.output_dir)
    with named_when_memory_ends(lower):
        trainer.train(resume_from_checkpoint=str(last) if last else None)


@contextmanager
def named_when_memory_ends(lower: str) -> Iterator[None]:
    """Turn a GPU's out-of-memory error into one line that names the setting to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"the GPU's memory is full ({first}): lower {lower}, then run again; it resumes") from error


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that is complete and readable; a damaged one is named and passed over."""
    folders = Path(output_dir).glob("checkpoint-*")
    for folder in sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        reason = _damage(folder)
        if reason is None:
            return folder
        say(f"{folder.name} is not usable ({reason}): going on from the one before")
    return None


def step_of(checkpoint: Path | None) -> int:
    """The optimiser step a checkpoint folder was written at; 0 without one."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def save_parts(folder: Path, iteration: int, parts: Mapping[str, Any]) -> None:
    """The state of every part (model, optimiser, ...) and of torch's random numbers; the newest two files are kept."""
    buffer = BytesIO()
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**state, "iteration": iteration, "random": torch.get_rng_state()}, buffer)
    atomic_write_bytes(folder / f"{iteration:08d}.pt", buffer.getvalue())
    for old in sorted(folder.glob("*.pt"))[:-2]:
        old.unlink()


def load_parts(folder: Path, parts: Mapping[str, Any], device: torch.device, label: str) -> int:
    """Put the newest readable state into ``parts``; its iteration, or 0. A damaged file is passed over."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            say(f"{path} cannot be read ({type(error).__name__}); going on from the one before")
            path.unlink()
            continue
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["random"].cpu())
        say(f"{label}: goes on from iteration {saved['iteration']}")
        return saved["iteration"]
    return 0


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None. `trainer_state.json` is the last file written."""
    try:
        json.loads((folder / "trainer_state.json").read_text())
        weights = sorted(folder.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, "pt") as opened:
                opened.keys()
        broken = [name for name in ("optimizer.pt", "scheduler.pt") if not zipfile.is_zipfile(folder / name)]
    except (OSError, ValueError, SafetensorError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{broken[0]} is damaged" if broken else None if weights else "no weights"


class ResumableSampler(Sampler):
    """TRL's `RepeatSampler` in the order that an unbroken run has in epoch `epoch()`."""

    def __init__(self, inner: Any, epoch: Callable[[], int]):
        self.inner, self.epoch = inner, epoch

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self):
        if self.inner.shuffle:
            self.inner.generator.manual_seed(self.inner.seed)
            for _ in range(self.epoch()):
                torch.randperm(self.inner.num_samples, generator=self.inner.generator)
        yield from self.inner
