"""What every figure shares: colours, matplotlib defaults, where a figure lives, deterministic files.

Colours are Okabe and Ito's set, distinguishable with colour-blind eyes.
"""

import io
from pathlib import Path

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from rlvr_lib.artifacts import atomic_write_bytes

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)  # yellow is too light for lines on white


def style() -> None:
    """Set matplotlib's defaults: readable in print at 7 inches, thin frames, the colours above. Needs no display."""
    matplotlib.rcParams.update(
        {
            "font.size": 9, "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8.5,
            "xtick.labelsize": 8, "ytick.labelsize": 8, "figure.dpi": 110, "savefig.dpi": 200,
            "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.grid": True,
            "grid.color": "#DDDDDD", "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.8,
            "legend.frameon": False, "axes.prop_cycle": cycler(color=LINES), "pdf.fonttype": 42,
        }
    )  # fmt: skip


def new_figure(width: float, height: float, shown: bool = False) -> Figure:
    """An empty figure (inches). ``shown`` in a notebook: one that pyplot displays at the end of the cell.

    Everywhere else a plain Figure: needs no display, and is freed when nobody holds it.
    """
    style()
    if shown and _in_notebook():
        import matplotlib.pyplot as plt

        return plt.figure(figsize=(width, height), layout="constrained")
    return Figure(figsize=(width, height), layout="constrained")


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def save(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write ``<folder>/<name>.png`` (200 dpi) and ``.pdf``; equal figures give equal bytes (no dates inside)."""
    paths = []
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    for suffix, facts in metadata.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=200, metadata=facts)
        paths.append(atomic_write_bytes(Path(folder) / f"{name}.{suffix}", buffer.getvalue()))
    return paths
