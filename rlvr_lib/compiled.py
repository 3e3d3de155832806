"""Functions of tensors that a GPU runs through ``torch.compile``, and plainly wherever that fails; cuDNN's switches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rlvr_lib.progress import say

SHAPES = 256  # kernels kept per function; torch gives up after 8 and would go on eagerly, without a word


class Compiled:
    """``function``, one fused kernel per shape on CUDA; the function itself on a CPU and inside another compilation.

    The first failure is announced, and from then on ``eager`` (by default the plain function) runs: slower, the same
    result to round-off.
    """

    def __init__(self, function: Callable[..., Any], eager: Callable[..., Any] | None = None):
        self.function, self.eager, self.failed = function, eager or function, False
        self._fused: Callable[..., Any] | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self.failed or not self.worthwhile(inputs[0]):
            return self.eager(*inputs)
        try:
            return self.run(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler on this machine, or one that cannot do it; they share no class
            name = getattr(self.function, "__name__", "function")
            say(f"{name} runs uncompiled, slower: {type(error).__name__}: {str(error).strip()[-300:]}")
            self.failed = True
        return self.eager(*inputs)

    def worthwhile(self, first: torch.Tensor) -> bool:
        """Whether inputs like the first of them are for the compiled function."""
        return first.is_cuda and not torch.compiler.is_compiling()

    def run(self, inputs: tuple[Any, ...]) -> Any:
        """The compiled function's result; whatever it raises means that the function is to stay eager."""
        if self._fused is None:
            self._fused = compiled(self.function)
        return self._fused(*inputs)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile`` for fixed shapes, with room for `SHAPES` of them."""
    from torch import _dynamo

    _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, SHAPES)
    return torch.compile(function, dynamic=False)


@contextmanager
def cudnn(**switches: bool) -> Iterator[None]:
    """Switches of ``torch.backends.cudnn`` for a while.

    ``benchmark``: time the convolutions of each new shape once, take the fastest. ``allow_tf32``: a GPU may round what
    float32 convolutions read to 10 bits.
    """
    before = {name: getattr(torch.backends.cudnn, name) for name in switches}
    try:
        for name, value in switches.items():
            setattr(torch.backends.cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(torch.backends.cudnn, name, value)
