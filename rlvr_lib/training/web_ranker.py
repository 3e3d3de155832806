"""A small scorer of options by hashed facts: options of a decision compete in a softmax. Torch only, seconds to train.

Our own stand-in for the chat models of the paper's agent (C.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlvr_lib.training.web_features import BUCKETS

WIDTH, HIDDEN = 24, 48


@dataclass(frozen=True)
class Choice:
    """One decision: facts of the whole, facts of each option (bucket numbers), and which option is right."""

    context: list[int]
    options: list[list[int]]
    right: int = 0


class Ranker(nn.Module):
    """Logits of the options of decisions."""

    def __init__(self, width: int = WIDTH, hidden: int = HIDDEN):
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, width, mode="sum")
        nn.init.normal_(self.words.weight, std=0.05)
        self.linear = nn.EmbeddingBag(BUCKETS, 1, mode="sum")
        nn.init.zeros_(self.linear.weight)
        self.hidden, self.out = nn.Linear(3 * width, hidden), nn.Linear(hidden, 1)

    def forward(self, choices: Sequence[Choice]) -> tuple[Tensor, Tensor]:
        """(logits of all options (N,), number of each option's decision (N,))."""
        place = torch.tensor([at for at, choice in enumerate(choices) for _ in choice.options])
        flat, offsets = _bags([option for choice in choices for option in choice.options])
        option, context = self.words(flat, offsets), self.words(*_bags([choice.context for choice in choices]))[place]
        together = torch.cat([option, context, option * context], 1)
        return (self.out(torch.relu(self.hidden(together))) + self.linear(flat, offsets))[:, 0], place

    def loss(self, choices: Sequence[Choice]) -> Tensor:
        """Mean negative log-probability of the right options."""
        logits, _ = self(choices)
        starts, total = [], 0
        for choice in choices:
            starts.append(total)
            total += len(choice.options)
        parts = logits.split([len(choice.options) for choice in choices])
        return -torch.stack([part.log_softmax(0)[one.right] for part, one in zip(parts, choices, strict=True)]).mean()

    @torch.no_grad()
    def probabilities(self, choices: Sequence[Choice]) -> list[Tensor]:
        """For each decision the probabilities of its options."""
        if not choices:
            return []
        logits, _ = self(choices)
        return [part.softmax(0) for part in logits.split([len(choice.options) for choice in choices])]


def _bags(lists: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(one) for one in lists])
    flat = torch.tensor([number for one in lists for number in one], dtype=torch.long)
    return flat, lengths.cumsum(0) - lengths


def train_ranker(
    choices: Sequence[Choice], epochs: int, seed: int, batch: int = 32, rate: float = 5e-3
) -> tuple[Ranker, float]:
    """A ranker trained on decisions with a falling rate, and the mean loss of its last epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Ranker()
        order = [torch.randperm(len(choices)).tolist() for _ in range(epochs)]
    updates = max(1, -(-len(choices) // batch) * epochs)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.02, 1 - step / updates))
    losses: list[float] = []
    for places in order:
        losses = []
        for start in range(0, len(places), batch):
            loss = model.loss([choices[place] for place in places[start : start + batch]])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return model.eval(), sum(losses) / max(1, len(losses))


__all__ = ["Choice", "Ranker", "train_ranker"]
