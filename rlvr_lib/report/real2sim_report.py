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

FIGURE, PUSHT = "figure5_real2sim", "pusht"
CAPTION = (
    "Figure 5: success in simulators and world models against real success, a point per policy; dotted: ideal. "
    "Judged rates are corrected for the judge's errors, or raw where that is not possible. Bars: 95 % intervals."
)


def tables(report: "Report", runs: Path) -> list[Table]:
    """The tables beside Figure 5; a reason among what is missing otherwise."""
    results, pusht = (_results(report, folder, say_why=True) for folder in (runs, runs / PUSHT))
    found = [] if results is None else [figure5_table(results, caption(report))]
    return found if pusht is None else [*found, figure5_table(pusht, caption(report, f"{PUSHT}."), pusht=True)]


def pictures(report: "Report", runs: Path, folder: Path) -> list[tuple[Path, str]]:
    """Figure 5 as (file, caption)."""
    results = [one for one in (_results(report, runs), _results(report, runs / PUSHT)) if one is not None]
    if not results:
        return []
    figure5(*results, path=folder / FIGURE)
    return [(folder / f"{FIGURE}.png", CAPTION)]


def _results(report: "Report", runs: Path, say_why: bool = False) -> Real2SimResults | None:
    folder, name = runs / EVALUATION, "Figure 5, PushT" if runs.name == PUSHT else "Figure 5"
    if not (folder / "episodes.csv").exists():
        why = f"{name}: no policy has been evaluated inside a world model yet (notebook 37)"
    else:
        try:
            return Real2SimResults.read(folder, report.seed)
        except UserError as error:
            why = f"{name}: {error}"
    report.missing += [why] if say_why else []
    return None


CLONED = (
    "Substitutions: the real robot is the Meta-World simulator in which the episodes were recorded, a hand-made "
    "simulator is the same one with wrong physics ({wrong}), RT-1 is a set of small networks cloned from scripted "
    "experts."
)
TABLE_CLONED = (
    "Not in the paper. The real simulator is gym-pusht, as episodes were recorded; a hand-made one is the same with "
    "wrong physics ({wrong}; damping of the agent's controller); policies are networks cloned from recorded ones. "
    "Success: the T's middle comes within 40 of 512 units of the mark's; the T may be turned. World models are "
    "single-step ones: the newest frames are the prompt, and nothing is cut back."
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


def caption(report: "Report", of: str = "") -> str:
    """What stands for what, how dreams were sampled, what the intervals cover, provenance; ``of``: a domain's."""
    names = ("temperature", "top_k", "repetition_penalty", "rounds", "starts")
    found = {name: setting(report.stages, f"{of}video.real2sim.{name}") for name in names}
    wanted = f"{of.rstrip('.')}/{EVALUATION}" if of else EVALUATION
    stage = next((stage for stage in report.stages if stage.name == wanted), StageRecord(wanted))
    words = [
        *report.warnings,
        f"Profile {report.profile}, seed {report.seed if stage.seed is None else stage.seed}.",
        _substitutions(report, of),
        "Dreams: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items()),
        "(paper: 1.0, 100, 1.2, at most 16, train).",
        METHOD,
        provenance_text(stage.provenance) or "Provenance not recorded.",
    ]
    return " ".join(words)


def _substitutions(report: "Report", of: str) -> str:
    if setting(report.stages, f"{of}video.real2sim.policy_kind") == "rt1":
        return RT1
    wrong = [
        f"{one['name']}: way per action x {one['action_scale']}, damping x {one['damping']}"
        for one in setting(report.stages, f"{of}video.real2sim.hand_made") or []
    ]
    return (TABLE_CLONED if of else CLONED).format(wrong="; ".join(wrong) or "not recorded")
