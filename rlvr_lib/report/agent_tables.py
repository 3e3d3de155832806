"""The web agent's table: success of every arm on the same instances, intervals, paired differences, cost of a step.

Beside it stand the paper's two numbers (Table 2, last column), which come from WebArena and DeepSeek-V3: compare the
differences, not the levels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlvr_lib.artifacts import DONE, UserError, read_json
from rlvr_lib.evaluation.statistics import Interval, bootstrap_mean, paired_difference
from rlvr_lib.report.formats import EMPTY, Table, interval_column
from rlvr_lib.report.stages import StageRecord, provenance_text, setting
from rlvr_lib.report.tables import PAPER_RESULTS, cells
from rlvr_lib.worlds.browser_find import why_no_browser

ARM_LABELS = {
    "policy": "policy alone, one proposal",
    "policy_vote": "policy alone, most frequent of the proposals",
    "sft": "planning with the SFT world model",
    "rlvr": "planning with the RLVR world model",
    "oracle": "planning with the true next page (oracle: an upper bound, no world model)",
}
NUMBERS = ("success", "steps", "calls", "seconds", "fault")
COLUMNS = ("case_id", "site", *NUMBERS)
STAGE = "web_agent"
AGAIN = "rlvr get-browser && rlvr reproduce --profile {} --only 23,90 --force"
WORLDS = {
    "local": "Every arm runs the same seeded instances, none of which was trained on. The oracle tries actions in a "
    "second browser and is an upper bound, no world model. Seconds are those of deciding: the oracle's second "
    "browser counts, the agent's own does not.",
    "webarena": "Every arm runs the same WebArena tasks through BrowserGym, whose reward is the success; it ends a "
    "task at its first reward, and its judge is not DeepSeek-V3. A task that does not start counts 0. What one arm "
    "did to a site, the next one finds there, unless the site was set back. Seconds are those of deciding.",
}
Scores = Mapping[str, pd.DataFrame]


def load_arms(folder: Path) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Every arm's rows sorted by case, and for each arm that is left out the reason."""
    found, left_out = {}, {}
    reasons = _reasons(folder)
    for arm in ARM_LABELS:
        path = folder / f"{arm}.csv"
        if not path.exists():
            left_out[arm] = reasons.get(arm) or why_not(folder)
            continue
        try:
            found[arm] = _read(path)
        except UserError as error:
            left_out[arm] = str(error)
    return found, left_out


def _reasons(folder: Path) -> dict[str, str]:
    """Why the stage itself left arms out (the oracle, on hosted sites); nothing when it has not finished."""
    try:
        return {str(arm): str(why) for arm, why in read_json(folder / DONE)["facts"]["left_out"].items()}
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def why_not(folder: Path) -> str:
    """Why there are no episodes: no browser (with the command that mends it), or not run yet."""
    if why_no_browser():
        return f"no browser: {AGAIN.format(folder.parent.name)}"
    return "no episodes yet (notebook 23 says why)"


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype={"case_id": str, "site": str})
        frame[list(NUMBERS)] = frame[list(NUMBERS)].astype(float)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a table of episodes ({error}); run notebook 23 again") from error
    if frame.empty or frame["case_id"].duplicated().any() or not np.isfinite(frame[list(NUMBERS)]).all(axis=None):
        raise UserError(f"{path}: no episodes, one twice, or no numbers; run notebook 23 again")
    return frame.sort_values("case_id", ignore_index=True)


def difference(scores: Scores, a: str, b: str, seed: int) -> Interval | None:
    """Success of ``b`` minus ``a``, paired over instances; None unless both ran the same ones."""
    if a not in scores or b not in scores or list(scores[a]["case_id"]) != list(scores[b]["case_id"]):
        return None
    return paired_difference(scores[a]["success"], scores[b]["success"], seed)


