"""Claim C13: policies evaluated in the RLVR world model come closer to their real success rates (Figure 5).

Mean absolute error over all policy-task pairs, RLVR world model minus the other: negative where RLVR is closer. The
intervals are over starts, the same for everything that is compared, and over the judge's held-out episodes.
"""

from rlvr_lib.evaluation.real2sim_results import JUDGED, Real2SimResults
from rlvr_lib.evaluation.real2sim_stages import EVALUATION, MODELS
from rlvr_lib.report.claims import Evidence, Outcome, Part, claim, verdict

BASE, RLVR = MODELS["base"], MODELS["rlvr"]


@claim("C13")
def closer_to_the_real_rates(evidence: Evidence) -> Outcome:
    """RLVR against the hand-made simulator that was chosen beforehand, and against the base; the rest is context."""
    folder = evidence.runs / EVALUATION
    if not (folder / "episodes.csv").exists():
        return [], "no policy has been evaluated inside a world model yet (notebook 37)"
    results = Real2SimResults.read(folder, evidence.seed)
    missing = [name for name in (results.decides, BASE, RLVR) if name not in results.scores]
    if missing:
        return [], f"no episodes in: {missing[0]}"
    parts = [_part(results, results.decides, RLVR, True), _part(results, BASE, RLVR, True)]
    others = [name for name in results.evaluated if name not in (results.decides, BASE, RLVR, JUDGED)]
    parts += [_part(results, name, RLVR) for name in others]
    parts += [_part(results, results.decides, BASE), _part(results, JUDGED, RLVR)]
    parts += [_part(results, name, RLVR, corrected=False) for name in (results.decides, BASE)]
    return [*parts, *_pusht(evidence)], ""


def _pusht(evidence: Evidence) -> list[Part]:
    """The same two comparisons on PushT, which the paper did not make: they decide nothing."""
    folder = evidence.runs / "pusht" / EVALUATION
    if not (folder / "episodes.csv").exists():
        return []
    results = Real2SimResults.read(folder, evidence.seed)
    return [_part(results, name, RLVR, where="PushT: ") for name in (results.decides, BASE)]


def _part(
    results: Real2SimResults, a: str, b: str, decides: bool = False, corrected: bool = True, where: str = ""
) -> Part:
    gap = results.gain(a, b, corrected)
    name = f"{where}error of the {b} minus {a}{'' if corrected else ', judge uncorrected'}"
    return Part(name, gap, verdict(gap, higher=False), decides=decides)
