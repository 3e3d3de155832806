"""Processes for work on a CPU, started from a server that has imported the heavy packages and computed nothing.

A fresh process spends some six seconds on imports before it works; one of the server's a few hundredths. The server
starts with the first use and ends with the process that uses it. Beside a GPU (a driver's state must not be copied) and
where the system has no such server, processes are fresh ones.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from multiprocessing.pool import Pool
from typing import Any

# Not MuJoCo, which reads its OpenGL settings when it is imported; rlvr_lib comes before what imports torchvision.
HEAVY = [
    "rlvr_lib",
    "torch",
    "pandas",
    "lpips",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
    "trl.trainer.grpo_trainer",
]


def start_method() -> str:
    """``forkserver`` or ``spawn``."""
    import torch

    able = "forkserver" in multiprocessing.get_all_start_methods() and not torch.cuda.is_available()
    return "forkserver" if able else "spawn"


def _context() -> BaseContext:
    context = multiprocessing.get_context(start_method())
    context.set_forkserver_preload(HEAVY)
    return context


def pool(workers: int, prepare: Callable[..., None] | None = None, given: tuple[Any, ...] = ()) -> Pool:
    """A `multiprocessing.Pool` whose processes call ``prepare(*given)`` first; their environment is this one's now."""
    return _context().Pool(workers, _begin, (dict(os.environ), prepare, given))


def executor(
    workers: int, prepare: Callable[..., None] | None = None, given: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """The same as a `ProcessPoolExecutor`: its processes may have children, and one that dies is an error."""
    return ProcessPoolExecutor(workers, _context(), _begin, (dict(os.environ), prepare, given))


def alone() -> None:
    """To prepare a process that computes beside others: one thread of torch, no bars of weights that it loads."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()


def _begin(environment: dict[str, str], prepare: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    """The server's environment is that of its own start."""
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    if prepare is not None:
        prepare(*given)


__all__ = ["alone", "executor", "pool", "start_method"]
