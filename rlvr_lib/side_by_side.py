"""Independent pieces of work on a CPU: several at a time, one thread each, beat one after another with all threads."""

from collections.abc import Callable, Sequence
from typing import Any

from rlvr_lib.processes import alone, executor
from rlvr_lib.profile import Profile


def side_by_side(work: Callable[[Profile, Any], Any], items: Sequence[tuple[Profile, Any]], left: int) -> list[Any]:
    """``work(profile, item)`` of every pair, in order; ``left`` of them are more than looking up what is there.

    On a CPU as many of these at a time as the first profile has threads, each in a process whose profile has one
    thread, as torch has there; ``work`` must be importable. Elsewhere one after another.
    """
    profile = items[0][0] if items else None
    jobs = min(profile.threads, left) if profile is not None and profile.torch_device() == "cpu" else 1
    if jobs <= 1:
        return [work(*pair) for pair in items]
    single = [(own.model_copy(update={"threads": 1}), item) for own, item in items]
    with executor(jobs, alone) as processes:
        return list(processes.map(work, *zip(*single, strict=True)))


__all__ = ["side_by_side"]
