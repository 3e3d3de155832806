"""Real2Sim in the report: its table and Figure 5, or why they are missing."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.real2sim_results import Real2SimResults
from rlvr_lib.evaluation.real2sim_stages import EVALUATION
from rlvr_lib.report.formats import Table
from rlvr_lib.report.real2sim_figures import figure5
from rlvr_lib.report.real2sim_tables import figure5_table
from rlvr_lib.report.stages import StageRecord, provenance_text, setting

if TYPE_CHECKING:
    from rlvr_lib.report.build import Report

FIGURE = "figure5_real2sim"
CAPTION = (
    "Figure 5: success in simulators and world models against real success, a point per policy; dotted: ideal. "
    "Judged rates are corrected for the judge's errors, or raw where that is not possible. Bars: 95 % intervals."
)


def tables(report: "Report", runs: Path) -> list[Table]:
    """The table beside Figure 5; a reason among what is missing otherwise."""
    results = _results(report, runs, say_why=True)
    return [] if results is None else [figure5_table(results, caption(report))]


def pictures(report: "Report", runs: Path, folder: Path) -> list[tuple[Path, str]]:
    """Figure 5 as (file, caption)."""
    results = _results(report, runs)
    if results is None:
        return []
    figure5(results, folder / FIGURE)
    return [(folder / f"{FIGURE}.png", CAPTION)]


def _results(report: "Report", runs: Path, say_why: bool = False) -> Real2SimResults | None:
    folder, why = runs / EVALUATION, ""
    if not (folder / "episodes.csv").exists():
        why = "Figure 5: no policy has been evaluated inside a world model yet (notebook 37)"
    else:
        try:
            return Real2SimResults.read(folder, report.seed)
        except UserError as error:
            why = f"Figure 5: {error}"
    report.missing += [why] if say_why else []
    return None


CLONED = (
    "Substitutions: the real robot is the Meta-World simulator in which the episodes were recorded, a hand-made "
    "simulator is the same one with wrong physics ({wrong}), RT-1 is a set of small networks cloned from scripted "
    "experts."
)
RT1 = (
    "Real rates of RT-1 (27 trials a cell) and SIMPLER's simulated ones are averages that SimplerEnv publishes; "
    "nothing was tried on a robot or simulated here. World models' rates are means over the commands."
)
METHOD = (
    "Every policy begins at the same recorded first frames everywhere. In simulators success is the simulator's; "
    "in world models, and in the row on real pictures, a judge trained on real frames reads it from pictures, "
    "never from a simulator's state. Undecided episodes count half. Judged rates are corrected for the judge's "
    "errors on held-out real episodes (Rogan and Gladen), raw ones stand beside them; that the judge errs alike "
    "on predicted frames is an assumption. An action that is no number is replaced by standing still, a sampled "
    "id that is no code of a frame by the last code; both are counted and stay in. All tasks: all pairs of policy "
    "and task together. MMRV is SIMPLER's, with strict comparisons; r has 1e-8 in its denominator. Brackets: 95 % "
    "bootstrap over starts and over the judge's held-out episodes, training seeds not included. A dash: not "
    "defined."
)


def caption(report: "Report") -> str:
    """What stands for what, how dreams were sampled, what the intervals cover, provenance."""
    names = ("temperature", "top_k", "repetition_penalty", "rounds", "starts")
    found = {name: setting(report.stages, f"video.real2sim.{name}") for name in names}
    stage = next((stage for stage in report.stages if stage.name == EVALUATION), StageRecord(EVALUATION))
    words = [
        *report.warnings,
        f"Profile {report.profile}, seed {report.seed if stage.seed is None else stage.seed}.",
        _substitutions(report),
        "Dreams: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items()),
        "(paper: 1.0, 100, 1.2, at most 16, train).",
        METHOD,
        provenance_text(stage.provenance) or "Provenance not recorded.",
    ]
    return " ".join(words)


def _substitutions(report: "Report") -> str:
    if setting(report.stages, "video.real2sim.policy_kind") == "rt1":
        return RT1
    wrong = [
        f"{one['name']}: way per action x {one['action_scale']}, damping x {one['damping']}"
        for one in setting(report.stages, "video.real2sim.hand_made") or []
    ]
    return CLONED.format(wrong="; ".join(wrong) or "not recorded")
