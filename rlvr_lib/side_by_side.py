"""Independent pieces of work on a CPU: several at a time, one thread each, beat one after another with all threads."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rlvr_lib.profile import Profile


def side_by_side(work: Callable[[Profile, Any], Any], profile: Profile, items: Sequence[Any], left: int) -> list[Any]:
    """``work(profile, item)`` of every item, in order; ``left`` of them are more than looking up what is there.

    On a CPU as many of these at a time as the profile has threads, each in a process whose profile has one thread;
    ``work`` must be importable. Elsewhere one after another.
    """
    jobs = min(profile.threads, left) if profile.torch_device() == "cpu" else 1
    if jobs <= 1:
        return [work(profile, item) for item in items]
    single = profile.model_copy(update={"threads": 1})
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(work, [single] * len(items), items))


__all__ = ["side_by_side"]
