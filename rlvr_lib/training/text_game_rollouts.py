"""What text-game RLVR measures while it runs: accuracies of the rollouts and greedy validation (spec 0.3)."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rlvr_lib.training.language_rlvr import PREFIX
from rlvr_lib.worlds.text_game_rewards import is_changed, score_answer
from rlvr_lib.worlds.transitions import TextTransition

KINDS = ("binary", "task_specific")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def accuracies(scores: Sequence[Any], changed: Sequence[bool], prefix: str = "") -> dict[str, float]:
    """Mean binary accuracy overall, on changed and on unchanged cases, and the share of answers that parse."""
    parts = {
        f"{prefix}accuracy": [float(score.binary) for score in scores],
        f"{prefix}accuracy_changed": [float(s.binary) for s, on in zip(scores, changed, strict=True) if on],
        f"{prefix}accuracy_unchanged": [float(s.binary) for s, on in zip(scores, changed, strict=True) if not on],
        f"{prefix}parsed": [float(score.parsed) for score in scores],
    }
    return {name: mean for name, values in parts.items() if (mean := _mean(values)) is not None}


class _Reward:
    """The binary or the task-specific reward as TRL wants it, which also logs the rollouts' accuracies. Picklable."""

    def __init__(self, kind: str):
        if kind not in KINDS:
            raise ValueError(f"reward {kind!r}: choose one of {', '.join(KINDS)}")
        self.kind, self.__name__ = kind, f"{kind}_reward"

    def __call__(
        self,
        prompts: list,
        completions: list[str],
        current_state: list[str],
        gold_state: list[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        """One reward per completion (R in [0, 1], or [0, 1.3] for the task-specific one); states are JSON texts."""
        states = [(json.loads(now), json.loads(then)) for now, then in zip(current_state, gold_state, strict=True)]
        scores = [score_answer(text, *pair) for text, pair in zip(completions, states, strict=True)]
        if log_metric is not None:
            for name, value in accuracies(scores, [is_changed(*pair) for pair in states]).items():
                log_metric(name, value)
        return [float(getattr(score, self.kind)) for score in scores]


def reward_with_accuracy(kind: str) -> _Reward:
    """The reward function of a run; ``kind`` is ``binary`` or ``task_specific``."""
    return _Reward(kind)


def validation_accuracies(cases: Sequence[TextTransition], answers: Sequence[str]) -> dict[str, float]:
    """What greedy validation logs of its answers: ``validation_accuracy`` and its parts."""
    scores = [score_answer(text, case.current, case.target) for text, case in zip(answers, cases, strict=True)]
    return accuracies(scores, [is_changed(case.current, case.target) for case in cases], PREFIX)
