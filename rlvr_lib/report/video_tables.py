"""Table 3 (robot video): metrics per row with intervals, beside the paper's numbers, and rows that need no model.

Built from per-segment score files only. MSE, SSIM and the perceptual metric are shown times 100, as in the paper; the
perceptual column carries its variant's name and is never set beside the paper's LPIPS-VGG as if it were the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.statistics import Interval, bootstrap_mean, paired_difference
from rlvr_lib.evaluation.video_scores import COPY
from rlvr_lib.report.formats import EMPTY, Table, interval_column
from rlvr_lib.report.tables import paper_table

TITLES = {"single_step": "Single-step prediction", "multi_step": "Multi-step prediction, seven frames"}
SCALES = {"repetition": 100.0, "mse": 100.0, "mae": 100.0, "psnr": 1.0, "ssim": 100.0}
HEADS = {"repetition": "repetition %", "mse": "MSE", "mae": "MAE", "psnr": "PSNR (dB)", "ssim": "SSIM"}
BASE = ("base", "base, temperature 0.7", "base, greedy")
PAPER = {"base": "base", "base, repeated samples drawn again": "base_rejection", "RLVR": "rlvr"}
KEYS = ("model", "segment", "moving", "repetition")


def read_video_scores(path: Path) -> pd.DataFrame:
    """Per-segment scores of one kind; UserError naming the file when it cannot be read or lacks a column."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a score table ({error}); evaluate again") from error
    missing = [name for name in (*KEYS, "mse", "psnr") if name not in frame]
    if missing or frame.empty:
        raise UserError(f"{path}: {f'no column {missing[0]}' if missing else 'no segments'}; evaluate again")
    return frame


def perceptual_column(frame: pd.DataFrame) -> str:
    """The name of the perceptual metric in a score table (LPIPS-Squeeze, 1 - MS-SSIM ...)."""
    return next(name for name in frame.columns if name not in (*KEYS, *SCALES))


def table3(scores: Mapping[str, pd.DataFrame], seed: int, caption: str) -> Table:
    """``scores`` maps single_step and multi_step to per-segment rows; every row shows n, and whether segments move."""
    paper = paper_table_by_task()
    data = pd.DataFrame(
        [
            metric_row(kind, name, rows, seed, paper)
            for kind, frame in scores.items()
            for name, rows in frame.groupby("model", sort=False)
        ]
    )
    blocks = {TITLES[kind]: printed_rows(data[data["task"] == kind]) for kind in scores}
    title = (
        "Table 3. Robot video: base world models and rows that need none (MSE, MAE, SSIM, LPIPS x 100), 95 % intervals"
    )
    return Table("table3_robot_video", title, data, blocks, caption, {})


def paper_table_by_task() -> pd.DataFrame:
    """The paper's Table 3, indexed by (task, model)."""
    return paper_table("table3_robot_video").reset_index().set_index(["task", "model"])


def metric_row(kind: str, name: str, rows: pd.DataFrame, seed: int, paper: pd.DataFrame) -> dict[str, Any]:
    """One row of Table 3 or 4: every metric with its interval, and the paper's numbers (index: task, model) as they are
    there."""
    row: dict[str, Any] = {"task": kind, "model": name, "n": len(rows), "metric": perceptual_column(rows)}
    columns = {**SCALES, perceptual_column(rows): 100.0}
    for column, scale in columns.items():
        if rows[column].isna().all():
            continue
        key = "perceptual" if column == row["metric"] else column
        row |= _cells(key, bootstrap_mean(rows[column].to_numpy(), seed), scale)
        if key == "perceptual" and rows["moving"].any():
            still = rows[rows["moving"].astype(bool)]
            row |= _cells("perceptual_moving", bootstrap_mean(still[column].to_numpy(), seed), scale)
            row["n_moving"] = len(still)
    if (kind, PAPER.get(name, "")) in paper.index:
        row |= {f"paper_{key}": value for key, value in paper.loc[(kind, PAPER[name])].items() if key != "label"}
    return row


def _cells(key: str, interval: Interval, scale: float) -> dict[str, float]:
    return {
        key: round(interval.mean * scale, 4),
        f"{key}_low": round(interval.low * scale, 4),
        f"{key}_high": round(interval.high * scale, 4),
    }


def printed_rows(data: pd.DataFrame) -> pd.DataFrame:
    """A block as people read it; rows without numbers of ours (the paper's alone) have dashes."""
    metric = data["metric"].iloc[0]
    counts = [EMPTY if pd.isna(n) else int(n) for n in data["n"]]
    shown = pd.DataFrame({"row": data["model"], "n": counts})
    heads = {**HEADS, "perceptual": metric, "perceptual_moving": f"{metric}, moving segments"}
    for key, head in heads.items():
        if key in data and data[key].notna().any():
            shown[head] = interval_column(data, key, digits=1 if key == "repetition" else 2)
    if "n_moving" in data and data["n_moving"].notna().any():
        moves = data["n_moving"].fillna(0).astype(int)
        shown["n moving"] = [EMPTY if pd.isna(n) else count for n, count in zip(data["n"], moves, strict=True)]
    for key in ("repetition", "mse", "psnr", "ssim", "lpips"):
        column = f"paper_{key}"
        if column in data and data[column].notna().any():
            label = "LPIPS-VGG" if key == "lpips" else HEADS[key]
            shown[f"paper: {label}"] = [EMPTY if pd.isna(value) else f"{value:g}" for value in data[column]]
    return shown


def copying_table(scores: Mapping[str, pd.DataFrame], seed: int) -> pd.DataFrame:
    """:func:`against_copying` of the base model by kind and way of drawing, times 100 with its interval, as text.

    Where no segment moves (a smoke run may have none) there is a dash.
    """
    return pd.DataFrame(
        {
            kind: [
                against_copying(frame, row, seed).text(100, 2, True) if frame["moving"].any() else EMPTY for row in BASE
            ]
            for kind, frame in scores.items()
        },
        index=list(BASE),
    )


def against_copying(frame: pd.DataFrame, model: str, seed: int, moving_only: bool = True) -> Interval:
    """Paired difference of the perceptual metric, ``model`` minus copying through the tokenizer; negative is better."""
    rows = frame[frame["moving"].astype(bool)] if moving_only else frame
    if rows.empty:
        raise UserError("no test segment moves: set video.data.test_segments higher, or moving_only=False")
    pair = [rows[rows["model"] == name].set_index("segment").sort_index() for name in (COPY, model)]
    if pair[0].empty or not pair[0].index.equals(pair[1].index):
        raise UserError(f"{model} and the copied frames were not scored on the same moving segments; evaluate again")
    column = perceptual_column(frame)
    return paired_difference(pair[0][column].to_numpy(), pair[1][column].to_numpy(), seed)
