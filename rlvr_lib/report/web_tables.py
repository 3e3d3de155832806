"""Table 2 (web pages) with intervals beside the paper's numbers, seen and held-out sites apart, and the same by site.

Built from per-case score files only. Precision, recall and F1 are macro means over transitions in percent; the column
"F1" follows the option ``web_page.evaluation.variant``, both definitions of the edge case (D.16) have columns too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rlvr_lib.report.formats import EMPTY, Table, interval_column
from rlvr_lib.report.scores import WEB_LABELS, WEB_METRICS, WEB_SPLITS, accuracy
from rlvr_lib.report.tables import cells, difference_or_none, evaluated, paper_table, split_blocks

VARIANTS = {"f1_released": "F1, released (both sides empty: 0)", "f1_paper": "F1, paper's text (both sides empty: 1)"}
PAPER_COLUMNS = (*WEB_METRICS, "agent_success")
Scores = Mapping[str, pd.DataFrame]


def table2(scores: Scores, seed: int, left_out: Mapping[str, str], caption: str) -> Table:
    """Table 2: every evaluated model, seen sites and held-out ones, beside the paper's four numbers."""
    paper = paper_table("table2_web_pages")
    data = pd.DataFrame(
        [_row(scores, split, model, seed, paper) for split, model in evaluated(scores, WEB_SPLITS, WEB_LABELS)]
    )
    blocks = split_blocks(data, WEB_SPLITS, _printed)
    title = "Table 2. Web pages: precision, recall and F1 of the predicted changes (%), 95 % intervals"
    return Table("table2_web_pages", title, data, blocks, caption, dict(left_out))


def _row(scores: Scores, split: str, model: str, seed: int, paper: pd.DataFrame) -> dict[str, Any]:
    frame = scores[model][scores[model]["split"] == split]
    row: dict[str, Any] = {"split": split, "model": model, "label": WEB_LABELS[model], "n": len(frame)}
    for metric in (*WEB_METRICS, *VARIANTS, "exact"):
        row |= cells(metric, accuracy(frame, metric, seed))
    if "sft" in scores and model != "sft":
        sft = scores["sft"][scores["sft"]["split"] == split]
        for metric in WEB_METRICS:
            row |= cells(f"difference_to_sft_{metric}", difference_or_none(sft, frame, seed, metric=metric))
    if split != "in_distribution":
        return row
    known = model in paper.index
    return row | {f"paper_{name}": paper.loc[model, name] if known else np.nan for name in PAPER_COLUMNS}


def _printed(data: pd.DataFrame, with_paper: bool) -> pd.DataFrame:
    """The block as people read it: one cell per number with its interval."""
    columns: dict[str, Any] = {"model": data["label"]}
    columns |= {name if name != "f1" else "F1": interval_column(data, name) for name in WEB_METRICS}
    columns["F1, minus SFT (paired)"] = interval_column(data, "difference_to_sft_f1", sign=True)
    columns |= {title: [f"{value:.1f}" for value in data[name]] for name, title in VARIANTS.items()}
    columns["perfect"] = [f"{value:.1f}" for value in data["exact"]]
    columns["n"] = data["n"]
    for name in PAPER_COLUMNS if with_paper else ():
        title = f"paper: {name.replace('_', ' ').replace('f1', 'F1')}"
        columns[title] = [EMPTY if pd.isna(x) else f"{x:.2f}" for x in data[f"paper_{name}"]]
    return pd.DataFrame(columns).reset_index(drop=True)


def by_site(scores: Scores, seed: int, caption: str) -> Table:
    """F1 by site: the CSV holds intervals for every site, model and metric, the printed table F1."""
    rows = []
    for model, frame in scores.items():
        for (split, site), found in frame.groupby(["split", "site"], sort=True):
            row: dict[str, Any] = {"split": split, "site": site, "model": model, "n": len(found)}
            for metric in WEB_METRICS:
                row |= cells(metric, accuracy(found, metric, seed))
            rows.append(row)
    data = pd.DataFrame(rows)
    blocks = {t: _site_block(data[data["split"] == s]) for s, t in WEB_SPLITS.items() if (data["split"] == s).any()}
    return Table("table2_by_site", "Table 2 by site: F1 (%)", data, blocks, caption, {})


def _site_block(data: pd.DataFrame) -> pd.DataFrame:
    wide = data.assign(model=data["model"].map(WEB_LABELS)).pivot(index="site", columns="model", values="f1").round(1)
    order = [label for label in WEB_LABELS.values() if label in wide]
    counts = data.groupby("site")["n"].max().rename("n")
    return pd.concat([counts, wide[order]], axis=1).reset_index()
