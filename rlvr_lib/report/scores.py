"""Per-case scores of evaluated text-game and web-page models: reading, selecting, comparing.

One CSV per model under ``runs/<profile>/text_game_evaluation/`` and ``web_page_evaluation/``; all that the report says
about Tables 1 and 2 (paper, section 4) comes from these files. For text games ``binary`` is the released metric,
``corrected`` the one that also credits added objects and counts forgotten removals.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.statistics import Interval, bootstrap_mean, paired_difference

MODELS = {
    "base": "base",
    "sft": "SFT",
    "rlvr_binary": "RLVR, binary reward",
    "rlvr_task_specific": "RLVR, task-specific reward",
}
REFERENCES = {
    "always_no_change": 'always "no change"',
    "oracle": "oracle (the truth as the answer)",
    "base_greedy": "base, decoded greedily",
    "sft_greedy": "SFT, decoded greedily",
    "sft_t05": "SFT, temperature 0.5",
    "rlvr_binary_greedy": "RLVR binary, decoded greedily",
    "rlvr_task_specific_greedy": "RLVR task-specific, decoded greedily",
}
LABELS = MODELS | REFERENCES
WEB_MODELS = {"base": "base", "sft": "SFT", "rlvr": "RLVR, F1 reward"}
WEB_REFERENCES = {
    "empty": "empty answer",
    "no_change": 'always "None" in every section',
    "usual_change": "the most frequent change for this action type",
    "oracle": "oracle (the truth as the answer)",
    "sft_greedy": "SFT, decoded greedily",
    "sft_t05": "SFT, temperature 0.5",
    "rlvr_greedy": "RLVR, decoded greedily",
}
WEB_LABELS = WEB_MODELS | WEB_REFERENCES
WEB_METRICS = ("precision", "recall", "f1")
SPLITS = {"in_distribution": "In-distribution games", "held_out": "Held-out games"}
WEB_SPLITS = {"in_distribution": "Seen sites", "held_out": "Held-out site and tasks"}
PARTS = ("unchanged", "changed", "overall")
SCORE_COLUMNS = ("case_id", "game", "split", "changed", "binary", "task_specific", "corrected")
WEB_COLUMNS = ("case_id", "site", "split", "changed", *WEB_METRICS, "f1_released", "f1_paper", "exact")
WORDS = ("case_id", "game", "site", "split")  # columns that hold text
EXTRA_COLUMNS = ("parsed", "response_tokens", "ended")  # read when present


def read_scores(path: Path, columns: Sequence[str] = SCORE_COLUMNS) -> pd.DataFrame:
    """Per-case scores of one model, sorted by ``case_id``; ``changed`` becomes bool, scores become float.

    Raises UserError naming the file and what is wrong: unreadable, empty, a missing column, a case twice, no numbers.
    """
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(WORDS, str))
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: cannot be read as a score table ({error}); evaluate the model again") from error
    missing = [name for name in columns if name not in frame]
    if missing or frame.empty:
        raise UserError(f"{path}: {f'no column {missing[0]}' if missing else 'no cases'}; evaluate the model again")
    if frame["case_id"].duplicated().any():
        twice = frame.loc[frame["case_id"].duplicated(), "case_id"].iloc[0]
        raise UserError(f"{path}: case {twice} occurs twice; evaluate the model again")
    for name in (name for name in columns if name not in WORDS):
        frame[name] = _numbers(frame[name], path)
    for name in EXTRA_COLUMNS:  # may be empty: a reference row has no response
        if name in frame:
            frame[name] = _numbers(frame[name], path, allow_missing=True)
    frame["changed"] = frame["changed"] > 0
    return frame.sort_values("case_id", ignore_index=True)


def _numbers(column: pd.Series, path: Path, allow_missing: bool = False) -> pd.Series:
    words = {"true": 1.0, "false": 0.0}
    values = column.map(lambda x: words.get(str(x).strip().lower(), x))
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    if not allow_missing and not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise UserError(f"{path}, case {row + 1}: {column.name} is {column.iloc[row]!r}, not a number; evaluate again")
    return numbers


def load_scores(
    folder: Path, labels: Mapping[str, str] = LABELS, columns: Sequence[str] = SCORE_COLUMNS
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Every known model's scores in ``folder``, and for each model that is left out the reason."""
    scores, left_out = {}, {}
    for model in labels:
        path = folder / f"{model}.csv"
        if not path.exists():
            left_out[model] = f"not evaluated yet ({folder.name}/{path.name} does not exist)"
            continue
        try:
            scores[model] = read_scores(path, columns)
        except UserError as error:
            left_out[model] = str(error)
    return scores, left_out


def select(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    """The cases of one column of Table 1: ``unchanged``, ``changed`` or all of them (``overall``)."""
    return frame if part == "overall" else frame[frame["changed"] == (part == "changed")]


def accuracy(frame: pd.DataFrame, metric: str, seed: int) -> Interval | None:
    """Mean of a score column with its interval, None when there is no case."""
    return bootstrap_mean(frame[metric], seed) if len(frame) else None


def difference(
    a: pd.DataFrame,
    b: pd.DataFrame,
    seed: int,
    part: str = "overall",
    metric: str = "binary",
    by_layout: bool = False,
) -> Interval | None:
    """Paired difference b - a on one column's cases; None when there is no case.

    ``by_layout`` resamples whole layouts (cases that share all but the last part of their name), because cases of one
    layout resemble each other. Raises UserError when the two were scored on different cases.
    """
    a, b = select(a, part), select(b, part)
    if list(a["case_id"]) != list(b["case_id"]):
        raise UserError("the two models were scored on different cases; evaluate both again on the same test set")
    groups = a["case_id"].str.rpartition("/")[0] if by_layout and len(a) else None
    return paired_difference(a[metric], b[metric], seed, groups=groups) if len(a) else None
