"""Figures: training curves (the paper's text-game curves), Table 1 as bars with intervals, likelihood curves.

Called without a path in a notebook, a figure is shown at the end of the cell (end the call with a semicolon); with a
path it is only written. The paper's curves have no intervals and no KL, entropy or length panels; ours do.
Train and held-out differ by line style as well as by strength.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlvr_lib.report.drawing import BLACK, BLUE, LINES, ORANGE, SKY, VERMILION, new_figure, save
from rlvr_lib.report.drawing import style as style
from rlvr_lib.report.pictures import pipeline_picture as pipeline_picture
from rlvr_lib.report.pictures import token_strip as token_strip
from rlvr_lib.report.scores import MODELS, WEB_MODELS

# key in a metrics record, panel title, unit of the axis, factor; the second key is drawn as held-out
PANELS = (
    ("reward", None, "reward (of each run's own kind)", 1.0),
    ("accuracy_unchanged", "validation_accuracy_unchanged", "accuracy, unchanged (%)", 100.0),
    ("accuracy_changed", "validation_accuracy_changed", "accuracy, changed (%)", 100.0),
    ("kl", None, "KL to the reference (nats per token)", 1.0),
    ("entropy", None, "entropy (nats per token)", 1.0),
    ("length", None, "response length (tokens)", 1.0),
)


def series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records that hold a finite number under ``key``, in step order."""
    points = {}
    for record in records:
        step, value = record.get("step"), record.get(key)
        if isinstance(step, int | float) and isinstance(value, int | float) and np.isfinite(value):
            points[float(step)] = float(value)
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps])


