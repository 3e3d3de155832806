"""Where a result comes from: commit, versions, machine, date. Written into every ``done.json`` and every report."""

import functools
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "rlvr-world-workbook",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "tokenizers",
    "datasets",
    "numpy",
)


def provenance(threads: int | None = None) -> dict[str, Any]:
    """``commit, dirty, versions, hardware, python, date, threads`` as plain JSON values; no git: ``commit`` is None."""
    import torch

    commit, dirty = git_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions(),
        "hardware": hardware(),
        "python": sys.version.split()[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": threads if threads is not None else torch.get_num_threads(),
    }


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of the packages a number can depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it); (None, None) outside a repository.

    RLVR_COMMIT comes first: for a copy of the tree whose own git folder, if any, says something else.
    """
    if os.environ.get("RLVR_COMMIT"):
        return os.environ["RLVR_COMMIT"], None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB and the GPUs' names."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
    }


def usable_cores() -> int:
    """Cores this process may use (a container can have fewer than the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 passes pay on ``cpu`` or ``cuda``; says so in one line where they do not.

    A CPU needs matrix units (AMX, or ARM's BF16). AVX-512-BF16 alone is slower than float32 (docs/tried.md), and
    without that it is emulated, fifty times slower.
    """
    import torch

    if torch.device(device).type != "cpu":
        return True
    found = torch.cpu.get_capabilities()
    fast = any(found.get(name) for name in ("amx_bf16", "amx_tile", "bf16", "sve_bf16"))
    if not fast:
        print("float32 throughout: this processor has no matrix units for bfloat16", flush=True)
    return fast


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, in GiB (its children not counted)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)
