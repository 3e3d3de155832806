"""Other domains in the report: Table 4 as far as it has been evaluated, with the words about how."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr_lib.evaluation.domains import evaluation_name
from rlvr_lib.report.domain_tables import BASELINES_TEXT, TITLES, budget_text, domain_scores, table4
from rlvr_lib.report.formats import Table
from rlvr_lib.report.stages import StageRecord, provenance_text, samples_text
from rlvr_lib.training.baselines import BASELINES
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
    words = [
        *report.warnings,
        f"Profile {report.profile}, seed {report.seed if stage.seed is None else stage.seed}.",
        *(text for domain in domains for text in _substitutions(records.get(f"{domain}/video_data"))),
        samples_text(stage),
        BASELINES_TEXT,
        "Trained with:",
        *(_budget(domain, records) for domain in domains),
        "Brackets: 95 % percentile bootstrap over segments. The paper's LPIPS is LPIPS-VGG on DINO-WM's files; not "
        "comparable.",
        provenance_text(stage.provenance) or "Provenance of the evaluation not recorded.",
    ]
    return " ".join(words)


def _budget(domain: str, records: Mapping[str, StageRecord]) -> str:
    """The base's training beside the baselines': not tuned to one budget, so it is said."""
    base = f"{domain}/{VIDEO_STAGES['single_step']}"
    trainings = [("base", _base_numbers(records.get(base), f"{domain}.video.single_step"))]
    for kind in BASELINES:
        if (record := records.get(f"{domain}/baseline_{kind}")) and not record.problem:
            facts = record.facts
            numbers = {"clips": facts.get("clips_seen"), "seconds": facts.get("trained_seconds", record.seconds)}
            trainings.append((facts.get("name", kind), {**facts, **numbers, **_note(facts.get("manifest"))}))
    return budget_text(domain, trainings)


def _base_numbers(stage: StageRecord | None, section: str) -> dict[str, Any]:
    """Updates, clips, parameters, seconds of a base model; released weights carry those of their own training."""
    if stage is None:
        return {}
    manifest = stage.facts.get("manifest", {})
    facts, settings = manifest.get("facts", stage.facts), manifest.get("settings", stage.settings)
    batch = settings.get("video.single_step" if manifest else section, {}).get("batch", 0)
    steps = facts.get("steps", 0)
    numbers = {"updates": steps, "clips": steps * batch, "parameters": facts.get("parameters")}
    numbers["seconds"] = manifest.get("seconds", stage.seconds)
    return {**numbers, **_note(manifest)}


def _note(manifest: Mapping[str, Any] | None) -> dict[str, str]:
    if not manifest:
        return {}
    return {"note": f" (released: trained on {manifest.get('episodes', 'other')} episodes of its own)"}


def _substitutions(stage: StageRecord | None) -> list[str]:
    return [f"Substituted: {text}." for text in stage.substitutions] if stage else []


__all__ = ["tables"]
