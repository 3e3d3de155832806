"""Table 4 (PushT, rope, granular): the metrics of Table 3 per domain, beside the paper's and the numbers it quotes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.evaluation.domains import KIND, evaluation_name
from rlvr_lib.profile import Profile
from rlvr_lib.profile_schema_domains import DOMAINS
from rlvr_lib.report.formats import Table
from rlvr_lib.report.tables import paper_table
from rlvr_lib.report.video_tables import metric_row, printed_rows, read_video_scores

TITLES = {"pusht": "PushT", "rope": "Rope", "granular": "Granular"}
QUOTED = ("dino_wm", "avdc")  # rows that the paper quotes from elsewhere
BASELINES_TEXT = (
    "Feature world model and video diffusion: small baselines of ours in the spirit of DINO-WM and AVDC, trained on "
    "this run's episodes with the base's history and actions; the rows of DINO-WM and AVDC themselves are the paper's "
    "quotations. The feature model draws nothing: one prediction per segment."
)


def domain_scores(runs: Path) -> dict[str, pd.DataFrame]:
    """Per-segment scores of the domains that have been evaluated, in the paper's order."""
    paths = {domain: runs / evaluation_name(domain) / f"{KIND}.csv" for domain in DOMAINS}
    return {domain: read_video_scores(path) for domain, path in paths.items() if path.exists()}


def paper_domains() -> pd.DataFrame:
    """The paper's Table 4, indexed by (domain, model): columns ``label``, ``lpips`` and ``ssim`` (times 100)."""
    wide = paper_table("table4_other_domains")
    rows = []
    for domain in DOMAINS:
        for model, cells in wide.iterrows():
            own = {key: cells.get(f"{domain}_{key}") for key in ("lpips", "ssim")}
            rows.append({"task": domain, "model": model, "label": cells["label"], **own})
    return pd.DataFrame(rows).set_index(["task", "model"])


def table4(scores: Mapping[str, pd.DataFrame], seed: int, caption: str) -> Table:
    """``scores`` maps a domain to per-segment rows. Rows that only the paper has hold its numbers in its columns;
    our baselines have none there."""
    paper = paper_domains()
    rows = []
    for domain, frame in scores.items():
        rows += [metric_row(domain, name, part, seed, paper) for name, part in frame.groupby("model", sort=False)]
        quoted = paper.loc[domain].loc[list(QUOTED)]
        rows += [
            {"task": domain, "model": cells["label"], "paper_ssim": cells["ssim"], "paper_lpips": cells["lpips"]}
            for _, cells in quoted.iterrows()
        ]
    data = pd.DataFrame(rows)
    blocks = {TITLES[domain]: printed_rows(data[data["task"] == domain]) for domain in scores}
    title = (
        "Table 4. Other domains, one frame ahead: base, RLVR, two baselines and rows that need no model "
        "(MSE, MAE, SSIM, LPIPS x 100), 95 % intervals"
    )
    return Table("table4_other_domains", title, data, blocks, caption, {})


def start_note(profile: Profile) -> str:
    """Said aloud where models are trained for a moment instead of being loaded."""
    shared = profile.domains
    starts = {shared.frame_tokenizer.start, shared.single_step.start}
    if "scratch" not in starts:
        return "Tokenizers and base models: the released weights."
    return (
        f"TRAINED HERE FROM NOTHING, no released weights: {shared.frame_tokenizer.iterations} tokenizer iterations and "
        f"{shared.single_step.steps} likelihood updates per domain (the paper's robot video: 600 000 and 990 000). "
        "Compare the rows with each other, not with the paper's."
    )


def budget_text(domain: str, trainings: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """What each model of a domain was trained with: ``trainings`` are names with what is known of steps and so on."""
    units = {"updates": "updates", "clips": "clips", "parameters": "parameters", "seconds": "s"}
    told = []
    for name, numbers in trainings:
        known = [f"{round(numbers[key]):,} {unit}".replace(",", " ") for key, unit in units.items() if numbers.get(key)]
        told.append(f"{name} {', '.join(known) or 'not recorded'}{numbers.get('note', '')}")
    return f"{TITLES[domain]}: {'; '.join(told)}." if told else ""


__all__ = ["BASELINES_TEXT", "TITLES", "budget_text", "domain_scores", "paper_domains", "start_note", "table4"]
