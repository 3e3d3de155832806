"""Pictures of video RLVR: training curves (Figure 8), Figure 3 whole, repetition by frame, rollouts as an animation."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from rlvr_lib.artifacts import atomic_write_bytes
from rlvr_lib.report.drawing import BLACK, BLUE, GREEN, LINES, VERMILION, new_figure, save
from rlvr_lib.report.figures import series, smooth
from rlvr_lib.report.video_figures import picture

Log = Sequence[Mapping[str, Any]]
STYLES = {"independent": "-", "shared": "--", "none": ":"}


def figure8(logs: Mapping[str, Log], metric: str, path: Path | str | None = None) -> Figure:
    """Reward, L1 and the perceptual metric of training rollouts against rollout batches: raw (light) and smoothed.

    Dots: the reward's parts on held-out segments, one sample each.
    """
    figure = new_figure(9.6, 2.7 * len(logs), shown=path is None)
    grid = figure.subplots(len(logs), 3, squeeze=False)
    columns = (("reward", "reward"), ("mae", "L1"), ("lpips", metric))
    for row, (name, records) in zip(grid, logs.items(), strict=True):
        for ax, (key, title) in zip(row, columns, strict=True):
            steps, values = series(records, key)
            if len(steps):
                ax.plot(steps, values, color=BLUE, alpha=0.3, linewidth=1)
                ax.plot(steps, smooth(values), color=BLUE, label="training rollouts")
            held = validations(records, key)
            ax.plot(*held, color=VERMILION, marker="o", markersize=3.5, linestyle="--", label="held out (top-k 100)")
            ax.set(title=f"{name.split(' prediction')[0]}: {title}", xlabel="rollout batches")
    grid[0][0].legend()
    return _finish(figure, path)


def validations(records: Log, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(rollout batches, values) of a held-out metric. The first one is the base's, logged with the first batch."""
    steps, values = series(records, f"validation_{key}")
    if len(steps) > 1 and steps[0] == 1 and steps[1] > 2:
        steps[0] = 0
    return steps, values


def figure3(
    likelihood: Mapping[str, Log],
    rlvr: Mapping[str, Log],
    metric: str,
    control: Mapping[str, Log] | None = None,
    path: Path | str | None = None,
) -> Figure:
    """Sampled prediction's metric over likelihood updates, then over RLVR batches, one row per model, axes shared.

    Released weights were validated on held-out segments of their own training, so the two panels need not meet.

    ``control`` goes on with likelihood instead; its steps are drawn on the first panel, behind the base's last one.
    """
    figure = new_figure(8.4, 2.9 * len(likelihood), shown=path is None)
    grid = figure.subplots(len(likelihood), 2, squeeze=False, sharey="row")
    for (left, right), (name, records) in zip(grid, likelihood.items(), strict=True):
        steps, values = series(records, "eval_perceptual")
        left.plot(steps, values, color=BLUE, marker="o", markersize=3, label="likelihood")
        further = series((control or {}).get(name, ()), "eval_perceptual")
        if len(further[0]):
            left.plot(further[0] + (steps[-1] if len(steps) else 0), further[1], color=GREEN, marker="s", markersize=3,
                      label="likelihood goes on")  # fmt: skip
        left.set(title=name.replace("_", "-"), xlabel="likelihood updates", ylabel=metric)
        held = validations(rlvr.get(name, ()), "lpips")
        right.plot(*held, color=VERMILION, marker="o", markersize=3, label="RLVR, this run's segments")
        if len(held[1]):
            right.axhline(held[1][0], color=BLUE, linestyle=":", linewidth=1.2, label="base, on the same ones")
        right.set(xlabel="RLVR rollout batches")
        left.legend()
        right.legend()
    return _finish(figure, path)


def repetition_figure(curve: pd.DataFrame, path: Path | str | None = None) -> Figure:
    """Share of frames that equal the one before, by frame number; solid: fresh noise, dashed: shared noise."""
    figure = new_figure(6.4, 3.4, shown=path is None)
    ax = figure.subplots()
    names = list(dict.fromkeys(curve["model"]))
    for (model, noise), part in curve.groupby(["model", "noise"], sort=False):
        colour = BLACK if model == "truth" else LINES[names.index(model) % len(LINES)]
        label = model if noise == "none" else f"{model}, {noise} noise"
        ax.plot(part["frame"], 100 * part["rate"], STYLES[noise], color=colour, marker="o", markersize=3, label=label)
        ax.fill_between(part["frame"], 100 * part["low"], 100 * part["high"], color=colour, alpha=0.12, linewidth=0)
    ax.set(xlabel="predicted frame", ylabel="equals the frame before (%)", ylim=(-2, 102))
    ax.legend()
    return _finish(figure, path)


def rollout_gif(rows: Mapping[str, Any], path: Path, zoom: int = 3, milliseconds: int = 350) -> Path:
    """Rollouts ([K, 3, H, W] each) side by side with their names, as an endless GIF."""
    strips = {label: [picture(frame) for frame in frames] for label, frames in rows.items()}
    count = max(map(len, strips.values()))
    height, width = next(iter(strips.values()))[0].shape[:2]
    pages = []
    for number in range(count):
        page = Image.new("RGB", (len(strips) * (width * zoom + 6), height * zoom + 16), "white")
        for place, (label, frames) in enumerate(strips.items()):
            frame = Image.fromarray(frames[min(number, len(frames) - 1)])
            page.paste(
                frame.resize((width * zoom, height * zoom), Image.Resampling.NEAREST), (place * (width * zoom + 6), 16)
            )
            ImageDraw.Draw(page).text((place * (width * zoom + 6) + 2, 2), f"{label}  +{number + 1}", fill="black")
        pages.append(page)
    buffer = io.BytesIO()
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def _finish(figure: Figure, path: Path | str | None) -> Figure:
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure


__all__ = ["figure3", "figure8", "repetition_figure", "rollout_gif", "validations"]
