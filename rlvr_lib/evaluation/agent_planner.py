"""Model predictive control of a web agent, one decision at a time (C.2): propose, predict, value, act.

Each role is an interface of one method that answers many questions at once, so that several episodes can be planned
side by side. A role gets an :class:`Observation` and texts, never a browser: the true next state is out of reach.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlvr_lib.worlds.agent_texts import (
    Observation,
    ScoreRule,
    Sections,
    StopRule,
    mean_score,
    split_answer,
    stops_at_once,
)
from rlvr_lib.worlds.web_actions import answer_of

Seen = Sequence[Observation]
Texts = Sequence[str]
STOP_VALUE = 1.0  # what the stop shortcut is recorded with (C.2, 5)


class Policy(Protocol):
    def propose(self, seen: Seen, count: int) -> list[list[str]]:
        """``count`` replies for each observation."""


class WorldModel(Protocol):
    def predict(self, seen: Seen, actions: Texts) -> list[str]:
        """One answer for each action: the three sections of changes (B.5)."""


class Extractor(Protocol):
    def extract(self, seen: Seen, sections: Sequence[Sections]) -> list[str]:
        """At most ten key changes of each prediction, a numbered list."""


class Summariser(Protocol):
    def summarise(self, seen: Seen, actions: Texts, changes: Texts) -> list[str]:
        """Each predicted next state in words."""


class Value(Protocol):
    def judge(self, seen: Seen, actions: Texts, states: Texts, count: int) -> list[list[str]]:
        """``count`` replies with a score from 1 to 5 for each predicted next state."""


@dataclass
class Candidate:
    """A proposed action (raw text), how many proposals it got, and what planning found out about it."""

    text: str
    votes: int
    prediction: str = ""
    changes: str = ""
    state: str = ""
    value: float | None = None


@dataclass
class Decision:
    """The chosen action (raw text), what it was chosen from, calls by role, seconds (shared evenly by a batch)."""

    text: str
    candidates: list[Candidate]
    calls: Counter = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass(frozen=True)
class Numbers:
    """How much is asked in one decision: proposals, candidates kept, values per candidate; and the two oddities."""

    candidates: int = 20
    kept: int = 3
    values: int = 20
    stop_rule: StopRule = "released"
    scores: ScoreRule = "released"


@dataclass
class Planner:
    """The roles of one arm. Without a world model the most frequent proposal is taken: the policy alone."""

    policy: Policy
    numbers: Numbers = Numbers()
    world_model: WorldModel | None = None
    extractor: Extractor | None = None
    summariser: Summariser | None = None
    value: Value | None = None

    def decide(self, seen: Seen) -> list[Decision]:
        """An action for each observation."""
        began = time.perf_counter()
        found = [self._proposed(replies) for replies in self.policy.propose(seen, self.numbers.candidates)]
        if self.world_model is not None:
            self._plan(seen, found)
        for decision in found:
            decision.seconds = (time.perf_counter() - began) / len(found)
        return found

    def _proposed(self, replies: Texts) -> Decision:
        """Count equal proposals and keep the most frequent ones, first seen first among equals."""
        counts = Counter(answer_of(reply) for reply in replies)
        kept = [Candidate(text, votes) for text, votes in counts.most_common(self.numbers.kept)]
        return Decision(kept[0].text, kept, Counter(propose=len(replies)))

    def _plan(self, seen: Seen, found: Sequence[Decision]) -> None:
        open_ones = [(one, decision) for one, decision in zip(seen, found, strict=True) if not self._stops(decision)]
        pairs = [(one, candidate) for one, decision in open_ones for candidate in decision.candidates]
        if pairs:
            self._value(pairs)
        for _, decision in open_ones:
            best = max(decision.candidates, key=lambda candidate: candidate.value or 0.0)  # the first of equals
            decision.text = best.text
            calls = len(decision.candidates)
            decision.calls.update(predict=calls, extract=calls, summarise=calls, value=calls * self.numbers.values)

    def _stops(self, decision: Decision) -> bool:
        """The stop shortcut (C.2, 5)."""
        text = stops_at_once([candidate.text for candidate in decision.candidates], self.numbers.stop_rule)
        if text is None:
            return False
        decision.text = text
        next(one for one in decision.candidates if one.text == text).value = STOP_VALUE
        return True

    def _value(self, pairs: Sequence[tuple[Observation, Candidate]]) -> None:
        """Predict, cut into sections, extract, summarise and value all candidates of a batch."""
        assert self.world_model and self.extractor and self.summariser and self.value
        seen, actions = [one for one, _ in pairs], [candidate.text for _, candidate in pairs]
        predictions = self.world_model.predict(seen, actions)
        changes = self.extractor.extract(seen, [split_answer(text) for text in predictions])
        states = self.summariser.summarise(seen, actions, changes)
        replies = self.value.judge(seen, actions, states, self.numbers.values)
        for (_, candidate), *texts, judged in zip(pairs, predictions, changes, states, replies, strict=True):
            candidate.prediction, candidate.changes, candidate.state = texts
            candidate.value = mean_score(judged, self.numbers.scores)


__all__ = [
    "Candidate",
    "Decision",
    "Extractor",
    "Numbers",
    "Planner",
    "Policy",
    "Summariser",
    "Value",
    "WorldModel",
]
