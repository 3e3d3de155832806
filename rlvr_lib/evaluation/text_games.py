"""Table 1's evaluation: answers of every model and reference row to the held-out cases, scored per case.

Sampling and files are those of :mod:`rlvr_lib.evaluation.language`; here is what a text-game answer is worth.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.evaluation.language import Answer, answer_all, evaluate_models, write_scores
from rlvr_lib.profile import Profile
from rlvr_lib.tokens.text_game_task import TextGameTask
from rlvr_lib.worlds.text_game_rewards import is_changed, no_change_answer, perfect_answer, score_answer
from rlvr_lib.worlds.transitions import TextTransition


def score_cases(cases: Sequence[TextTransition], answers: Sequence[Answer], split: str) -> pd.DataFrame:
    """Per-case scores: one row per case (columns as docs of ``report.scores``)."""
    rows = []
    for case, answer in zip(cases, answers, strict=True):
        score = score_answer(answer.text, case.current, case.target)
        rows.append(
            {
                "case_id": case.case_id,
                "game": case.game,
                "split": split,
                "changed": is_changed(case.current, case.target),
                "binary": float(score.binary),
                "task_specific": float(score.task_specific),
                "corrected": float(score.corrected),
                "parsed": bool(score.parsed),
                "response_tokens": answer.tokens,
                "ended": answer.ended,
            }
        )
    return pd.DataFrame(rows)


def reference_answers(cases: Sequence[TextTransition], kind: str) -> list[Answer]:
    """Answers without a model: ``always_no_change``, or the ``oracle`` that writes the perfect answer."""
    write: Callable[[TextTransition], str] = {
        "always_no_change": lambda case: no_change_answer(),
        "oracle": lambda case: perfect_answer(case.current, case.target),
    }[kind]
    return [Answer(write(case), 0, True) for case in cases]


def evaluate(
    folder: Path, profile: Profile, task: TextGameTask, splits: dict[str, list], models: dict[str, Path]
) -> dict[str, Any]:
    """Write ``folder``/<row>.csv (scores) and <row>.jsonl (responses) for every row; rows already there are kept.

    ``splits`` maps ``in_distribution`` and ``held_out`` to their cases. Returns facts with seconds per row.
    """
    for kind in ("always_no_change", "oracle"):
        answered = {name: (cases, reference_answers(cases, kind)) for name, cases in splits.items()}
        write_scores(folder, kind, answered, score_cases)
    return evaluate_models(folder, profile, "text_game", task, splits, models, score_cases)


__all__ = ["Answer", "answer_all", "evaluate", "reference_answers", "score_cases"]
