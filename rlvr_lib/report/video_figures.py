"""Pictures of robot video: contact sheets, reconstructions, codebook use, rollouts, the likelihood part of Figure 3.

Frames are float32 [..., 3, H, W] in [0, 1] or uint8 [..., H, W, 3]. Small frames are drawn with square pixels, so that
what a model paints is seen as it is. Called without a path in a notebook, a figure is shown at the end of the cell.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rlvr_lib.report.drawing import BLACK, BLUE, GREEN, ORANGE, VERMILION, new_figure, save
from rlvr_lib.report.figures import series
from rlvr_lib.worlds.video_episodes import Episode

ERROR_GAIN = 4.0  # absolute errors are small; drawn this much brighter, and the title says so


def picture(frame: Any) -> NDArray[np.uint8]:
    """One frame in either layout -> uint8 [H, W, 3]."""
    if isinstance(frame, torch.Tensor):
        frame = frame.detach().float().clamp(0, 1).movedim(-3, -1).cpu().numpy()
    if frame.dtype != np.uint8:
        frame = (frame * 255).round().astype(np.uint8)
    return frame


def contact_sheet(episodes: Mapping[str, Episode], columns: int = 8, path: Path | str | None = None) -> Figure:
    """Episodes as rows, evenly spaced frames as columns; the key of a row says what it shows."""
    figure = new_figure(1.15 * columns + 1.6, 1.0 * len(episodes) + 0.2, shown=path is None)
    grid = figure.subplots(len(episodes), columns, squeeze=False)
    for axes, (label, episode) in zip(grid, episodes.items(), strict=True):
        places = np.linspace(0, len(episode) - 1, columns).round().astype(int)
        for ax, place in zip(axes, places, strict=True):
            _show(ax, episode.frames[place], f"frame {place}")
        _row_label(axes[0], label)
    return _finish(figure, path)


def reconstructions(
    truth: torch.Tensor, again: torch.Tensor, path: Path | str | None = None, title: str = ""
) -> Figure:
    """Frames [n, 3, H, W] three times: truth, what the tokenizer keeps of it, and the absolute error."""
    error = ((truth - again.clamp(0, 1)).abs() * ERROR_GAIN).clamp(0, 1)
    rows = {"truth": truth, "reconstruction": again, f"error x {ERROR_GAIN:g}": error}
    return frame_rows(rows, path, title=title)


def frame_rows(
    rows: Mapping[str, Any], path: Path | str | None = None, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Labelled rows of frames (each [n, 3, H, W]) under one another; ``names`` head the columns."""
    columns = max(len(frames) for frames in rows.values())
    figure = new_figure(1.3 * columns + 1.3, 1.1 * len(rows) + (0.4 if title else 0.2), shown=path is None)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for place, (axes, (label, frames)) in enumerate(zip(grid, rows.items(), strict=True)):
        for column, ax in enumerate(axes):
            ax.axis("off")
            if column < len(frames):
                _show(ax, frames[column], names[column] if names and place == 0 else "")
        _row_label(axes[0], label)
    if title:
        figure.suptitle(title, fontsize=9.5)
    return _finish(figure, path)


def codebook_use(counts: Mapping[str, NDArray], path: Path | str | None = None) -> Figure:
    """Counts per code, one panel per tokenizer: share of all tokens against the code's rank, on logarithmic axes."""
    figure = new_figure(4.2 * len(counts), 2.9, shown=path is None)
    for ax, (label, count) in zip(np.atleast_1d(figure.subplots(1, len(counts))), counts.items(), strict=True):
        shares = np.sort(count[count > 0])[::-1] / count.sum()
        perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
        ax.loglog(np.arange(1, len(shares) + 1), shares, color=BLUE)
        ax.axhline(1 / len(count), color=BLACK, linestyle=":", linewidth=1)
        ax.annotate("even use", (1, 1 / len(count)), xytext=(2, 3), textcoords="offset points", fontsize=8)
        ax.set(title=f"{label.replace('_', '-')}: {len(shares)} of {len(count)} codes, perplexity {perplexity:.0f}")
        ax.set(xlabel="rank of the code", ylabel="share of tokens")
    return _finish(figure, path)


def tokenizer_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | str | None = None) -> Figure:
    """L1 and perceptual distance of held-out reconstructions (and of training batches) against iterations."""
    figure = new_figure(8.4, 2.9, shown=path is None)
    panels = zip(figure.subplots(1, 2), (("l1", "L1"), ("perceptual", "perceptual distance")), strict=True)
    for ax, (key, label) in panels:
        for colour, (name, records) in zip((BLUE, VERMILION), logs.items(), strict=False):
            _line(ax, records, key, colour, f"{name}, training", faint=True)
            _line(ax, records, f"validation_{key}", colour, f"{name}, held out")
        ax.set(xlabel="iterations", ylabel=label, yscale="log")
    figure.axes[0].legend()
    return _finish(figure, path)


def figure3_likelihood(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    levels: Mapping[str, Mapping[str, float]] | None = None,
    path: Path | str | None = None,
) -> Figure:
    """Figure 3, left part: validation loss and metric of sampled predictions against likelihood updates, per model.

    ``levels`` draws reference values (label -> metric) as horizontal lines in a model's panel.
    """
    figure = new_figure(4.4 * len(logs), 5.0, shown=path is None)
    grid = figure.subplots(2, len(logs), squeeze=False, sharex="col")
    for (above, below), (name, records) in zip(grid.T, logs.items(), strict=True):
        _line(above, records, "loss", ORANGE, "training", faint=True)
        _line(above, records, "eval_loss", BLUE, "held out")
        above.set(title=name.replace("_", "-"), ylabel="loss (nats per id)")
        above.legend()
        _line(below, records, "eval_perceptual", BLUE, "sampled prediction")
        for colour, (label, value) in zip(
            (GREEN, VERMILION, BLACK), (levels or {}).get(name, {}).items(), strict=False
        ):
            below.axhline(value, color=colour, linestyle="--", linewidth=1.2, label=label)
        below.set(xlabel="likelihood updates", ylabel=metric)
        below.legend()
    return _finish(figure, path)


def _line(
    ax: Axes, records: Sequence[Mapping[str, Any]], key: str, colour: str, label: str, faint: bool = False
) -> None:
    steps, values = series(records, key)
    if len(steps):
        style = {"alpha": 0.35, "linewidth": 1.0} if faint else {"marker": "o", "markersize": 3}
        ax.plot(steps, values, color=colour, label=label, **style)


def _show(ax: Axes, frame: Any, title: str = "") -> None:
    ax.imshow(picture(frame), interpolation="nearest")
    ax.axis("off")
    if title:
        ax.set_title(title, fontsize=7.5, pad=2)


def _row_label(ax: Axes, label: str) -> None:
    ax.annotate(
        label, (0, 0.5), xytext=(-6, 0), xycoords="axes fraction", textcoords="offset points", ha="right", va="center",
        fontsize=8,
    )  # fmt: skip


def _finish(figure: Figure, path: Path | str | None) -> Figure:
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure
