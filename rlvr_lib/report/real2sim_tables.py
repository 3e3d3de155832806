"""The tables beside Figure 5: how close each way of evaluating comes to the real rates, the rates, and the judge.

Every row says how success was read: by the simulator itself, or by a judge from pictures, whose errors on held-out
real episodes are then corrected for; the raw value stands beside it. SimplerEnv's published numbers have a block of
their own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rlvr_lib.evaluation.real2sim import REAL
from rlvr_lib.evaluation.real2sim_metrics import METRICS
from rlvr_lib.evaluation.real2sim_results import ALL, JUDGED, Real2SimResults
from rlvr_lib.evaluation.real2sim_stages import MODELS
from rlvr_lib.evaluation.statistics import Interval
from rlvr_lib.report.formats import EMPTY, Table
from rlvr_lib.report.tables import PAPER_RESULTS
from rlvr_lib.training.success_judge import CAMERA, TOKENIZER, UNDECIDED

HEADS = {"mae": "mean absolute error", "pearson": "Pearson r", "mmrv": "MMRV", "spearman": "Spearman"}
SIMPLER = {"visual_matching": "SIMPLER, visual matching", "variant_aggregation": "SIMPLER, variant aggregation"}


def figure5_table(results: Real2SimResults, caption: str, pusht: bool = False) -> Table:
    """One row per way of evaluating and task (and all pairs together); rates of every policy; the judge; published.

    ``pusht``: the table of PushT's policies, of which nothing is published.
    """
    rows = [_row(results, name, task) for name in results.evaluated for task in (ALL, *results.compared)]
    data = pd.DataFrame(rows)
    blocks = {
        "Agreement with the real success rates": _printed(data),
        "Success rates (%), judged ones corrected": rates_table(results),
        "The judge on held-out real episodes": judge_table(results),
    }
    if pusht:
        title = "Figure 5, PushT. Policies evaluated in simulators and world models, 95 % intervals"
        return Table("figure5_pusht", title, data, blocks, caption, {})
    blocks["Published by SimplerEnv: RT-1's real success and SIMPLER's simulated drawer averages"] = published()
    title = "Figure 5. Policies evaluated in simulators and world models against their real success, 95 % intervals"
    return Table("figure5_real2sim", title, data, blocks, caption, {})


def kind_of(name: str) -> str:
    """What a row is, in words."""
    if name in MODELS.values():
        return "world model"
    return "real pictures" if name == JUDGED else "hand-made simulator"


def _row(results: Real2SimResults, name: str, task: str) -> dict[str, Any]:
    row: dict[str, Any] = {"simulator": name, "kind": kind_of(name), "task": task}
    for metric in METRICS:
        row |= _cells(metric, results.metric(metric, name, task))
    if results.is_judged(name):
        row |= _cells("mae_raw", results.metric("mae", name, task, corrected=False))
    return row | (results.oddities(name) if task == ALL else {})


def _cells(name: str, interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {}
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _text(interval: Interval | None, scale: float = 1, digits: int = 2) -> str:
    return EMPTY if interval is None else interval.text(scale, digits)


def _printed(data: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {"evaluated in": data["simulator"], "kind": data["kind"], "task": data["task"]}
    for name, head in {**HEADS, "mae_raw": "mean absolute error, judge uncorrected"}.items():
        columns[head] = [_from(row, name) for row in data.to_dict("records")]
    for name, head in (
        ("undecided", "undecided"),
        ("bad_actions", "episodes with NaN actions"),
        ("invalid_ids", "episodes with ids that are no code"),
        ("n", "episodes"),
    ):
        columns[head] = [EMPTY if pd.isna(value) else f"{value:.0f}" for value in data[name]]
    return pd.DataFrame(columns)


def _from(row: Mapping[str, Any], name: str) -> str:
    values = [row.get(f"{name}{end}", np.nan) for end in ("", "_low", "_high")]
    return EMPTY if pd.isna(values[0]) else Interval(*values, 0).text(1, 2)


def rates_table(results: Real2SimResults) -> pd.DataFrame:
    """One row per policy and task: real success, what each way of evaluating says, raw rates of world models."""
    rows = []
    for task in results.compared:
        for policy in results.policies:
            row = {"task": task, "policy": policy}
            for name in (REAL, *results.evaluated):
                row[name] = _text(results.rate(name, policy, task), 100, 0)
                if kind_of(name) == "world model":
                    row[f"{name}, raw"] = _text(results.rate(name, policy, task, corrected=False), 100, 0)
            rows.append(row)
    return pd.DataFrame(rows)


def judge_table(results: Real2SimResults) -> pd.DataFrame:
    """Sensitivity and specificity by task and look; undecided episodes count half on either side."""
    rows = []
    for task in results.tasks:
        for look in (CAMERA, TOKENIZER):
            found = results.confusion(task, look)
            numbers = len(found.of_successes), len(found.of_failures)
            cells = [EMPTY if pd.isna(value) else f"{100 * value:.0f}" for value in found.rates()]
            seen = (results.judged["task"] == task) & (results.judged["look"] == look)
            undecided = int((results.judged[seen]["verdict"] == UNDECIDED).sum())
            row = {"task": task, "frames": look, "sensitivity (%)": cells[0], "specificity (%)": cells[1]}
            rows.append({**row, "successes": numbers[0], "failures": numbers[1], "undecided": undecided})
    return pd.DataFrame(rows)


def published() -> pd.DataFrame:
    """SimplerEnv's constants and the four numbers that follow from them; where one is missing, from the others."""
    table = pd.read_csv(PAPER_RESULTS / "real2sim.csv")
    shown = table[["label", "real_open", "real_close", "real_mean", *SIMPLER]].rename(
        columns={
            "label": "policy",
            "real_open": "real, open",
            "real_close": "real, close",
            "real_mean": "real",
            **SIMPLER,
        }
    )
    rows = []
    for metric, head in HEADS.items():
        row = {"policy": f"{head} of the averages"}
        for column, label in SIMPLER.items():
            pairs = table[["real_mean", column]].dropna().to_numpy(float).T
            row[label] = f"{METRICS[metric](pairs[1], pairs[0]):.3f}"
        rows.append(row)
    numbers = shown.map(lambda value: value if isinstance(value, str) else EMPTY if pd.isna(value) else f"{value:.3f}")
    return pd.concat([numbers, pd.DataFrame(rows)], ignore_index=True).fillna(EMPTY)
