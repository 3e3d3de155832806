"""Choosing the next id from logits: temperature, top-k, nucleus, greedy; random numbers come from outside."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Chooser:
    """Picks next tokens from logits (rows, V)."""

    def __init__(
        self,
        ends: list[int],
        pad_id: int,
        temperature: float,
        top_p: float,
        greedy: bool,
        device: torch.device,
        top_k: int = 0,
        race: Tensor | None = None,
        penalty: float = 1.0,
    ):
        self.ends, self.pad_id, self.greedy = torch.tensor(ends, dtype=torch.long, device=device), pad_id, greedy
        self.temperature, self.top_p, self.top_k, self.penalty = temperature, top_p, top_k, penalty
        self.race = None if race is None else race.to(device)

    def __call__(
        self, logits: Tensor, uniform: Tensor | None, step: int | Tensor = 0, seen: Tensor | None = None
    ) -> Tensor:
        """Ids (rows,). `step` (a number, or a device tensor (1,)) picks the race's row; nothing asks the host.

        `seen`, bool (rows, V), marks the ids that the repetition penalty falls on.
        """
        if seen is not None:
            logits = penalised(logits, seen, self.penalty)
        if self.greedy:
            return logits.argmax(-1)
        logits = logits.float()
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], float("-inf"))
        # Proportional to the probabilities; on a GPU the normalised ones come from one kernel.
        weights = logits.softmax(-1) if logits.is_cuda else (logits - logits.amax(-1, keepdim=True)).exp_()
        if self.top_p < 1:
            weights = _nucleus(weights, self.top_p)
        if self.race is not None:
            noise = self.race[step] if isinstance(step, int) else self.race.index_select(0, step)
            return (weights / noise).argmax(-1)
        # Inverse distribution function: the first token whose cumulative weight exceeds u times the total.
        cumulative = weights.cumsum(-1)
        threshold = uniform[:, None].clamp(max=1 - 1e-6) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)

    def is_end(self, tokens: Tensor) -> Tensor:
        return torch.isin(tokens, self.ends) if len(self.ends) != 1 else tokens == self.ends


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (rows, V) with those of ids that have occurred made smaller: divided if positive, else multiplied.

    As serving engines do it, before temperature and top-k.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def occurring(prompts: Sequence[Sequence[int]], group: int, logits: Tensor) -> Tensor:
    """bool (rows, V) as `logits` are: the ids of each row's prompt, `group` rows to a prompt."""
    marks = torch.zeros(len(prompts), logits.shape[1], dtype=torch.bool, device=logits.device)
    for mark, prompt in zip(marks, prompts, strict=True):
        mark[torch.as_tensor(prompt, device=logits.device)] = True
    return marks.repeat_interleave(group, 0)


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of tokens that holds at least `top_p` of each row's weight."""
    ordered, index = weights.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = before < top_p * weights.sum(-1, keepdim=True)
    return torch.zeros_like(weights).scatter_(1, index, ordered * kept)
