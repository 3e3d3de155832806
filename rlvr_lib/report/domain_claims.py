"""Claim C12: the gains carry over to PushT, rope and granular, with a verdict per domain."""

from rlvr_lib.profile_schema_domains import DOMAINS
from rlvr_lib.report.claims import INCONCLUSIVE, Evidence, Outcome, Part, claim
from rlvr_lib.report.domain_tables import TITLES, domain_scores
from rlvr_lib.report.video_claims import score_part
from rlvr_lib.report.video_tables import perceptual_column

REPORTED = {"pusht": ("ssim",), "rope": (), "granular": ("ssim",)}  # beside LPIPS, in the paper's Table 4


@claim("C12")
def gains_carry_over(evidence: Evidence) -> Outcome:
    """RLVR minus base in every domain; what the paper tabulates decides (LPIPS; SSIM but for rope), the rest beside.

    A domain that has not been evaluated leaves the claim open.
    """
    scores = {name: frame for name, frame in domain_scores(evidence.runs).items() if _complete(frame)}
    if not scores:
        return [], "no RLVR model of another domain has been evaluated yet"
    parts: list[Part] = []
    for domain in DOMAINS:
        if domain not in scores:
            parts.append(Part(f"{TITLES[domain]}: not evaluated", None, INCONCLUSIVE))
            continue
        frame = scores[domain]
        metric = perceptual_column(frame)
        columns = {metric: metric, "ssim": "SSIM", "mse": "MSE", "mae": "MAE", "psnr": "PSNR"}
        for column, name in columns.items():
            decides = column == metric or column in REPORTED[domain]
            label = f"{TITLES[domain]}: {name}"
            parts.append(score_part(frame, column, "base", "RLVR", evidence.seed, label, decides))
        label = f"{TITLES[domain]}: both decoded greedily"
        parts.append(score_part(frame, metric, "base, greedy", "RLVR, greedy", evidence.seed, label, decides=False))
    return parts, ""


def _complete(frame) -> bool:
    return {"base", "RLVR"} <= set(frame["model"])
