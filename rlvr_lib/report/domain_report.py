"""Other domains in the report: Table 4 as far as it has been evaluated, with the words about how."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_lib.evaluation.domains import evaluation_name
from rlvr_lib.report.domain_tables import ABSENT, TITLES, domain_scores, table4, updates_text
from rlvr_lib.report.formats import Table
from rlvr_lib.report.stages import StageRecord, provenance_text, samples_text
from rlvr_lib.training.released import VIDEO_STAGES

if TYPE_CHECKING:
    from rlvr_lib.report.build import Report


def tables(report: "Report", runs: Path) -> list[Table]:
    """Table 4; domains without scores go to what is missing."""
    scores = domain_scores(runs)
    report.missing += [
        f"Table 4: {title} has not been evaluated yet" for domain, title in TITLES.items() if domain not in scores
    ]
    return [table4(scores, report.seed, _caption(report, list(scores)))] if scores else []


def _caption(report: "Report", domains: list[str]) -> str:
    records = {record.name: record for record in report.stages}
    stage = records.get(evaluation_name(domains[0]), StageRecord("other domains"))
    steps = {domain: _kept_steps(records.get(f"{domain}/{VIDEO_STAGES['single_step']}")) for domain in domains}
    words = [
        *report.warnings,
        f"Profile {report.profile}, seed {report.seed if stage.seed is None else stage.seed}.",
        *(text for domain in domains for text in _substitutions(records.get(f"{domain}/video_data"))),
        updates_text(steps),
        samples_text(stage),
        ABSENT,
        "Brackets: 95 % percentile bootstrap over segments. The paper's LPIPS is LPIPS-VGG on DINO-WM's files; not "
        "comparable.",
        provenance_text(stage.provenance) or "Provenance of the evaluation not recorded.",
    ]
    return " ".join(words)


def _kept_steps(stage: StageRecord | None) -> int | None:
    """Likelihood updates behind a base model; released weights carry those of their own training."""
    facts = dict(stage.facts) if stage else {}
    facts = facts.get("manifest", {}).get("facts", facts)
    return facts.get("kept_step") or facts.get("steps")


def _substitutions(stage: StageRecord | None) -> list[str]:
    return [f"Substituted: {text}." for text in stage.substitutions] if stage else []


__all__ = ["tables"]
