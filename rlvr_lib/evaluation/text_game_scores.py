"""Scores of anybody's text-game predictions as rows of Table 1 (paper, section 4.1; spec A.2, A.8, A.9).

Input lines hold ``current_state``, ``gold_state`` and ``response``. Accuracy is the released binary reward; the
released task-specific reward and our corrected accuracy (which credits added objects and wants removed ones removed)
come with it. Every mean has a 95 % bootstrap interval over cases; the paper prints none.
"""

import json
import lzma
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.artifacts import UserError, atomic_write_text
from rlvr_lib.evaluation.statistics import Interval, bootstrap_mean
from rlvr_lib.worlds.text_game_rewards import is_changed, score_answer
from rlvr_lib.worlds.transitions import GameState, open_text

KEYS = ("current_state", "gold_state", "response")
METRICS = {
    "binary": "accuracy (released)",
    "corrected": "accuracy (corrected)",
    "task_specific": "task-specific reward",
}
SUBSETS = ("unchanged", "changed", "overall")


def score_records(lines: Iterable[str | dict[str, Any]], source: str = "input") -> pd.DataFrame:
    """Score JSON lines (or their dicts): one row per non-empty line, in order.

    Columns: ``line`` (from 1), ``changed`` (Table 1's definition), ``parsed``, ``binary``, ``task_specific``,
    ``corrected``, ``item_accuracy``, ``score_accuracy``, ``changed_accuracy`` (missing where absent). A response of any
    kind only scores 0; a line without the keys, or with states that are none, raises UserError naming it.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        if isinstance(line, str) and not line.strip():
            continue
        place = f"{source}, line {number}"
        record = _record(line, place)
        current, gold = (_state(record[key], f"{place}, {key}") for key in KEYS[:2])
        score = score_answer(record["response"], current, gold)
        rows.append({"line": number, "changed": is_changed(current, gold), **asdict(score)})
    if not rows:
        raise UserError(f"{source} holds no lines to score; each needs the keys {', '.join(KEYS)}")
    return pd.DataFrame(rows)


def score_file(path: Path | str, per_item: Path | str | None = None, seed: int = 0) -> pd.DataFrame:
    """Score a JSON-lines file (plain, ``.gz`` or ``.xz``); returns the rows of :func:`accuracy_rows`.

    ``per_item`` gets one JSON line per input line that is not empty, in order, with at least ``binary`` and
    ``task_specific``; it is written whole or not at all.
    """
    path = Path(path)
    if per_item is not None and Path(per_item).resolve() == path.resolve():
        raise UserError(f"{per_item} is the input itself; write the scores per item to another file")
    try:
        with open_text(path) as lines:
            scores = score_records(lines, str(path))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; give a file of JSON lines with the keys {', '.join(KEYS)}") from None
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a file of JSON lines in UTF-8") from error
    if per_item is not None:
        rows = scores.astype(object).where(scores.notna(), None).to_dict("records")
        atomic_write_text(per_item, "".join(json.dumps(row) + "\n" for row in rows))
    return accuracy_rows(scores, seed)


def accuracy_rows(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Table 1's rows from per-case scores (columns ``changed`` and those of ``METRICS`` that are there).

    One row per metric and subset (unchanged, changed, overall): ``metric``, ``cases``, ``mean``, ``low``, ``high``,
    ``n``. Accuracies are in percent, the reward in its own unit (0 to 1.3); an empty subset has n 0 and no numbers.
    """
    changed = scores["changed"].astype(bool)
    masks = {"unchanged": ~changed, "changed": changed, "overall": changed | ~changed}
    rows = []
    for metric, title in METRICS.items():
        if metric in scores:
            scale = 1.0 if metric == "task_specific" else 100.0
            rows += [_row(title, name, scale * scores.loc[masks[name], metric].astype(float), seed) for name in SUBSETS]
    return pd.DataFrame(rows)


def table_text(rows: pd.DataFrame) -> str:
    """The rows as a table for a terminal: subsets down, metrics across, each mean with its 95 % interval."""
    cells: dict[str, dict[str, Any]] = {name: {"n": 0} for name in SUBSETS}
    for row in rows.to_dict("records"):
        reward = row["metric"] == METRICS["task_specific"]
        interval = Interval(row["mean"], row["low"], row["high"], row["n"])
        title = row["metric"] if reward else f"{row['metric']}, %"
        cells[row["cases"]]["n"] = row["n"]
        cells[row["cases"]][title] = interval.text(1, 3 if reward else 2) if row["n"] else "-"
    table = pd.DataFrame.from_dict(cells, orient="index").to_string()
    return f"{table}\nmean [95 % bootstrap interval] over n cases"


def _row(metric: str, cases: str, values: pd.Series, seed: int) -> dict[str, Any]:
    if values.empty:
        return {"metric": metric, "cases": cases, "mean": None, "low": None, "high": None, "n": 0}
    interval = bootstrap_mean(values.to_numpy(), seed)
    return {"metric": metric, "cases": cases, **asdict(interval)}


def _record(line: str | dict[str, Any], place: str) -> dict[str, Any]:
    try:
        record = json.loads(line.removeprefix("\ufeff")) if isinstance(line, str) else line
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); write one JSON object per line") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: a {type(record).__name__} instead of an object with the keys {', '.join(KEYS)}")
    missing = [key for key in KEYS if key not in record]
    if missing:
        raise UserError(f"{place}: {', '.join(missing)} missing; every line needs the keys {', '.join(KEYS)}")
    return record


def _state(state: Any, place: str) -> GameState:
    """The list of records inside; UserError unless it is objects with a uuid each, then a score record."""
    try:
        state = json.loads(state) if isinstance(state, str) else state
        records = state["game_state"] if isinstance(state, dict) else state
        for record in records[:-1]:
            _check_object(record)
        if "uuid" in records[-1] or not {"score", "gameOver", "gameWon"} <= records[-1].keys():
            raise ValueError("the last record is not a score record (score, gameOver, gameWon)")
        if len(records) < 2 or len({record["uuid"] for record in records[:-1]}) < len(records) - 1:
            raise ValueError("there is no object, or two objects have one uuid")
    except Exception as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f'{place}: not a game state ({reason}); write {{"game_state": [objects..., score record]}}'
        ) from error
    return records


def _check_object(record: Any) -> None:
    for key, kind in (("uuid", int), ("name", str), ("properties", dict), ("contains", list)):
        if not isinstance(record[key], kind):
            raise ValueError(f"{key} of an object is {record[key]!r:.40}")
    if not all(isinstance(name, str) for name in record["contains"]):
        raise ValueError("contains holds something other than names")
