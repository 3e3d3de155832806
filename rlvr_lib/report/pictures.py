"""Explaining pictures: the pipeline on one page, and a text cut into its tokens."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from rlvr_lib.report.drawing import BLUE, GREEN, ORANGE, SKY, VERMILION, new_figure, save

TINTS = ("#d9ecf7", "#fbe8c8", "#d6efe6", "#f4e0ec")
LINE = 138  # characters of a token strip per line
GROUP = (
    ("lamp on, score 1", 1),
    ("lamp off, score 0", 0),
    ("lamp on, score 1", 1),
    ("(no answer)", 0),
    ("lamp on, score 0", 0),
)


def pipeline_picture(path: Path | str | None = None) -> Figure:
    """State and action become a question; sampled answers are decoded, scored by the truth, and compared in the group.

    The numbers are a group's real arithmetic: advantage = (reward - mean) / sample standard deviation (spec 0.2).
    """
    figure = new_figure(9.6, 3.7, shown=path is None)
    axes = figure.subplots()
    axes.set(xlim=(-1, 101), ylim=(-2, 42))
    axes.axis("off")
    _box(axes, 0, 24, 17, 12, "state (JSON)\nlamp: off, score 0", SKY)
    _box(axes, 0, 9, 17, 8, 'action\n"turn on lamp"', SKY)
    _box(axes, 23, 16, 15, 12, "world model\n(a language model)", BLUE)
    _arrow(axes, (17, 30), (23, 24))
    _arrow(axes, (17, 13), (23, 20))
    _group(axes)
    _box(axes, 71, -1, 16, 6.5, "truth:\nlamp on, score 1", GREEN)
    _arrow(axes, (79, 5.5), (79, 9))
    axes.annotate(
        "policy update: make answers with A > 0 likelier, stay near the SFT model (KL)",
        (30.5, 15.5), (30.5, 2.5), ha="center", va="center", fontsize=8.5, color=VERMILION,
        arrowprops={"arrowstyle": "->", "color": VERMILION, "lw": 1.4},
    )  # fmt: skip
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure


def _group(axes: Axes) -> None:
    """Five sampled answers with reward and advantage, one line each."""
    mean = sum(reward for _, reward in GROUP) / len(GROUP)
    spread = (sum((reward - mean) ** 2 for _, reward in GROUP) / (len(GROUP) - 1)) ** 0.5
    for x, title in ((54, "G = 5 sampled answers, decoded"), (79, "reward R"), (93, "advantage A")):
        axes.text(x, 40, title, ha="center", va="center", fontsize=8.5, weight="bold")
    for index, (answer, reward) in enumerate(GROUP):
        y = 32 - 5.8 * index
        colour = ORANGE if reward else "#999999"
        _box(axes, 43, y, 22, 4.8, answer, colour)
        _arrow(axes, (38, 22), (43, y + 2.4))
        _arrow(axes, (65, y + 2.4), (76, y + 2.4))
        axes.text(79, y + 2.4, f"{reward}", ha="center", va="center", weight="bold")
        axes.text(
            93, y + 2.4, f"{(reward - mean) / spread:+.2f}", ha="center", va="center", color=VERMILION, weight="bold"
        )
        _arrow(axes, (82, y + 2.4), (88, y + 2.4))


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    style = "round,pad=0,rounding_size=1"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor="white", edgecolor=colour, lw=1.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555", "lw": 1.0})


def token_strip(tokenizer: Any, text: str, limit: int = 160, path: Path | str | None = None) -> Figure:
    """The tokens of ``text`` as tinted chips, line by line; ``limit`` tokens at most. ``tokenizer``: transformers'."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [_visible(tokenizer.decode([number])) for number in ids[:limit]]
    rows = _wrapped(pieces, width=LINE)
    figure = new_figure(9.6, 0.55 + 0.25 * len(rows), shown=path is None)
    axes = figure.subplots()
    axes.set(xlim=(0, LINE), ylim=(len(rows), -0.2))
    axes.axis("off")
    axes.set_title(
        f"{len(text)} characters, {len(ids)} tokens" + (f" (first {limit} shown)" if len(ids) > limit else "")
    )
    count = 0
    for line, row in enumerate(rows):
        for place, piece in row:
            chip = {"boxstyle": "square,pad=0.12", "facecolor": TINTS[count % len(TINTS)], "edgecolor": "none"}
            axes.text(
                place, line + 0.5, piece, family="monospace", fontsize=7.5, va="center", bbox=chip, parse_math=False
            )
            count += 1
    if path is not None:
        save(figure, Path(path).parent, Path(path).name)
    return figure


def _visible(piece: str) -> str:
    """Blanks and line ends as signs, so that every token can be seen."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "→") or "∅"


def _wrapped(pieces: list[str], width: int) -> list[list[tuple[int, str]]]:
    """Place the pieces on lines of ``width`` characters, a small gap between them; overlong pieces are cut."""
    rows: list[list[tuple[int, str]]] = [[]]
    place = 0
    for piece in pieces:
        piece = piece if len(piece) < width else piece[: width - 2] + "…"
        if place + len(piece) > width:
            rows.append([])
            place = 0
        rows[-1].append((place, piece))
        place += len(piece) + 1
    return rows
