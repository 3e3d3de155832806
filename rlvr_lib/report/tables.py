"""Table 1 (text games) with intervals beside the paper's numbers, overall and by game.

Built from per-case score files only, so that anybody can recompute every number without a model. All values are
percentages. The released metric is the paper's exact-match accuracy; the corrected one stands beside it because the
released metric forgives forgotten removals and can never credit an added object. Beyond the paper: intervals, paired
differences to SFT, reference rows, and a block for held-out games, which the paper does not have.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.statistics import Interval
from rlvr_lib.report.formats import EMPTY, Table, interval_column
from rlvr_lib.report.scores import EXTRA_COLUMNS, LABELS, PARTS, SPLITS, accuracy, difference, select

PAPER_RESULTS = Path(__file__).resolve().parents[2] / "data" / "paper_results"


def paper_table(name: str) -> pd.DataFrame:
    """One of the paper's tables from data/paper_results, indexed by its ``model`` column."""
    return pd.read_csv(PAPER_RESULTS / f"{name}.csv").set_index("model")


def table1(scores: Mapping[str, pd.DataFrame], seed: int, left_out: Mapping[str, str], caption: str) -> Table:
    """Table 1: every evaluated model, in-distribution and held-out, beside the paper's three numbers."""
    paper = paper_table("table1_text_games")
    rows = [_row(scores, split, model, seed, paper) for split, model in evaluated(scores, SPLITS, LABELS)]
    rows += [
        {"split": "in_distribution", "model": model, "label": paper.loc[model, "label"], **_paper_cells(paper, model)}
        for model in paper.index
        if model not in LABELS or model not in scores
    ]
    data = pd.DataFrame(rows)
    blocks = split_blocks(data, SPLITS, _printed)
    title = "Table 1. Text games: exact-match accuracy of the predicted next state (%), 95 % intervals"
    return Table("table1_text_games", title, data, blocks, caption, dict(left_out))


def evaluated(
    scores: Mapping[str, pd.DataFrame], splits: Iterable[str], labels: Iterable[str]
) -> list[tuple[str, str]]:
    """(split, model) of what has cases, in the order of ``splits`` and ``labels``."""
    return [
        (split, model)
        for split in splits
        for model in labels
        if model in scores and (scores[model]["split"] == split).any()
    ]


def split_blocks(
    data: pd.DataFrame, splits: Mapping[str, str], printed: Callable[[pd.DataFrame, bool], pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """The printed block of each split that has rows, by its title; the paper's numbers stand by the first split."""
    return {
        title: printed(data[data["split"] == split], split == "in_distribution")
        for split, title in splits.items()
        if (data["split"] == split).any()
    }


def _row(scores: Mapping[str, pd.DataFrame], split: str, model: str, seed: int, paper: pd.DataFrame) -> dict[str, Any]:
    frame = scores[model][scores[model]["split"] == split]
    row: dict[str, Any] = {"split": split, "model": model, "label": LABELS[model]}
    for part in PARTS:
        row |= cells(part, accuracy(select(frame, part), "binary", seed))
        row[f"n_{part}"] = len(select(frame, part))
    row |= cells("corrected_overall", accuracy(frame, "corrected", seed))
    row |= cells("task_specific_reward", accuracy(frame, "task_specific", seed), scale=1)
    if "sft" in scores and model != "sft":
        sft = scores["sft"][scores["sft"]["split"] == split]
        for part in PARTS:
            row |= cells(f"difference_to_sft_{part}", difference_or_none(sft, frame, seed, part))
    row |= {name: round(float(frame[name].mean()), 4) for name in EXTRA_COLUMNS if name in frame}
    return row | (_paper_cells(paper, model) if split == "in_distribution" else {})


def difference_or_none(
    sft: pd.DataFrame, frame: pd.DataFrame, seed: int, part: str = "overall", metric: str = "binary"
) -> Interval | None:
    """Paired difference to SFT, where the two were scored on the same cases."""
    try:
        return difference(sft, frame, seed, part, metric)
    except UserError:  # scored on other cases: no paired difference exists, the row itself still does
        return None


def cells(name: str, interval: Interval | None, scale: float = 100) -> dict[str, float]:
    """Columns ``name``, ``name_low``, ``name_high``, in percent; no numbers without an interval."""
    values = (np.nan,) * 3 if interval is None else (interval.mean, interval.low, interval.high)
    names = (name, f"{name}_low", f"{name}_high")
    return {key: round(scale * value, 4) for key, value in zip(names, values, strict=True)}


def _paper_cells(paper: pd.DataFrame, model: str) -> dict[str, float]:
    return {f"paper_{part}": paper.loc[model, part] if model in paper.index else np.nan for part in PARTS}


def _printed(data: pd.DataFrame, with_paper: bool) -> pd.DataFrame:
    """The block as people read it: one cell per number with its interval."""
    columns = {"model": data["label"]}
    for part in PARTS:
        columns[part] = interval_column(data, part)
    columns["overall, corrected metric"] = interval_column(data, "corrected_overall")
    columns["overall, minus SFT (paired)"] = interval_column(data, "difference_to_sft_overall", sign=True)
    counts = zip(*(data.get(f"n_{part}", pd.Series(np.nan, data.index)) for part in PARTS[:2]), strict=True)
    columns["n (unchanged + changed)"] = [EMPTY if pd.isna(u) else f"{u:.0f} + {c:.0f}" for u, c in counts]
    for part in PARTS if with_paper else ():
        columns[f"paper: {part}"] = [EMPTY if pd.isna(x) else f"{x:.2f}" for x in data[f"paper_{part}"]]
    return pd.DataFrame(columns).reset_index(drop=True)


def per_game(scores: Mapping[str, pd.DataFrame], seed: int, caption: str) -> Table:
    """Accuracy by game: the CSV holds intervals for every game, model and part, the printed table overall / changed."""
    rows = []
    for model, frame in scores.items():
        for (split, game), cases in frame.groupby(["split", "game"], sort=True):
            row: dict[str, Any] = {"split": split, "game": game, "model": model}
            for part in PARTS:
                row |= cells(part, accuracy(select(cases, part), "binary", seed))
                row[f"n_{part}"] = len(select(cases, part))
            rows.append(row)
    data = pd.DataFrame(rows)
    blocks = {t: _game_block(data[data["split"] == s]) for s, t in SPLITS.items() if (data["split"] == s).any()}
    title = "Table 1 by game: exact-match accuracy (%), all cases / changed cases only"
    return Table("table1_by_game", title, data, blocks, caption, {})


def _game_block(data: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for game, rows in data.groupby("game", sort=True):
        line = {"game": game, "n (unchanged + changed)": f"{rows['n_unchanged'].max()} + {rows['n_changed'].max()}"}
        for row in rows.itertuples():
            changed = EMPTY if pd.isna(row.changed) else f"{row.changed:.0f}"
            line[LABELS[row.model]] = f"{row.overall:.0f} / {changed}"
        lines.append(line)
    return pd.DataFrame(lines).fillna(EMPTY)