def agent_table(scores: Scores, seed: int, left_out: Mapping[str, str], caption: str) -> Table:
    """One row per arm, and the same by task."""
    paper = pd.read_csv(PAPER_RESULTS / "table2_web_pages.csv").set_index("model")["agent_success"]
    rows = []
    for arm in (arm for arm in ARM_LABELS if arm in scores):
        frame = scores[arm]
        row: dict[str, Any] = {"arm": arm, "label": ARM_LABELS[arm], "n": len(frame)}
        row |= cells("success", bootstrap_mean(frame["success"], seed))
        for other in ("sft", "policy_vote"):
            gap = None if other == arm else difference(scores, other, arm, seed)
            row |= cells(f"minus_{other}", gap) if gap is not None else {}
        steps = max(1.0, frame["steps"].sum())
        row |= {"steps": frame["steps"].mean(), "calls_per_step": frame["calls"].sum() / steps}
        row |= {"seconds_per_step": frame["seconds"].sum() / steps, "faults": int(frame["fault"].sum())}
        rows.append(row | {"paper_success": paper.get(arm, np.nan)})
    data = pd.DataFrame(rows)
    blocks = {"All tasks": _printed(data), "Success by task (%)": _by_task(scores)}
    title = "Web agent: success rate (%), 95 % intervals (Table 2, last column)"
    return Table("table2_web_agent", title, data, blocks, caption, dict(left_out))


def agent_caption(warnings: Sequence[str], profile: str, seed: int, stage: StageRecord) -> str:
    """How the agent was run: numbers of C.2, rules for the oddities, what answered for the roles, provenance."""
    names = ("world", "candidates", "kept", "values", "max_steps", "stop_rule", "unparsable_scores", "policy", "value")
    found = {name: setting([stage], f"web_page.agent.{name}") for name in names}
    words = [
        *warnings,
        f"Profile {profile}, seed {seed if stage.seed is None else stage.seed}.",
        ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items() if value is not None) + ".",
        WORLDS["webarena" if found["world"] == "webarena" else "local"],
        "Brackets: 95 % percentile bootstrap over instances. The paper's numbers are of 812 WebArena tasks with",
        "DeepSeek-V3; levels are not comparable.",
        provenance_text(stage.provenance) or "Provenance not recorded.",
    ]
    return " ".join(words)


def _printed(data: pd.DataFrame) -> pd.DataFrame:
    columns: dict[str, Any] = {"agent": data["label"], "success": interval_column(data, "success")}
    columns["minus SFT (paired)"] = interval_column(data, "minus_sft", sign=True)
    columns["minus most frequent (paired)"] = interval_column(data, "minus_policy_vote", sign=True)
    columns["steps"] = [f"{value:.1f}" for value in data["steps"]]
    columns["calls per step"] = [f"{value:.0f}" for value in data["calls_per_step"]]
    columns["seconds per step"] = [f"{value:.2f}" for value in data["seconds_per_step"]]
    columns["failed by a fault"], columns["n"] = data["faults"], data["n"]
    columns["paper: agent success"] = [EMPTY if pd.isna(value) else f"{value:.2f}" for value in data["paper_success"]]
    return pd.DataFrame(columns)


def _by_task(scores: Scores) -> pd.DataFrame:
    """Success by site or task; by domain beside the paper's where these are the domains of WebArena."""
    wide = {arm: 100 * frame.groupby("site")["success"].mean() for arm, frame in scores.items()}
    counts = next(iter(scores.values())).groupby("site")["success"].size().rename("n")
    table = pd.concat([counts, pd.DataFrame(wide).round(0)], axis=1)
    paper = pd.read_csv(PAPER_RESULTS / "table6_web_agent_domains.csv").set_index("domain")
    if set(table.index) <= set(paper.index):
        table = table.join(paper[["sft", "rlvr"]].add_prefix("paper: "))
    return table.reset_index()


__all__ = ["ARM_LABELS", "STAGE", "agent_caption", "agent_table", "difference", "load_arms", "why_not"]
