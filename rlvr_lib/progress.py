"""How a run talks: progress bars where somebody watches, plain lines where nobody does, and a metrics log.

Our own choice throughout; the paper's scripts print through their training framework.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rlvr_lib.files import atomic_write_text, named_disk_faults, plain

Item = TypeVar("Item")
LINE_EVERY_SECONDS = 10.0
_HEADLESS_PARENTS = ("papermill", "nbconvert", "nbclient", "pytest")


def say(text: str) -> None:
    """Print one line at once (also through a pipe)."""
    print(text, flush=True)


@functools.cache
def somebody_watches() -> bool:
    """True in a terminal and in a live notebook, False under papermill, nbconvert, a pipe, or ``RLVR_HEADLESS=1``."""
    if os.environ.get("RLVR_HEADLESS"):
        return False
    if "ipykernel" not in sys.modules:
        return sys.stderr.isatty()
    import psutil

    try:
        command = " ".join(psutil.Process(os.getppid()).cmdline())
    except psutil.Error:
        return True
    return not any(name in command for name in _HEADLESS_PARENTS)


def track(
    iterable: Iterable[Item],
    total: int | None = None,
    label: str = "",
    unit: str = "it",
    every: float = LINE_EVERY_SECONDS,
) -> Iterator[Item]:
    """Pass the items through and show rate and remaining time.

    A tqdm bar when somebody watches; else a line every ``every`` seconds and one at the end.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    if somebody_watches():
        from tqdm.auto import tqdm

        yield from tqdm(iterable, total=total, desc=label or None, unit=unit)
    else:
        yield from _lines(iterable, total, label or "progress", unit, every)


def _lines(iterable: Iterable[Item], total: int | None, label: str, unit: str, every: float) -> Iterator[Item]:
    begin = last = time.monotonic()
    count = 0
    for item in iterable:
        yield item
        count += 1
        now = time.monotonic()
        if now - last >= every and count != total:
            last = now
            say(progress_line(label, count, total, now - begin, unit))
    say(progress_line(label, count, total, time.monotonic() - begin, unit, ended=True))


def progress_line(label: str, count: int, total: int | None, seconds: float, unit: str, ended: bool = False) -> str:
    """One line: ``sft: 40/120 steps, 2.00 steps/s, 0:40 left``."""
    rate = count / seconds if seconds > 0 else 0.0
    done = f"{label}: {count}" + (f"/{total}" if total is not None else "") + f" {unit}"
    speed = f", {rate:.3g} {unit}/s" if rate else ""
    if ended:
        return f"{done}{speed}, took {clock(seconds)}"
    left = f", {clock((total - count) / rate)} left" if total is not None and rate else ""
    return done + speed + left


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours when needed: ``1:05``, ``2:00:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class MetricsLog:
    """A JSON-lines file of training metrics, one flushed line per call; survives a kill at any moment.

    ``resume_after(step)`` drops lines past a checkpoint's step (and a half-written last line), so that a resumed run
    logs every step once. The numbers also go to TensorBoard event files in ``tensorboard/`` beside the file.
    """

    def __init__(self, path: Path | str, resume_step: int | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            self.resume_after(resume_step)
        self._begin = time.monotonic() - self._seconds_so_far()
        self._resume_step = resume_step

    @functools.cached_property
    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if self._resume_step is None else self._resume_step + 1
        return SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=purge)

    def _seconds_so_far(self) -> float:
        lines = self.read()
        return float(lines[-1].get("seconds", 0.0)) if lines else 0.0

    def log(self, step: int, **values: Any) -> dict[str, Any]:
        """Append ``{"step", "seconds", ...}``; seconds run on over resumes. Disk faults are UserErrors."""
        row = {"step": step, "seconds": round(time.monotonic() - self._begin, 3), **values}
        with named_disk_faults(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=plain) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)
        self._board.flush()
        return row

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, in order; a half-written last line is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(row)
        return rows

    def resume_after(self, step: int) -> None:
        """Keep only lines up to and including ``step``; 0 keeps what was logged before the first update."""
        kept = [row for row in self.read() if row.get("step", -1) <= step]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
