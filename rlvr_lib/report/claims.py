"""The paper's claims C1 to C13 with a verdict each: reproduced | not reproduced | inconclusive | not run (why).

The statements and the paper's figures stand in ``data/paper_results/claims.yaml``. A part of a claim is reproduced
when the 95 % interval of its paired difference excludes zero in the claimed direction, not reproduced when it excludes
zero in the other direction, and inconclusive otherwise. Intervals cover the choice of test cases, not the spread
between training seeds. A later modality registers its claims with ``@claim("C5")``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from rlvr_lib.artifacts import UserError, atomic_write_text
from rlvr_lib.evaluation.statistics import Interval
from rlvr_lib.report.scores import LABELS, PARTS, WEB_COLUMNS, WEB_LABELS, difference, load_scores
from rlvr_lib.report.tables import PAPER_RESULTS

REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN = "reproduced", "not reproduced", "inconclusive", "not run"
MIN_CASES = 30  # a percentile bootstrap over fewer cases promises more than it keeps
# Factor and digits of what is shown: percentage points, a score times 100 as in the tables, a score as it is.
UNITS: dict[str, tuple[float, int]] = {"points": (100, 1), "hundredths": (100, 3), "plain": (1, 3)}


@dataclass(frozen=True)
class Part:
    """One measured quantity of a claim. ``decides`` is False for numbers shown only for context."""

    name: str
    interval: Interval | None
    verdict: str
    paper: str = ""
    unit: Literal["points", "hundredths", "plain"] = "points"
    decides: bool = True

    @property
    def text(self) -> str:
        """The difference with its interval, in percentage points or as it is."""
        if self.interval is None:
            return "–"
        scale, digits = UNITS[self.unit]
        return self.interval.text(scale, digits, sign=True)


@dataclass(frozen=True)
class Claim:
    """A claim, what the paper says, and what the run says; ``why`` explains a verdict where it needs it."""

    id: str
    statement: str
    paper: str
    verdict: str
    parts: list[Part] = field(default_factory=list)
    why: str = ""

    @property
    def ours(self) -> str:
        """The deciding differences in one line."""
        return "; ".join(f"{part.name} {part.text}" for part in self.parts if part.decides)

    @property
    def verdict_text(self) -> str:
        """The verdict as printed, with the reason in brackets when nothing was run."""
        return f"{self.verdict} ({self.why})" if self.verdict == NOT_RUN else self.verdict


@dataclass(frozen=True)
class Evidence:
    """What claim functions may look at: the run folder of a profile and the bootstrap seed."""

    runs: Path
    seed: int

    @cached_property
    def text_games(self) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
        """Per-case scores of the evaluated text-game models, and why others are left out."""
        return load_scores(self.runs / "text_game_evaluation")

    @cached_property
    def web_pages(self) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
        """The same for web-page models."""
        return load_scores(self.runs / "web_page_evaluation", WEB_LABELS, WEB_COLUMNS)


Outcome = tuple[list[Part], str]  # parts, and why nothing was run (empty when it was)
REGISTRY: dict[str, Callable[[Evidence], Outcome]] = {}


def claim(name: str) -> Callable[[Callable[[Evidence], Outcome]], Callable[[Evidence], Outcome]]:
    """Register the function that gathers the evidence for claim ``name``."""

    def register(function: Callable[[Evidence], Outcome]) -> Callable[[Evidence], Outcome]:
        REGISTRY[name] = function
        return function

    return register


def verdict(interval: Interval | None, higher: bool = True) -> str:
    """Verdict of one part: does the interval exclude zero, and on the claimed side (``higher``: above zero)?"""
    if interval is None or interval.n < MIN_CASES or not interval.excludes_zero:
        return INCONCLUSIVE
    return REPRODUCED if (interval.low > 0) == higher else NOT_REPRODUCED


def combined(parts: list[Part]) -> str:
    """A claim of several parts: reproduced if every part is, not reproduced as soon as one is refuted."""
    verdicts = {part.verdict for part in parts if part.decides}
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return REPRODUCED if verdicts == {REPRODUCED} else INCONCLUSIVE


@claim("C1")
def binary_reward_beats_sft(evidence: Evidence) -> Outcome:
    """Overall, unchanged and changed accuracy of RLVR (binary) minus SFT; the rest is context."""
    parts, why = compare(evidence, "sft", "rlvr_binary", ("overall", "unchanged", "changed"))
    if parts:
        parts += context(evidence, "sft", "rlvr_binary", "corrected metric", metric="corrected")
        parts += context(evidence, "sft_greedy", "rlvr_binary_greedy", "both decoded greedily")
        parts += context(evidence, "sft", "rlvr_binary", "held-out games", split="held_out")
        parts += context(evidence, "sft", "rlvr_binary", "overall, whole layouts resampled", by_layout=True)
    return parts, why


@claim("C2")
def task_specific_beats_binary(evidence: Evidence) -> Outcome:
    """Overall accuracy with the task-specific reward minus the binary one; unchanged and changed for context."""
    parts, why = compare(evidence, "rlvr_binary", "rlvr_task_specific", ("overall",))
    for part in PARTS[:2] if parts else ():
        parts += context(evidence, "rlvr_binary", "rlvr_task_specific", part, part=part)
    return parts, why


def compare(evidence: Evidence, a: str, b: str, columns: tuple[str, ...]) -> Outcome:
    """Deciding parts: model ``b`` minus model ``a`` on the in-distribution cases of each column of Table 1."""
    scores, left_out = evidence.text_games
    missing = [model for model in (a, b) if model not in scores]
    if missing:
        return [], f"{LABELS[missing[0]]}: {left_out[missing[0]]}"
    a_cases, b_cases = (frame[frame["split"] == "in_distribution"] for frame in (scores[a], scores[b]))
    found = {column: difference(a_cases, b_cases, evidence.seed, column) for column in columns}
    return [Part(x, gap, verdict(gap)) for x, gap in found.items()], ""


def context(
    evidence: Evidence,
    a: str,
    b: str,
    name: str,
    split: str = "in_distribution",
    metric: str = "binary",
    part: str = "overall",
    by_layout: bool = False,
    modality: str = "text_games",
) -> list[Part]:
    """At most one part that is shown but does not decide; nothing when its scores do not exist."""
    scores, _ = getattr(evidence, modality)
    if a not in scores or b not in scores:
        return []
    a_cases, b_cases = (frame[frame["split"] == split] for frame in (scores[a], scores[b]))
    try:
        gap = difference(a_cases, b_cases, evidence.seed, part, metric, by_layout)
    except UserError:
        return []
    return [] if gap is None else [Part(name, gap, verdict(gap), decides=False)]


def evaluate_claims(runs: Path, seed: int) -> list[Claim]:
    """Every claim of the paper, judged on what exists under ``runs`` (= runs/<profile>); never fails for a gap."""
    # they register claims and import this module
    from rlvr_lib.report import analysis_claims, domain_claims, real2sim_claims, video_claims, web_claims  # noqa: F401

    statements = yaml.safe_load((PAPER_RESULTS / "claims.yaml").read_text(encoding="utf-8"))
    evidence = Evidence(runs, seed)
    return [_judge(name, entry, evidence) for name, entry in statements.items()]


def _judge(name: str, entry: dict, evidence: Evidence) -> Claim:
    known = {"id": name, "statement": entry["statement"], "paper": entry["paper"]}
    if name not in REGISTRY:
        return Claim(**known, verdict=NOT_RUN, why="nobody judges it here")
    try:
        parts, why = REGISTRY[name](evidence)
    except UserError as error:
        parts, why = [], str(error)
    parts = [replace(part, paper=entry.get("parts", {}).get(part.name, "")) for part in parts]
    if not parts:
        return Claim(**known, verdict=NOT_RUN, why=why)
    few = [part.name for part in parts if part.decides and (part.interval is None or part.interval.n < MIN_CASES)]
    note = f"fewer than {MIN_CASES} cases: {', '.join(few)}" if few else ""
    return Claim(**known, verdict=combined(parts), parts=parts, why=note)


def claims_frame(claims: list[Claim]) -> pd.DataFrame:
    """One line per part (part ``combined`` first), in the unit of the part: points are percentage points."""
    lines: list[dict[str, Any]] = []
    for one in claims:
        head: dict[str, Any] = {"claim": one.id, "statement": one.statement}
        note = "" if one.verdict == NOT_RUN else one.why
        counts = [part.interval.n for part in one.parts if part.decides and part.interval is not None]
        line = {**head, "part": "combined", "paper": one.paper, "ours": one.ours, "verdict": one.verdict_text}
        lines.append({**line, "n": max(counts, default=None), "note": note})
        for part in one.parts:
            line = {**head, "part": part.name, "paper": part.paper, "verdict": part.verdict, "unit": part.unit}
            line |= {"ours": part.text, "decides": part.decides}
            if part.interval is not None:
                gap, scale = part.interval, UNITS[part.unit][0]
                line |= {"mean": scale * gap.mean, "low": scale * gap.low, "high": scale * gap.high, "n": gap.n}
            lines.append(line)
    order = ["claim", "part", "paper", "ours", "mean", "low", "high", "n", "unit", "verdict", "decides", "note"]
    frame = pd.DataFrame(lines).reindex(columns=[*order, "statement"])
    return frame.assign(n=frame["n"].astype("Int64")).round(4)


def write_claims(claims: list[Claim], path: Path) -> Path:
    """Write claims.csv."""
    atomic_write_text(path, claims_frame(claims).to_csv(index=False))
    return path
