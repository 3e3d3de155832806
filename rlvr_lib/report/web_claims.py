"""The claims about web pages (paper, Table 2): C3, RLVR raises F1, precision most; C4, the agent succeeds more often.

Paired over the same transitions and the same task instances.
"""

from dataclasses import replace

import pandas as pd

from rlvr_lib.evaluation.statistics import paired_difference
from rlvr_lib.report.agent_tables import ARM_LABELS, STAGE, difference, load_arms
from rlvr_lib.report.claims import Evidence, Outcome, Part, claim, context, verdict
from rlvr_lib.report.scores import WEB_LABELS

NAMES = {"f1": "F1", "precision": "precision", "recall": "recall"}


@claim("C3")
def f1_rises_precision_most(evidence: Evidence) -> Outcome:
    """F1 of RLVR minus SFT on seen sites, and that precision gains more than recall; the rest is context."""
    scores, left_out = evidence.web_pages
    missing = [model for model in ("sft", "rlvr") if model not in scores]
    if missing:
        return [], f"{WEB_LABELS[missing[0]]}: {left_out[missing[0]]}"
    gains = {metric: _gain(evidence, name, metric) for metric, name in NAMES.items()}
    parts = [replace(part, decides=True) for part in gains["f1"]]
    parts += [_more_precision(scores["sft"], scores["rlvr"], evidence.seed)] if parts else []
    parts += gains["precision"] + gains["recall"]
    parts += _gain(evidence, "F1, both decoded greedily", "f1", suffix="_greedy")
    parts += _gain(evidence, "F1, held-out site and tasks", "f1", split="held_out")
    parts += _gain(evidence, "F1, whole episodes resampled", "f1", by_layout=True)
    return parts, "" if parts else "SFT and RLVR were scored on different cases"


def _gain(evidence: Evidence, name: str, metric: str, suffix: str = "", **how: str | bool) -> list[Part]:
    return context(evidence, f"sft{suffix}", f"rlvr{suffix}", name, metric=metric, modality="web_pages", **how)


def _more_precision(sft: pd.DataFrame, rlvr: pd.DataFrame, seed: int) -> Part:
    """Gain in precision minus gain in recall, paired over cases."""
    seen = (frame[frame["split"] == "in_distribution"] for frame in (sft, rlvr))
    before, after = (frame["precision"] - frame["recall"] for frame in seen)
    gap = paired_difference(before, after, seed)
    return Part("precision gain minus recall gain", gap, verdict(gap))


@claim("C4")
def the_agent_succeeds_more_often(evidence: Evidence) -> Outcome:
    """Success of planning with the RLVR world model minus the SFT one; the policy alone and the oracle are context."""
    scores, left_out = load_arms(evidence.runs / STAGE)
    missing = [arm for arm in ("sft", "rlvr") if arm not in scores]
    if missing:
        return [], left_out[missing[0]]
    gap = difference(scores, "sft", "rlvr", evidence.seed)
    if gap is None:
        return [], "the two arms ran different instances"
    parts = [Part("success", gap, verdict(gap))]
    for a, b in (("policy_vote", "rlvr"), ("policy_vote", "sft"), ("policy_vote", "oracle"), ("rlvr", "oracle")):
        other = difference(scores, a, b, evidence.seed)
        if other is not None:
            parts.append(Part(f"{ARM_LABELS[b]}, minus {ARM_LABELS[a]}", other, verdict(other), decides=False))
    return parts, ""
