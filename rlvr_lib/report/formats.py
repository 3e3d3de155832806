"""A finished table and its printed forms: CSV (numbers), Markdown and LaTeX (numbers with intervals, a caption)."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.evaluation.statistics import Interval

EMPTY = "–"


@dataclass(frozen=True)
class Table:
    """A finished table: ``data`` for the CSV (numbers), ``blocks`` title -> printed table, and the words around it."""

    name: str
    title: str
    data: pd.DataFrame
    blocks: dict[str, pd.DataFrame]
    caption: str
    left_out: dict[str, str]


def interval_column(data: pd.DataFrame, name: str, sign: bool = False, digits: int = 1) -> list[str]:
    """``mean [low, high]`` texts of the columns ``name``, ``name_low``, ``name_high``; a dash where there is none."""
    names = (name, f"{name}_low", f"{name}_high")
    if name not in data:
        return [EMPTY] * len(data)
    cells = []
    for mean, low, high in data[list(names)].itertuples(index=False):
        cells.append(EMPTY if pd.isna(mean) else Interval(mean, low, high, 0).text(1, digits, sign))
    return cells


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write ``<folder>/<name>.csv``, ``.md`` and ``.tex``, each with the caption (a comment line in the CSV's twin)."""
    paths = [folder / f"{table.name}{suffix}" for suffix in (".csv", ".md", ".tex")]
    for path, text in zip(paths, (csv_text(table), markdown_text(table), latex_text(table)), strict=True):
        atomic_write_text(path, text)
    return paths


def csv_text(table: Table) -> str:
    """Comma-separated numbers; the last column repeats where they come from, so that a lone file explains itself."""
    return table.data.assign(provenance=table.caption).to_csv(index=False)


def markdown_text(table: Table) -> str:
    """Title, one Markdown table per block, caption, and what was left out."""
    parts = [f"**{table.title}**"]
    for title, block in table.blocks.items():
        parts += [f"*{title}*", block.map(plain).to_markdown(index=False, disable_numparse=True)]
    parts += [f"<sub>{plain(table.caption)}</sub>"]
    parts += [plain(f"- left out: {model}: {why}") for model, why in table.left_out.items()]
    return "\n\n".join(parts) + "\n"


def latex_text(table: Table) -> str:
    """One ``table`` environment (booktabs) with a ``tabular`` per block."""
    lines = ["% needs \\usepackage{booktabs,graphicx}", "\\begin{table}", "\\centering"]
    for title, block in table.blocks.items():
        body = block.to_latex(index=False, escape=True, column_format="l" + "r" * (block.shape[1] - 1))
        lines += [f"\\textit{{{title}}}\\\\", "\\resizebox{\\textwidth}{!}{%", body.strip() + "}", ""]
    escaped = f"{table.title}. {table.caption}"
    for character in "\\&%$#_{}":
        escaped = escaped.replace(character, f"\\{character}" if character != "\\" else "/")
    return "\n".join([*lines, f"\\caption{{{escaped}}}", "\\end{table}", ""])


def plain(text: Any) -> str:
    """Text that can neither break a Markdown table nor smuggle in HTML."""
    return escape(str(text), quote=False).replace("|", "\\|").replace("\n", " ")