def smooth(values: np.ndarray, width: int | None = None) -> np.ndarray:
    """Centred running mean over ``width`` values (a tenth of them, 1 to 25); at the ends over what is there."""
    width = min(width or int(np.clip(len(values) // 10, 1, 25)), len(values))
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


WEB_PANELS = (
    ("f1", "validation_f1", "F1 (%)", 100.0),
    ("precision", "validation_precision", "precision (%)", 100.0),
    ("recall", "validation_recall", "recall (%)", 100.0),
    *PANELS[3:],
)


def web_page_curves(metrics: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | str | None = None) -> Figure:
    """F1, precision, recall, KL, entropy and length of web-page runs, as :func:`text_game_curves` draws them."""
    return text_game_curves(metrics, path, WEB_PANELS)


def text_game_curves(
    metrics: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | str | None = None, wanted: Sequence = PANELS
) -> Figure:
    """Reward, accuracy, KL, entropy and length against RLVR steps, one colour per run.

    ``metrics`` maps a run's label to its records {step, reward, accuracy_unchanged, validation_accuracy_unchanged,
    ...}; absent keys are not drawn. Light: raw training values; bold: running mean; dots on dashes: held-out cases.
    Saved as .png and .pdf when ``path`` (a name without suffix) is given.
    """
    figure = new_figure(9.6, 5.4, shown=path is None)
    panels = figure.subplots(2, 3).ravel()
    for axes, (key, held_out, title, factor) in zip(panels, wanted, strict=True):
        for colour, records in zip(_colours(metrics), metrics.values(), strict=True):
            _draw_training(axes, *series(records, key), factor, colour)
            if held_out:
                _draw_held_out(axes, *series(records, held_out), factor, colour)
        axes.set_title(title, loc="left")
        if not axes.lines:
            _say_empty(axes)
    _step_axes(panels, metrics, "RLVR step")
    figure.legend(handles=_legend(metrics), loc="outside upper center", ncols=min(6, len(metrics) + 3))
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure


def _colours(metrics: Mapping[str, Any]) -> list[str]:
    return [LINES[index % len(LINES)] for index in range(len(metrics))]


def _draw_training(axes: Axes, steps: np.ndarray, values: np.ndarray, factor: float, colour: str) -> None:
    if len(steps) == 0:
        return
    axes.plot(steps, factor * values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(steps, factor * smooth(values), color=colour, marker="o" if len(steps) == 1 else None)


def _draw_held_out(axes: Axes, steps: np.ndarray, values: np.ndarray, factor: float, colour: str) -> None:
    if len(steps):
        axes.plot(steps, factor * values, "o--", color=colour, linewidth=1.2, markersize=4.5, markerfacecolor="white")


def _say_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_yticks([])


def _step_axes(panels: Sequence[Axes], metrics: Mapping[str, Sequence[Mapping[str, Any]]], label: str) -> None:
    """The same step range in every panel, so that they can be read across."""
    last = max((r.get("step", 0) for records in metrics.values() for r in records), default=1)
    for axes in panels:
        axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
        axes.set_xlabel(label)
        axes.margins(y=0.08)


def _legend(metrics: Mapping[str, Any]) -> list[Line2D]:
    runs = [Line2D([], [], color=c, label=label) for c, label in zip(_colours(metrics), metrics, strict=True)]
    grey = "#555555"
    return [
        *runs,
        Line2D([], [], color=grey, label="train, running mean"),
        Line2D([], [], color=grey, alpha=0.35, linewidth=0.8, label="train, each step"),
        Line2D([], [], color=grey, linestyle="--", marker="o", markerfacecolor="white", label="held-out validation"),
    ]


GAME_BARS = ("unchanged", "changed", "overall", "exact-match accuracy (%)")
WEB_BARS = ("precision", "recall", "f1", "share of items, macro mean (%)")


def accuracy_bars(
    table: pd.DataFrame,
    split: str = "in_distribution",
    path: Path | str | None = None,
    wanted: Sequence[str] = GAME_BARS,
) -> Figure:
    """Table 1 or 2 (its ``data``) as bars: three columns with 95 % intervals; hollow diamonds: the paper."""
    *parts, unit = wanted
    rows = table[(table["split"] == split) & table.get(parts[2], pd.Series(dtype=float)).notna()]
    figure = new_figure(7.2, 0.8 + 0.55 * max(len(rows), 2), shown=path is None)
    axes = figure.subplots()
    for offset, part, colour in zip((-0.26, 0, 0.26), parts, (SKY, ORANGE, BLUE), strict=True):
        _bars(axes, rows, part, np.arange(len(rows)) + offset, colour)
    axes.set_yticks(np.arange(len(rows)), rows["label"].tolist())
    axes.invert_yaxis()
    ours = sum(model in MODELS | WEB_MODELS for model in rows["model"])
    if 0 < ours < len(rows):  # a line between the models and the reference rows
        axes.axhline(ours - 0.5, color="#888888", linewidth=0.7, linestyle=":")
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 103), xlabel=unit)
    paper = Line2D([], [], color=BLACK, marker="D", linestyle="", markerfacecolor="white", markersize=4.5)
    handles: list[Any] = [*axes.containers[::2], paper] if len(rows) else [paper]
    labels = [*parts, "the paper's (1.5B, its own test set)"][-len(handles) :]
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure


def _bars(axes: Axes, rows: pd.DataFrame, part: str, places: np.ndarray, colour: str) -> None:
    mean, low, high = (rows[name].to_numpy(float) for name in (part, f"{part}_low", f"{part}_high"))
    axes.barh(places, np.nan_to_num(mean), height=0.24, color=colour, label=part)
    sides = np.abs([mean - low, high - mean])
    axes.errorbar(mean, places, xerr=sides, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
    if f"paper_{part}" in rows:
        axes.plot(rows[f"paper_{part}"], places, "D", color=BLACK, markerfacecolor="white", markersize=4.5)


def likelihood_curve(
    records: Sequence[Mapping[str, Any]], path: Path | str | None = None, title: str = "likelihood training"
) -> Figure:
    """Training loss (light: each logged step, bold: running mean) and validation loss (dots) against steps."""
    figure = new_figure(5.6, 3.0, shown=path is None)
    axes = figure.subplots()
    _draw_training(axes, *series(records, "loss"), 1.0, BLUE)
    for key in ("validation_loss", "eval_loss"):
        _draw_held_out(axes, *series(records, key), 1.0, VERMILION)
    axes.set(ylabel="cross-entropy (nats per token)", title=title)
    _step_axes([axes], {title: records}, "step")
    handles = [
        Line2D([], [], color=BLUE, label="train"),
        Line2D([], [], color=VERMILION, linestyle="--", marker="o", markerfacecolor="white", label="validation"),
    ]
    axes.legend(handles=handles, loc="upper right")
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure
