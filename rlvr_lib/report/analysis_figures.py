"""Figure 4 at our scale: best of N, group size, one metric as the reward; and the figure of unusual actions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlvr_lib.evaluation.statistics import bootstrap_mean
from rlvr_lib.report.drawing import BLACK, BLUE, GREEN, LINES, ORANGE, VERMILION, new_figure, save

NAMES = {"mae": "MAE", "mse": "MSE", "psnr": "PSNR (dB)", "ssim": "SSIM"}
COLOURS = {"base": BLUE, "RLVR": VERMILION}
AXES = {"prompts": "equal prompts", "samples": "equal samples", "seconds": "equal time"}


def figure4a(curve: pd.DataFrame, path: Path | str | None = None) -> Figure:
    """The best of N samples against N, a panel per metric; bands are 95 % intervals over segments."""
    metrics = list(curve["metric"].unique())[::-1]  # the perceptual metric first
    figure = new_figure(9.6, 5.2, shown=path is None)
    panels = figure.subplots(2, 3).ravel()
    others = [model for model in curve["model"].unique() if model not in COLOURS]
    colours = COLOURS | dict(zip(others, LINES[len(COLOURS) :], strict=False))
    for ax, metric in zip(panels, metrics, strict=False):
        for model, rows in curve[curve["metric"] == metric].groupby("model", sort=False):
            colour = colours[model]
            ax.plot(rows["n"], rows["mean"], color=colour, label=model, marker=".")
            ax.fill_between(rows["n"], rows["low"], rows["high"], color=colour, alpha=0.13, linewidth=0)
        ax.set_xscale("log")
        shown = [n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n <= curve["n"].max()]
        ax.set_xticks(shown, map(str, shown))
        ax.minorticks_off()
        ax.set_title(NAMES.get(metric, metric))
        ax.set_xlabel("N")
    for ax in panels[len(metrics) :]:
        ax.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    panels[-1].legend(handles, labels, loc="center", title="best of N predictions")
    return _saved(figure, path)


def figure4b(rows: pd.DataFrame, metric: str, path: Path | str | None = None) -> Figure:
    """Validation against prompts, samples and seconds by group size; thin lines are training seeds."""
    points = rows.groupby(["size", "seed", "step", *AXES], as_index=False)["lpips"].mean()
    figure = new_figure(9.6, 3.1, shown=path is None)
    panels = figure.subplots(1, 3, sharey=True)
    for ax, (key, title) in zip(panels, AXES.items(), strict=True):
        most = points.groupby(["size", "seed"])[key].max().min()  # what every training reached
        for colour, (size, some) in zip(LINES, points.groupby("size"), strict=False):
            for _, one in some.groupby("seed"):
                ax.plot(*_until(one, key, most), color=colour, alpha=0.3, linewidth=0.9)
            mean = some.groupby("step", as_index=False)[[key, "lpips"]].mean()
            ax.plot(*_until(mean, key, most), color=colour, marker="o", markersize=3, label=f"G = {size}")
        ax.set_title(title)
        ax.set_xlabel({"prompts": "prompts", "samples": "rollouts", "seconds": "seconds of training"}[key])
    panels[0].set_ylabel(f"{metric}, held-out")
    panels[-1].legend()
    return _saved(figure, path)


def _until(rows: pd.DataFrame, key: str, most: float) -> tuple[np.ndarray, np.ndarray]:
    """A curve up to ``most``, its end on the line between the validations around it."""
    x, y = rows[key].to_numpy(float), rows["lpips"].to_numpy(float)
    at = np.append(x[x < most], most)
    return at, np.interp(at, x, y)


def figure4c(changes: pd.DataFrame, path: Path | str | None = None) -> Figure:
    """Models by metrics: how much better than the base (percent of the base's value), a star where it is certain.

    ``changes``: columns reward, metric, better, certain; see :func:`rlvr_lib.report.analysis_tables.against_base`.
    """
    table = changes.pivot(index="reward", columns="metric", values="better")
    order = list(dict.fromkeys(changes["metric"]))
    table = table.loc[list(dict.fromkeys(changes["reward"])), order]
    certain = changes.pivot(index="reward", columns="metric", values="certain").loc[table.index, order]
    figure = new_figure(6.2, 3.6, shown=path is None)
    ax = figure.subplots()
    most = max(float(table.abs().max().max()), 1e-9)
    picture = ax.imshow(table, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        dark = abs(value) > 0.6 * most
        text = f"{value:+.1f}{'*' if certain.iloc[row, column] else ''}"
        ax.text(column, row, text, ha="center", va="center", color="white" if dark else BLACK)
    ax.set_xticks(range(len(order)), [NAMES.get(name, name).replace(" (dB)", "") for name in order])
    rewards = [order[-1] if name == "lpips" else NAMES.get(name, name).replace(" (dB)", "") for name in table.index]
    ax.set_yticks(range(len(table)), rewards)
    ax.set_xlabel("metric")
    ax.set_ylabel("rewarded with")
    ax.grid(False)
    figure.colorbar(picture, ax=ax, label="better than the base, %")
    return _saved(figure, path)


def trials_figure(
    unusual: pd.DataFrame, obedience: pd.DataFrame, metric: str, seed: int, path: Path | str | None = None
) -> Figure:
    """Left: the perceptual metric by behaviour. Middle: agreement with the simulator. Right: displacements."""
    figure = new_figure(9.6, 3.3, shown=path is None)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.7, 0.8, 1.2))
    groups = {
        kind: rows.groupby("model", sort=False)[metric] for kind, rows in unusual.groupby("behaviour", sort=False)
    }
    _bars(left, groups, seed)
    left.set_ylabel(metric)
    left.set_title("what the expert does, changed")
    _bars(middle, {"": obedience.groupby("model", sort=False)["agreement"]}, seed)
    middle.set_title("agreement, other actions")
    middle.axhline(0, color=BLACK, linewidth=0.7)
    rng = np.random.default_rng(seed)
    for model, rows in obedience.groupby("model", sort=False):
        true, found = (np.concatenate([rows[f"{part}x"], rows[f"{part}y"]]) for part in ("true_", ""))
        shaken = [values + rng.uniform(-0.3, 0.3, len(values)) for values in (true, found)]
        right.plot(*shaken, ".", color=COLOURS.get(model, GREEN), alpha=0.35, markersize=4, label=model)
    ends = [*right.get_xlim()]
    right.plot(ends, ends, color=BLACK, linewidth=0.7)
    right.set_xlabel("simulator: pixels moved")
    right.set_ylabel("predicted")
    right.set_title("displacement (jittered)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _saved(figure, path)


def _bars(ax: Axes, groups: Mapping[str, pd.Series], seed: int) -> None:
    """Means with 95 % intervals, models side by side."""
    models = list(next(iter(groups.values())).groups)
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        found = [bootstrap_mean(group.get_group(model), seed) for group in groups.values()]
        at = np.arange(len(groups)) + (place - (len(models) - 1) / 2) * width
        means = np.array([one.mean for one in found])
        errors = [means - [one.low for one in found], [one.high for one in found] - means]
        colour = COLOURS.get(model, ORANGE)
        ax.bar(at, means, width, color=colour, label=model, yerr=np.maximum(errors, 0), error_kw={"linewidth": 0.8})
    ax.set_xticks(range(len(groups)), list(groups))


def _saved(figure: Figure, path: Path | str | None) -> Figure:
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure


__all__: Sequence[str] = ["figure4a", "figure4b", "figure4c", "trials_figure"]
