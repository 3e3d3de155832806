"""AdamW that also learns the overall scale of marked weights, each as one number with a rate of its own.

In RLVR a batch of rollouts says little about any one of millions of weights, but much about a few directions. The
clearest is the scale of the gains in front of the head, an inverse temperature: on a small budget it is learnt in tens
of batches, while weight by weight it drowns in noise (docs/tried.md).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ScaledAdamW(torch.optim.AdamW):
    """A parameter group with ``scale_rate`` r above 0 has, after AdamW's own step, w <- w exp(-r m / (sqrt(v) + eps)).

    m and v are Adam's moments of the loss's slope along log scale, the sum of w times its gradient. They are part of
    the state, so a resumed run goes on as an unbroken one.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        slopes = {
            weight: (weight * weight.grad).sum()
            for group in self.param_groups
            if group.get("scale_rate")
            for weight in group["params"]
            if weight.grad is not None
        }
        loss = super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight in slopes:
                    weight.mul_(torch.exp(-group["scale_rate"] * self._direction(weight, slopes[weight], group)))
        return loss

    def _direction(self, weight: Tensor, slope: Tensor, group: dict[str, Any]) -> Tensor:
        """Adam's bias-corrected m / (sqrt(v) + eps) of a slope, a scalar tensor."""
        state, (first, second) = self.state[weight], group["betas"]
        for name, value, beta in (("scale_mean", slope, first), ("scale_square", slope**2, second)):
            state[name] = beta * state.get(name, torch.zeros_like(slope)) + (1 - beta) * value
        steps = float(state["step"])  # AdamW's own count, this step among them
        mean, square = state["scale_mean"] / (1 - first**steps), state["scale_square"] / (1 - second**steps)
        return mean / (square.sqrt() + group["eps"])


__all__ = ["ScaledAdamW"]
