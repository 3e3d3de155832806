"""Table 2 and claim C3 on made-up scores with known answers; pages in notebooks show hostile text as text."""

import pandas as pd
import pytest

from rlvr_lib.profile import load_profile
from rlvr_lib.report.build import build_report, runs_folder
from rlvr_lib.report.claims import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, evaluate_claims
from rlvr_lib.report.figures import web_page_curves
from rlvr_lib.report.web_tables import by_site, table2
from rlvr_lib.report.web_widgets import browse_pages, page_html, site_summary
from rlvr_lib.worlds.web_transitions import WebTransition

ATTACK = "<script>alert('x')</script>"
LEVELS = {"base": (0.1, 0.1), "sft": (0.5, 0.56), "rlvr": (0.7, 0.64), "no_change": (0.3, 0.3)}


def scores(precision, recall, split="in_distribution", n=80):
    rows = []
    for index in range(n):
        wave = 0.02 * ((index * 7) % 5 - 2)
        p, r = precision + wave, recall + wave
        f1 = 2 * p * r / (p + r)
        rows.append((f"shop/t/{index // 4}/{index % 4}", "shop", split, True, p, r, f1, f1, f1, 0.0, 9, True))
    names = "case_id site split changed precision recall f1 f1_released f1_paper exact response_tokens ended"
    return pd.DataFrame(rows, columns=names.split())


def write(folder, levels):
    folder.mkdir(parents=True, exist_ok=True)
    for model, level in levels.items():
        held = scores(*level, split="held_out", n=40).assign(site="tracker")
        held["case_id"] = held["case_id"].str.replace("shop", "tracker")
        pd.concat([scores(*level), held]).to_csv(folder / f"{model}.csv", index=False)


@pytest.fixture
def profile(tmp_path):
    return load_profile("laptop", seed=0, overrides=f"runs_dir={tmp_path}/runs reports_dir={tmp_path}/reports")


def c3(profile, levels):
    write(runs_folder(profile) / "web_page_evaluation", levels)
    return next(one for one in evaluate_claims(runs_folder(profile), 0) if one.id == "C3")


@pytest.mark.parametrize(
    ("rlvr", "verdict"),
    [
        ((0.7, 0.64), REPRODUCED),
        ((0.5, 0.56), INCONCLUSIVE),
        ((0.4, 0.3), NOT_REPRODUCED),
        ((0.6, 0.8), NOT_REPRODUCED),
    ],
)
def test_verdicts_of_c3(profile, rlvr, verdict):
    found = c3(profile, LEVELS | {"rlvr": rlvr})
    assert found.verdict == verdict, found
    assert [part.name for part in found.parts if part.decides] == ["F1", "precision gain minus recall gain"]


def test_c3_is_not_run_without_scores(profile):
    found = c3(profile, {"sft": LEVELS["sft"]})
    assert found.verdict == NOT_RUN and "RLVR" in found.why


def test_table_2_stands_beside_the_papers_numbers(profile):
    frames = {name: scores(*level) for name, level in LEVELS.items()}
    table = table2(frames, 0, {}, "caption")
    rows = table.data.set_index("model")
    assert list(rows.index) == ["base", "sft", "rlvr", "no_change"]
    assert rows.loc["rlvr", "precision"] == pytest.approx(70, abs=0.1) and rows.loc["rlvr", "paper_f1"] == 65.11
    assert rows.loc["rlvr", "difference_to_sft_recall"] == pytest.approx(8, abs=0.1)
    assert rows.loc["rlvr", "n"] == 80 and pd.isna(rows.loc["no_change", "paper_f1"])
    printed = table.blocks["Seen sites"]
    assert {"F1", "paper: F1", "paper: agent success"} <= set(printed) and len(printed) == 4
    assert by_site(frames, 0, "").blocks["Seen sites"].loc[0, "n"] == 80


def test_the_report_shows_table_and_claim(profile, monkeypatch):
    monkeypatch.setattr("rlvr_lib.report.build._figures", lambda *_: [])
    c3(profile, LEVELS)
    page = build_report(profile).read_text()
    assert "Table 2. Web pages" in page and "Held-out site and tasks" in page
    tables = runs_folder(profile).parents[1] / "reports" / "laptop" / "tables"
    assert {"table2_web_pages.csv", "table2_by_site.md"} <= {path.name for path in tables.iterdir()}


def test_curves_draw_what_is_logged(tmp_path):
    rows = [{"step": step, "f1": 0.1 * step, "validation_f1": 0.1, "kl": 0.0} for step in range(1, 4)]
    web_page_curves({"F1 reward": rows}, tmp_path / "web_page_curves")
    assert (tmp_path / "web_page_curves.png").stat().st_size > 0


def test_hostile_pages_and_answers_are_shown_as_text():
    lines = (f"[2] link '{ATTACK}'",)
    item = WebTransition("shop", ATTACK, 1, 0, ATTACK, ATTACK, (), f"[1] {ATTACK}", ATTACK, "", "", lines, (), ())
    for page in (page_html(item), page_html(item, f"New items:\n{ATTACK}\n{ATTACK * 2000}")):
        assert "<script" not in page and "&lt;script" in page
    assert "<script" not in browse_pages([item], [ATTACK]).data
    assert site_summary([item]).loc["shop", "transitions"] == 1
