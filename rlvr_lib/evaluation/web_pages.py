"""Table 2's evaluation: answers of every model and reference row to the held-out transitions, scored per case.

Sampling and files are those of :mod:`rlvr_lib.evaluation.language`. The paper does not say whether Table 2 was sampled
or decoded greedily; the main rows are sampled at temperature 1 as its Table 1 was, greedy rows stand beside them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.evaluation.language import Answer, answer_all, evaluate_models, write_scores
from rlvr_lib.profile import Profile
from rlvr_lib.tokens.web_page_task import WebPageTask, perfect_answer
from rlvr_lib.worlds.web_actions import read_action
from rlvr_lib.worlds.web_pages import Changes
from rlvr_lib.worlds.web_rewards import Variant, score_changes
from rlvr_lib.worlds.web_transitions import WebTransition

ELEMENT, TYPED = "[#]", "\x00"  # stand for the element acted on and for the typed text


def score_cases(
    cases: Sequence[WebTransition], answers: Sequence[Answer], split: str, variant: Variant = "released"
) -> pd.DataFrame:
    """Per-case scores, one row per case: ``precision``, ``recall``, ``f1`` under ``variant``, and F1 under both."""
    rows = []
    for case, answer in zip(cases, answers, strict=True):
        scores = {name: score_changes(answer.text, perfect_answer(case), name) for name in ("released", "paper")}
        rows.append(
            {
                "case_id": case.case_id,
                "site": case.site,
                "split": split,
                "changed": bool(case.changes),
                "precision": scores[variant].precision,
                "recall": scores[variant].recall,
                "f1": scores[variant].f1,
                "f1_released": scores["released"].f1,
                "f1_paper": scores["paper"].f1,
                "exact": float(scores[variant].f1 == 1),
                "response_tokens": answer.tokens,
                "ended": answer.ended,
            }
        )
    return pd.DataFrame(rows)


def usual_changes(train: Sequence[WebTransition]) -> dict[str, str]:
    """For each kind of action the answer most often right in training, with the element and the text left open."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for item in train:
        action, text = read_action(item.action), perfect_answer(item)
        if action.text and action.kind == "type":
            text = text.replace(action.text, TYPED)
        counts[action.kind][text.replace(f"[{action.element}]", ELEMENT)] += 1
    return {kind: found.most_common(1)[0][0] for kind, found in counts.items()}


def usual_answer(usual: Mapping[str, str], case: WebTransition) -> str:
    """The usual change for this kind of action, written for the element acted on and the text typed."""
    action = read_action(case.action)
    text = usual.get(action.kind, Changes().text)
    return text.replace(ELEMENT, f"[{action.element}]").replace(TYPED, action.text)


def references(train: Sequence[WebTransition]) -> dict[str, Callable[[WebTransition], str]]:
    """Rows that need no model; none of them looks at the truth but the oracle."""
    return {
        "empty": lambda case: "",
        "no_change": lambda case: Changes().text,
        "usual_change": partial(usual_answer, usual_changes(train)),
        "oracle": perfect_answer,
    }


def evaluate(
    folder: Path,
    profile: Profile,
    task: WebPageTask,
    splits: dict[str, list],
    models: dict[str, Path],
    train: Sequence[WebTransition],
) -> dict[str, Any]:
    """Write ``folder``/<row>.csv (scores) and <row>.jsonl (responses) for every row; rows already there are kept.

    ``splits`` maps ``in_distribution`` (seen sites) and ``held_out`` to their cases; ``train`` tells the usual changes.
    """
    score = partial(score_cases, variant=profile.web_page.evaluation.variant)
    for name, write in references(train).items():
        answered = {
            split: (cases, [Answer(write(case), 0, True) for case in cases]) for split, cases in splits.items() if cases
        }
        write_scores(folder, name, answered, score)
    facts = evaluate_models(folder, profile, "web_page", task, splits, models, score)
    return {**facts, "variant": profile.web_page.evaluation.variant}


__all__ = ["Answer", "answer_all", "evaluate", "references", "score_cases", "usual_changes"]
