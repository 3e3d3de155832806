"""Tables of the model analysis: every metric of every model that was rewarded with one metric; unusual actions."""

from typing import Any

import numpy as np
import pandas as pd

from rlvr_lib.evaluation.model_analysis import BASE, TUNED
from rlvr_lib.evaluation.statistics import bootstrap_mean, paired_difference
from rlvr_lib.evaluation.video_scores import metric_columns
from rlvr_lib.report.analysis_figures import NAMES
from rlvr_lib.report.formats import Table, interval_column
from rlvr_lib.report.tables import cells
from rlvr_lib.worlds.video_metrics import HIGHER_IS_BETTER

SCALE = {"psnr": 1.0}


def values(frame: pd.DataFrame, model: str, metric: str) -> np.ndarray:
    """A model's values in the order of the segments."""
    return frame[frame["model"] == model].sort_values("segment")[metric].to_numpy(float)


def against_base(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How much better than the base each model is by each metric, in percent of the base's value, paired.

    ``better`` is positive when the model is better, whichever way the metric points; ``certain`` when the 95 % interval
    of the difference excludes zero.
    """
    rows = []
    for reward in [name for name in frame["model"].unique() if name != BASE]:
        for metric in metric_columns(frame):
            base = values(frame, BASE, metric)
            gap = paired_difference(base, values(frame, reward, metric), seed)
            sign = 1 if HIGHER_IS_BETTER.get(metric, False) else -1
            scale = 100 * sign / abs(float(base.mean()))
            found = {"better": scale * gap.mean, "certain": gap.excludes_zero, "n": gap.n}
            low, high = sorted((scale * gap.low, scale * gap.high))
            rows.append({"reward": reward, "metric": metric, **found, "better_low": low, "better_high": high})
    return pd.DataFrame(rows)


def metric_rewards_table(frame: pd.DataFrame, seed: int, caption: str) -> Table:
    """Rows: the base and the models rewarded with one metric; columns: all metrics with intervals."""
    rows: list[dict[str, Any]] = []
    for model in [BASE, *(name for name in frame["model"].unique() if name != BASE)]:
        row: dict[str, Any] = {"model": model, "n": int((frame["model"] == model).sum())}
        for metric in metric_columns(frame):
            row |= cells(metric, bootstrap_mean(values(frame, model, metric), seed), SCALE.get(metric, 100))
        rows.append(row)
    data = pd.DataFrame(rows)
    names = {**NAMES, "psnr": "PSNR", "lpips": metric_columns(frame)[-1], BASE: "nothing (the base)"}
    printed = pd.DataFrame({"rewarded with": data["model"].map(names), "n": data["n"]})
    for metric in metric_columns(frame):
        printed[NAMES.get(metric, metric)] = interval_column(data, metric, digits=2)
    title = "Figure 4c as a table. One metric as the only reward, single-step (MAE, MSE, SSIM, LPIPS x 100)"
    return Table("figure4c_metric_rewards", title, data, {"Held-out segments": printed}, caption, {})


def trials_table(unusual: pd.DataFrame, obedience: pd.DataFrame, seed: int, caption: str) -> Table:
    """RLVR minus base by behaviour, and how far both follow the simulator when the action is another one."""
    metric = metric_columns(unusual)[-1]
    rows: list[dict[str, Any]] = []
    for kind, some in unusual.groupby("behaviour", sort=False):
        gap = paired_difference(values(some, BASE, metric), values(some, TUNED, metric), seed)
        row: dict[str, Any] = {"what": f"{kind}: {metric} x 100", "n": gap.n}
        for model in (BASE, TUNED):
            row |= cells(model, bootstrap_mean(values(some, model, metric), seed))
        rows.append(row | cells("difference", gap))
    rows += [_obedience_row(obedience, seed), _displacement_row(obedience, seed)]
    data = pd.DataFrame(rows)
    printed = pd.DataFrame({"": data["what"], "n": data["n"]})
    for name, head in ((BASE, BASE), (TUNED, TUNED), ("difference", "RLVR minus base")):
        printed[head] = interval_column(data, name, sign=name == "difference", digits=2)
    title = "Unusual behaviour and other actions, single-step (ours, not the paper's)"
    return Table("action_trials", title, data, {"Trials in the simulator": printed}, caption, {})


def _obedience_row(frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Mean agreement of a history's actions; histories are resampled."""
    means = {model: rows.groupby("history")["agreement"].mean() for model, rows in frame.groupby("model")}
    row: dict[str, Any] = {"what": "agreement with the simulator x 100", "n": len(means[BASE])}
    for model in (BASE, TUNED):
        row |= cells(model, bootstrap_mean(means[model], seed))
    return row | cells("difference", paired_difference(means[BASE], means[TUNED], seed))


def _displacement_row(frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Mean error of the displacement in pixels; histories are resampled."""
    errors = frame.assign(error=np.hypot(frame["x"] - frame["true_x"], frame["y"] - frame["true_y"]))
    means = {model: rows.groupby("history")["error"].mean() for model, rows in errors.groupby("model")}
    row: dict[str, Any] = {"what": "error of the displacement, pixels", "n": len(means[BASE])}
    for model in (BASE, TUNED):
        row |= cells(model, bootstrap_mean(means[model], seed), 1)
    return row | cells("difference", paired_difference(means[BASE], means[TUNED], seed), 1)


__all__ = ["against_base", "metric_rewards_table", "trials_table", "values"]
