"""Figure 5: success in a simulator or world model against real success, one panel per task; films side by side."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rlvr_lib.evaluation.real2sim import REAL, film_path, load_film
from rlvr_lib.evaluation.real2sim_results import JUDGED, Real2SimResults
from rlvr_lib.evaluation.real2sim_stages import MODELS, real2sim_stage
from rlvr_lib.profile import Profile
from rlvr_lib.report.domain_tables import TITLES
from rlvr_lib.report.drawing import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure
from rlvr_lib.report.video_figures import _finish, frame_rows

HAND_MADE = (SKY, GREEN, ORANGE, PURPLE)
MARKERS = ("s", "D", "v", "P")
STYLES = {MODELS["base"]: (BLUE, "o"), MODELS["rlvr"]: (VERMILION, "*"), JUDGED: (BLACK, "x")}


def figure5(*results: Real2SimResults, path: Path | str | None = None) -> Figure:
    """Figure 5: every policy a point of each series; bars are 95 % intervals, the diagonal is ideal.

    One panel per task of each of ``results``. World models' rates are corrected for the judge's errors; where that is
    not possible, the raw rate is drawn.
    """
    tasks = [(one, task) for one in results for task in one.compared]
    figure = new_figure(max(4.6, 3.4 * len(tasks)), 4.3, shown=path is None)
    panels = np.atleast_1d(figure.subplots(1, len(tasks), sharey=True))
    for ax, (one, task) in zip(panels, tasks, strict=True):
        ax.plot([0, 100], [0, 100], color=BLACK, linestyle=":", linewidth=1, label="ideal")
        for name, (colour, marker) in styles_of(one).items():
            _points(ax, one, name, task, colour, marker)
        ax.set(title=TITLES.get(task, task), xlabel="real success (%)", xlim=(-4, 104), ylim=(-4, 104), aspect="equal")
    panels[0].set(ylabel="evaluated success (%)")
    entries = {
        label: handle for ax in panels for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }  # a simulator of the same name has the same mark in all panels
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    return _finish(figure, path)


def styles_of(results: Real2SimResults) -> dict[str, tuple[str, str]]:
    """Colour and marker of every series: Okabe and Ito's colours, and markers that tell them apart without colour."""
    wrong = [name for name in results.evaluated if name not in STYLES]
    looks = {name: (HAND_MADE[at % len(HAND_MADE)], MARKERS[at % len(MARKERS)]) for at, name in enumerate(wrong)}
    return {name: STYLES.get(name) or looks[name] for name in results.evaluated}


def _points(ax: Axes, results: Real2SimResults, name: str, task: str, colour: str, marker: str) -> None:
    pairs = []
    for policy in results.policies:
        found = results.rate(name, policy, task) or results.rate(name, policy, task, corrected=False)
        if found is not None:
            pairs.append((results.rate(REAL, policy, task), found))
    unknown = len(results.policies) - len(pairs)
    if not pairs:
        return
    middles = np.array([[100 * one.mean for one in pair] for pair in pairs])
    reach = np.array([[[one.mean - one.low, one.high - one.mean] for one in pair] for pair in pairs]).clip(0) * 100
    bars = {"xerr": reach[:, 0].T, "yerr": reach[:, 1].T, "elinewidth": 0.7, "alpha": 0.35, "fmt": "none"}
    ax.errorbar(*middles.T, ecolor=colour, **bars)
    size = 70 if marker == "*" else 28
    ax.scatter(
        *middles.T,
        color=colour,
        marker=marker,
        s=size,
        label=name + (f" ({unknown} not known)" if unknown else ""),
        zorder=3,
    )


def films_of(profile: Profile, policy: str, task: str) -> dict[str, NDArray[np.uint8]]:
    """The first episode of a policy: real, and dreamt in either world model, uint8 [T, H, W, 3] each.

    All begin at the same recorded frame; the real one ends after success, the dreams have a fixed length.
    """
    folders = {"real": "simulators", **{f"dreamt in the {name}": part for part, name in MODELS.items()}}
    films = {}
    for label, part in folders.items():
        path = film_path(real2sim_stage(profile, part).folder, profile, policy, task)
        if not path.exists():  # nothing is filmed where rates are published ones
            continue
        frames = load_film(path)
        films[label] = frames[1:] if part == "simulators" else frames
    return films


def film_strips(films: Mapping[str, NDArray[np.uint8]], columns: int = 8, path: Path | str | None = None) -> Figure:
    """Films as rows at equal steps; one that has ended shows its last frame."""
    longest = max(map(len, films.values()))
    places = np.linspace(0, longest - 1, min(columns, longest)).round().astype(int)
    rows = {label: [frames[min(place, len(frames) - 1)] for place in places] for label, frames in films.items()}
    return frame_rows(rows, path, names=[f"+{place + 1}" for place in places])


def shown_policies(results: Real2SimResults) -> tuple[str, str]:
    """Best and worst policy by real success over all tasks, to be looked at."""
    rates = results.rates(REAL)[0].mean(-1)
    return results.policies[int(rates.argmax())], results.policies[int(rates.argmin())]
