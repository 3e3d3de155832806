"""What the report can say about how a run was made: stages, seconds, memory, hashes, substitutions, provenance.

Reads ``runs/<profile>/*/done.json`` and ``metrics.jsonl`` as they are; a damaged file becomes a remark, not a
failure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import DONE, UserError, read_json, sha256_of
from rlvr_lib.profile_schema_domains import DOMAINS
from rlvr_lib.progress import MetricsLog
from rlvr_lib.report.scores import LABELS

MEMORY_UNITS = {"gib": 1.0, "gb": 0.93132, "mib": 1 / 1024, "mb": 0.93132e-3}


@dataclass(frozen=True)
class StageRecord:
    """One finished stage, or one whose record cannot be read (``problem``)."""

    name: str
    seconds: float = 0.0
    sha256: str = ""
    seed: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def peak_memory_gib(self) -> float | None:
        """Peak memory from the stage's facts (``peak_memory_gib`` or another unit), None when not recorded."""
        for unit, factor in MEMORY_UNITS.items():
            value = self.facts.get(f"peak_memory_{unit}")
            if isinstance(value, int | float):
                return value * factor
        return None

    @property
    def substitutions(self) -> list[str]:
        """What the stage used instead of what the paper uses."""
        listed = self.facts.get("substitutions", [])
        return [str(x) for x in (listed if isinstance(listed, list | tuple) else [listed])]


def stage_records(runs: Path) -> list[StageRecord]:
    """All stages with a ``done.json`` directly under ``runs`` (= runs/<profile>), in the order they were made."""
    paths = sorted(path for path in runs.glob(f"*/{DONE}") if not path.parent.name.endswith(".previous"))
    return sorted((_record(path) for path in paths), key=lambda one: (str(one.provenance.get("date", "")), one.name))


def domain_records(runs: Path) -> list[StageRecord]:
    """The stages of the other domains, which lie one folder deeper: ``pusht/video_data`` and so on.

    Their settings are named after the domain (``pusht.video.data``), so that none is taken for robot video's.
    """
    found = []
    for domain in DOMAINS:
        for record in stage_records(runs / domain):
            settings = {f"{domain}.{key}": value for key, value in record.settings.items()}
            found.append(replace(record, name=f"{domain}/{record.name}", settings=settings))
    return found


def _record(path: Path) -> StageRecord:
    name = path.parent.name
    try:
        data = read_json(path)
        parts: dict[str, Any] = {key: data.get(key) or {} for key in ("facts", "settings", "provenance", "outputs")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise TypeError("not a record")
        return StageRecord(name, float(data["seconds"]), str(data["sha256"]), data.get("seed"), **parts)
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        return StageRecord(name, problem=f"{name}/{DONE} cannot be read ({type(error).__name__}); run the stage again")


def edited_outputs(runs: Path, record: StageRecord) -> list[str]:
    """Remarks on outputs that no longer have the content that the stage wrote."""
    remarks = []
    for name, output in record.outputs.items():
        path = runs / record.name / name
        if isinstance(output, Mapping) and path.is_file() and sha256_of(path) != output.get("sha256"):
            remarks.append(f"{record.name}/{name} was edited after the stage wrote it; run the stage again")
    return remarks


def setting(records: Sequence[StageRecord], dotted: str) -> Any:
    """The value that a stage ran with, such as ``text_game.evaluation.temperature``; None if no stage recorded it."""
    for record in records:
        for section, tree in record.settings.items():
            if f"{dotted}.".startswith(f"{section}."):
                keys = dotted.removeprefix(section).strip(".").split(".")
                for key in filter(None, keys):
                    tree = tree.get(key) if isinstance(tree, Mapping) else None
                if tree is not None:
                    return tree
    return None


def metrics_logs(runs: Path, prefix: str) -> dict[str, list[dict[str, Any]]]:
    """Short name (``rlvr_binary``, ``sft_live``) -> records of every non-empty ``metrics.jsonl`` of the stages whose
    name begins with ``prefix``; those of checkpoints and earlier versions are left out."""
    logs = {}
    for path in sorted(runs.glob(f"{prefix}*/**/metrics.jsonl")):
        folder = path.parent.relative_to(runs)
        if folder.parts[0].endswith(".previous") or "checkpoints" in folder.parts:
            continue
        if records := MetricsLog(path).read():
            logs["_".join(folder.parts).removeprefix(prefix).strip("_") or prefix] = records
    return logs


def log_label(name: str, labels: Mapping[str, str] = LABELS) -> str:
    """A log's name as a reader knows it: the label of that row in the tables."""
    plain = name.removesuffix("_live")
    return labels.get(plain, plain.replace("_", " ")) + (", short live training" if plain != name else "")


def samples_text(stage: StageRecord) -> str:
    """How the segments of an evaluation of video models were sampled; the base alone (notebook 32) once each."""
    found = None if stage.name == "video_base_evaluation" else setting([stage], "video.evaluation.samples")
    counts = found if isinstance(found, Mapping) else {}
    robot = "video" in stage.name  # a domain has single-step models only
    shown = {kind.replace("_", "-"): count for kind, count in counts.items() if robot or kind == "single_step"}
    told = ", ".join(f"{count} ({kind})" for kind, count in shown.items())
    count = f"Samples per segment, their scores averaged: {told}" if told else "One sample per segment"
    return (
        f"{count}: temperature {setting([stage], 'video.evaluation.temperature')}, top-k "
        f"{setting([stage], 'video.evaluation.top_k')}; rows that name another temperature: one sample."
    )


def provenance_text(provenance: Mapping[str, Any]) -> str:
    """One line: commit, date, hardware, versions; unknown parts are left out."""
    commit = str(provenance.get("commit") or "")[:12]
    parts = [f"commit {commit}{' with uncommitted changes' if provenance.get('dirty') else ''}"] if commit else []
    parts += [f"made {provenance['date']}"] if provenance.get("date") else []
    parts += [hardware_text(provenance["hardware"])] if isinstance(provenance.get("hardware"), Mapping) else []
    parts += [f"{provenance['threads']} thread(s)"] if provenance.get("threads") else []
    versions = provenance.get("versions")
    if isinstance(versions, Mapping):
        parts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return "; ".join(parts)


def hardware_text(hardware: Mapping[str, Any]) -> str:
    """``<cpu>, 2 cores, 8 GiB, no GPU``."""
    gpus = hardware.get("gpus") or []
    return f"{hardware.get('cpu')}, {hardware.get('cores')} cores, {hardware.get('memory_gib')} GiB, " + (
        ", ".join(map(str, gpus)) if gpus else "no GPU"
    )
