"""RLVR-World as a workbook: worlds -> tokens -> training -> evaluation -> report.

Importing this package is enough to make ``transformers``, ``trl``, ``peft`` and ``lpips`` importable, also next to a
CPU-only torch (see :func:`_mend_torchvision`), switches the hub's telemetry off, and lets the process keep memory that
it has freed (see :func:`_keep_freed_memory`). Nothing is downloaded.
"""

import ctypes
import os

__version__ = "0.1.0"

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _mend_torchvision():
    """Declare the two operators that torchvision's Python code expects and its CUDA-built library cannot register.

    The wheel of torchvision on the package index links against CUDA. Beside a CPU torch its library does not load,
    ``import torchvision`` raises, and every library that imports it when installed (transformers, trl, peft, lpips)
    fails too. Where the import works (any GPU machine) nothing is patched. Returns the operator library, which must
    stay referenced, or None.
    """
    try:
        import torchvision

        return None
    except ImportError:
        return None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import sys

    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

    return library


def _keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks of up to 32 MiB, its largest bound, for the next ones; False: there is no glibc.

    By default it gives every large tensor's memory back to the system and takes it again, page by page: on a virtual
    machine that costs more than what an element-wise operation computes. A fifth of decoding frames, an eighth of a
    training step on two threads (docs/tried.md). A process stays at its peak of memory instead of shrinking.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    mmap_threshold, trim_threshold = -3, -1  # names of malloc.h
    return bool(mallopt(mmap_threshold, 1 << 25)) and bool(mallopt(trim_threshold, (1 << 31) - 1))


_memory_is_kept = _keep_freed_memory()
_torchvision_operators = _mend_torchvision()
