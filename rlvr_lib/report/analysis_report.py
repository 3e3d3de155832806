"""What notebook 36 adds to the report: tables and figures of the model analysis, as far as they have been made."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from rlvr_lib.evaluation.best_of import best_of_curve
from rlvr_lib.evaluation.video_scores import metric_columns
from rlvr_lib.report import analysis_figures
from rlvr_lib.report.analysis_claims import BEST_OF, GROUP_SIZES, METRIC_REWARDS
from rlvr_lib.report.analysis_tables import against_base, metric_rewards_table, trials_table
from rlvr_lib.report.formats import Table

UNUSUAL, OBEDIENCE = (Path("video_action_evaluation") / name for name in ("unusual.csv", "obedience.csv"))


def analysis_tables(runs: Path, seed: int, caption: Callable[[str], str]) -> list[Table]:
    """Figure 4c as a table, and the trials; ``caption`` gives the words about a stage."""
    tables = []
    if (runs / METRIC_REWARDS).exists():
        frame = pd.read_csv(runs / METRIC_REWARDS)
        tables.append(metric_rewards_table(frame, seed, caption(METRIC_REWARDS.parent.name)))
    if (runs / OBEDIENCE).exists():
        pair = [pd.read_csv(runs / path) for path in (UNUSUAL, OBEDIENCE)]
        tables.append(trials_table(*pair, seed, caption(UNUSUAL.parent.name)))
    return tables


def analysis_pictures(runs: Path, seed: int, folder: Path, metric: str) -> list[tuple[Path, str]]:
    """Figure 4 a, b, c and the trials: files and captions."""
    drawn: list[tuple[Path, str]] = []

    def add(name: str, words: str, draw: Callable[[Path], object]) -> None:
        draw(folder / name)
        drawn.append((folder / f"{name}.png", words))

    if (runs / BEST_OF).exists():
        curve = best_of_curve(pd.read_csv(runs / BEST_OF), seed)
        words = "Figure 4a: the best of N predictions, picked with the truth at hand, each metric picking its own."
        add("figure4a_test_time_scaling", words, lambda path: analysis_figures.figure4a(curve, path))
    if (runs / GROUP_SIZES).exists():
        rows = pd.read_csv(runs / GROUP_SIZES)
        words = "Figure 4b: group size at equal prompts (as in the paper), equal rollouts and equal training time."
        add("figure4b_group_size", words, lambda path: analysis_figures.figure4b(rows, metric, path))
    if (runs / METRIC_REWARDS).exists():
        changes = against_base(pd.read_csv(runs / METRIC_REWARDS), seed)
        words = "Figure 4c: models rewarded with one metric, against the base; a star where the interval excludes zero."
        add("figure4c_metric_rewards", words, lambda path: analysis_figures.figure4c(changes, path))
    if (runs / OBEDIENCE).exists():
        pair = [pd.read_csv(runs / path) for path in (UNUSUAL, OBEDIENCE)]
        name = metric_columns(pair[0])[-1]
        words = "Unusual behaviour, and several actions from one history (ours, not the paper's)."
        add("action_trials", words, lambda path: analysis_figures.trials_figure(*pair, name, seed, path))
    return drawn


__all__ = ["analysis_pictures", "analysis_tables"]
