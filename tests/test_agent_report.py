"""The agent's table and claim C4 on made-up episodes with known answers; hostile text in it is shown as text."""

import io
import json

import pandas as pd
import pytest
from PIL import Image

from rlvr_lib.evaluation.agent_run import screen
from rlvr_lib.evaluation.agent_session import Case
from rlvr_lib.profile import load_profile
from rlvr_lib.report import agent_tables
from rlvr_lib.report.agent_tables import ARM_LABELS, agent_table, load_arms
from rlvr_lib.report.agent_widgets import read_episodes, step_html, watch
from rlvr_lib.report.build import build_report, runs_folder
from rlvr_lib.report.claims import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, evaluate_claims

ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
SHARES = {"policy": 0.2, "policy_vote": 0.3, "sft": 0.4, "rlvr": 0.6, "oracle": 0.8}


def episodes(share, n=100):
    """``share`` of the cases succeed, always the first ones."""
    rows = [(f"shop/{at}", "shop" if at % 2 else "forum", float(at < share * n), 2.0, 178, 0.5, 0.0) for at in range(n)]
    return pd.DataFrame(rows, columns=["case_id", "site", "success", "steps", "calls", "seconds", "fault"])


def write(profile, shares):
    folder = runs_folder(profile) / agent_tables.STAGE
    folder.mkdir(parents=True, exist_ok=True)
    for arm, share in shares.items():
        episodes(share).to_csv(folder / f"{arm}.csv", index=False)
    return folder


@pytest.fixture
def profile(tmp_path):
    return load_profile("laptop", seed=0, overrides=f"runs_dir={tmp_path}/runs reports_dir={tmp_path}/reports")


@pytest.mark.parametrize(("rlvr", "verdict"), [(0.6, REPRODUCED), (0.41, INCONCLUSIVE), (0.2, NOT_REPRODUCED)])
def test_verdicts_of_c4(profile, rlvr, verdict):
    write(profile, SHARES | {"rlvr": rlvr})
    found = next(one for one in evaluate_claims(runs_folder(profile), 0) if one.id == "C4")
    part = found.parts[0]
    assert found.verdict == verdict and [one.name for one in found.parts if one.decides] == ["success"]
    assert part.interval.n == 100 and part.interval.mean == pytest.approx(rlvr - 0.4) and part.paper == "+2.23"


def test_c4_needs_the_same_instances(profile):
    folder = write(profile, SHARES)
    episodes(0.5, n=90).to_csv(folder / "rlvr.csv", index=False)
    found = next(one for one in evaluate_claims(runs_folder(profile), 0) if one.id == "C4")
    assert found.verdict == NOT_RUN and "different instances" in found.why


def test_the_table_says_what_a_number_rests_on():
    table = agent_table({arm: episodes(share) for arm, share in SHARES.items()}, 0, {}, "caption")
    rows = table.data.set_index("arm")
    assert list(rows.index) == list(ARM_LABELS) and (rows["n"] == 100).all()
    assert rows.loc["rlvr", "success"] == 60 and rows.loc["rlvr", "success_low"] < 60 < rows.loc["rlvr", "success_high"]
    assert rows.loc["rlvr", "minus_sft"] == pytest.approx(20) and pd.isna(rows.loc["sft", "minus_sft"])
    assert rows.loc["rlvr", "calls_per_step"] == 89 and rows.loc["rlvr", "seconds_per_step"] == 0.25
    assert rows.loc["rlvr", "paper_success"] == 14.29 and pd.isna(rows.loc["oracle", "paper_success"])
    assert "upper bound" in ARM_LABELS["oracle"]
    assert list(table.blocks["Success by task (%)"]["n"]) == [50, 50]


def test_without_a_browser_the_report_names_the_command_that_mends_it(profile, monkeypatch):
    monkeypatch.setattr(agent_tables, "why_no_browser", lambda: "no Chromium found")
    monkeypatch.setattr("rlvr_lib.report.build._figures", lambda *_: [])
    page = build_report(profile).with_suffix(".md").read_text()
    line = next(line for line in page.splitlines() if "notebook 23" in line)
    assert "not run: no browser" in line and "rlvr get-browser" in line
    found = next(one for one in evaluate_claims(runs_folder(profile), 0) if one.id == "C4")
    assert found.verdict_text.startswith("not run (no browser")


def test_damaged_tables_are_named(tmp_path):
    (tmp_path / "sft.csv").write_text("case_id,site\n1,2\n")
    episodes(0.5).to_csv(tmp_path / "rlvr.csv", index=False)
    found, left_out = load_arms(tmp_path)
    assert set(found) == {"rlvr"} and "sft.csv" in left_out["sft"] and "run notebook 23 again" in left_out["sft"]


def test_the_caption_names_rules_and_upper_bound(profile, monkeypatch):
    monkeypatch.setattr("rlvr_lib.report.build._figures", lambda *_: [])
    write(profile, SHARES)
    page = build_report(profile).read_text()
    assert "Web agent: success rate" in page and "upper bound, no world model" in page


# ---- watching
def record(text):
    candidate = {"text": text, "votes": 3, "prediction": text, "changes": text, "state": text, "value": 2.5}
    step = {"url": text, "action": text, "candidates": [candidate, candidate | {"value": None}], "refused": text}
    step |= {"calls": {"propose": 4}, "seconds": 0.1}
    facts = {"arm": "rlvr", "name": "shop", "seed": 1, "goal": text, "template": "t", "success": False}
    return facts | {"ended": text, "fault": text, "calls": {"propose": 4}, "seconds": 0.1, "steps": [step]}


def test_hostile_text_is_shown_as_text(tmp_path):
    page = step_html(tmp_path, record(ATTACK), 0)
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    (tmp_path / "rlvr.jsonl").write_text(json.dumps(record(ATTACK)) + "\n")
    assert "<script" not in watch(tmp_path, "rlvr").data and len(read_episodes(tmp_path, "rlvr")) == 1


def test_a_picture_is_drawn_anew_and_a_broken_one_left_out(tmp_path):
    path = screen(tmp_path, "rlvr", Case("shop", 1), 0)
    path.parent.mkdir(parents=True)
    image = Image.new("RGB", (1280, 2048), "white")
    image.paste("black", (0, 0, 300, 200))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    assert 'src="data:image/png;base64,' in step_html(tmp_path, record("click [1]"), 0)
    path.write_bytes(b"<svg onload=alert(1)>")
    assert "<img" not in step_html(tmp_path, record("click [1]"), 0)
