"""Scores of anybody's page-change predictions: precision, recall and F1, macro means over lines (B.6, B.7).

Input lines hold ``response`` and ``ground_truth``, both in the answer format with its three headed sections.
"""

import json
import lzma
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from rlvr_lib.artifacts import UserError, atomic_write_text
from rlvr_lib.evaluation.statistics import bootstrap_mean
from rlvr_lib.worlds.transitions import open_text
from rlvr_lib.worlds.web_rewards import Variant, score_changes

KEYS = ("response", "ground_truth")
METRICS = ("precision", "recall", "f1")


def score_web_file(path: Path, per_item: Path | None = None, variant: Variant = "released") -> pd.DataFrame:
    """Score a JSON-lines file (plain, ``.gz`` or ``.xz``); one row per line that is not empty.

    Columns: ``line`` (from 1), ``precision``, ``recall``, ``f1``. ``per_item`` gets the same as JSON lines, whole or
    not at all. UserErrors name the line and what is wrong with it; a response of any kind only scores 0.
    """
    if per_item is not None and per_item.resolve() == path.resolve():
        raise UserError(f"{per_item} is the input itself; write the scores per item to another file")
    try:
        with open_text(path) as lines:
            texts = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a file of JSON lines in UTF-8") from error
    if not texts:
        raise UserError(f"{path} holds no lines to score; each needs the keys {', '.join(KEYS)}")
    rows = []
    for number, line in texts:
        response, truth = _texts(line, f"{path}, line {number}")
        rows.append({"line": number, **asdict(score_changes(response, truth, variant))})
    if per_item is not None:
        atomic_write_text(per_item, "".join(json.dumps(row) + "\n" for row in rows))
    return pd.DataFrame(rows)


def _texts(line: str, place: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: no JSON ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: not an object with the keys {', '.join(KEYS)}")
    for key in KEYS:
        if not isinstance(record.get(key), str):
            raise UserError(f"{place}: {key} {'is no text' if key in record else 'is missing'}")
    return record["response"], record["ground_truth"]


def web_table(scores: pd.DataFrame, seed: int = 0) -> str:
    """Means in percent with 95 % bootstrap intervals over lines, for a terminal."""
    rows = {name: bootstrap_mean(scores[name].to_numpy(float), seed) for name in METRICS}
    cells = {name: {"%": interval.text(100, 2), "n": interval.n} for name, interval in rows.items()}
    return f"{pd.DataFrame(cells).T.to_string()}\nmacro mean [95 % bootstrap interval] over n lines"


__all__ = ["METRICS", "score_web_file", "web_table"]
