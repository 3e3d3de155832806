"""What the benchmarks share: id tokenizers, taking turns, peak memory while something runs, where the figures are from.

Not a benchmark itself: run as a program it only says so.
"""

import ctypes
import gc
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch

import rlvr_lib  # noqa: F401  (first: makes transformers importable beside a CPU torch)

# isort: split
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlvr_lib.provenance import hardware


def id_words(vocabulary: int) -> PreTrainedTokenizerFast:
    """Id 17 is the word "17"; the last two ids pad and end."""
    words = {str(i): i for i in range(vocabulary - 2)} | {"<pad>": vocabulary - 2, "<eos>": vocabulary - 1}
    inner = Tokenizer(models.WordLevel(words, unk_token="0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def give_memory_back() -> None:
    """Return what was freed to the system where the C library can, or the next run finds its memory there already."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


class PeakMemory:
    """Largest memory above where it began, in MiB: of the process, sampled every 10 ms, or of the GPU, exactly."""

    def __init__(self, device: str):
        self.cuda, self.mib = device.startswith("cuda"), 0.0

    def __enter__(self) -> "PeakMemory":
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
            return self
        import psutil

        self.process, self.stop = psutil.Process(), threading.Event()
        self.base = self.highest = self.process.memory_info().rss
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.01):
            self.highest = max(self.highest, self.process.memory_info().rss)

    def __exit__(self, *_: Any) -> None:
        if self.cuda:
            self.highest = torch.cuda.max_memory_allocated()
        else:
            self.stop.set()
            self.watcher.join()
        self.mib = round((self.highest - self.base) / 2**20, 1)


def in_turn(contestants: Mapping[str, Callable[[], dict[str, float]]], repeats: int) -> dict[str, dict[str, float]]:
    """Let the contestants take turns; medians of whatever each measures.

    A first round warms up and tells the peak memory (``peak_mib``), each beginning with freed memory given back; the
    timed rounds keep it, as a training does from step to step.
    """
    memory = {}
    for name, run in contestants.items():
        give_memory_back()
        memory[name] = run().get("peak_mib")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            found[name].append(run())
    medians = {
        name: {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}
        for name, rows in found.items()
    }
    return {name: row | ({} if memory[name] is None else {"peak_mib": memory[name]}) for name, row in medians.items()}


def surroundings(repeats: int, load: float) -> dict[str, Any]:
    """Hardware, versions, threads, load before and after, date."""
    return {
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "load_average": {"at the start": round(load, 1), "at the end": round(os.getloadavg()[0], 1)},
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")}
        | {"python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    print("side_by_side.py holds what the benchmarks share; nothing is measured here")
