"""The report on made-up scores with known answers: tables, verdicts, pages, figures, missing parts."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from rlvr_lib.artifacts import ROOT, UserError, sha256_of
from rlvr_lib.evaluation.statistics import Interval
from rlvr_lib.profile import load_profile
from rlvr_lib.report import figures
from rlvr_lib.report.build import build_report, claims_of, report_folder, runs_folder, table1_of
from rlvr_lib.report.claims import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_RUN,
    REGISTRY,
    REPRODUCED,
    Part,
    claim,
    combined,
    evaluate_claims,
    verdict,
)
from rlvr_lib.report.export import export_reference
from rlvr_lib.report.formats import latex_text, markdown_text
from rlvr_lib.report.html import render_html
from rlvr_lib.report.scores import LABELS, load_scores, read_scores
from rlvr_lib.report.stages import StageRecord, log_label, metrics_logs, samples_text
from rlvr_lib.report.tables import PAPER_RESULTS, paper_table, per_game, table1

ATTACK = "<script>alert('x')</script>"


def cases(unchanged_right, changed_right, split="in_distribution", game="kitchen", n=(60, 40)):
    """``n`` unchanged and changed cases of which the first so many are right; corrected: one changed case fewer."""
    rows = []
    for changed, right, total in ((False, unchanged_right, n[0]), (True, changed_right, n[1])):
        for index in range(total):
            hit = int(index < right)
            corrected = int(index < right - changed)
            case = f"{split}/{game}/{changed:d}/{index}"
            rows.append((case, game, split, changed, hit, 0.3 * hit, corrected, True, 20 + index, True))
    names = [
        "case_id",
        "game",
        "split",
        "changed",
        "binary",
        "task_specific",
        "corrected",
        "parsed",
        "response_tokens",
        "ended",
    ]
    return pd.DataFrame(rows, columns=names)


RIGHT = {"base": (6, 0), "sft": (24, 10), "rlvr_binary": (48, 20), "rlvr_task_specific": (48, 21)}


@pytest.fixture
def profile(tmp_path):
    return load_profile("laptop", seed=0, overrides=f"runs_dir={tmp_path}/runs reports_dir={tmp_path}/reports")


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes most of the time of a report; most tests do not look at it."""
    monkeypatch.setattr("rlvr_lib.report.build._figures", lambda *_: [])


def write_scores(folder, models=RIGHT):
    folder.mkdir(parents=True, exist_ok=True)
    for model, right in models.items():
        held_out = cases(*[x // 2 for x in right], split="held_out", game="garden", n=(30, 20))
        pd.concat([cases(*right), held_out]).to_csv(folder / f"{model}.csv", index=False)


def write_stage(runs, name, facts=None, **more):
    record = {"stage": name, "seconds": 61.0, "sha256": "abcdef" * 10, "seed": 0, "settings": {}, "outputs": {}}
    record |= {"facts": facts or {}, "provenance": {"commit": "c0ffee", "date": "2026-01-02"}} | more
    (runs / name).mkdir(parents=True, exist_ok=True)
    (runs / name / "done.json").write_text(json.dumps(record))


# ---- the paper's numbers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["table1_text_games", "reference_rows"])
def test_percentages_of_the_paper_are_the_integer_counts(name):
    table = paper_table(name)
    assert (table["n_unchanged"] == 1744).all() and (table["n_changed"] == 1210).all()
    for row in table.itertuples():
        near = 0.05 if getattr(row, "counts", "exact") == "nearest" else 0.00501
        assert 100 * row.unchanged_correct / 1744 == pytest.approx(row.unchanged, abs=near)
        assert 100 * row.changed_correct / 1210 == pytest.approx(row.changed, abs=near)
        assert 100 * (row.unchanged_correct + row.changed_correct) / 2954 == pytest.approx(row.overall, abs=near)


def test_differences_of_claims_follow_from_table_1():
    import yaml

    paper, claims = paper_table("table1_text_games"), yaml.safe_load((PAPER_RESULTS / "claims.yaml").read_text())
    assert list(claims) == [f"C{number}" for number in range(1, 14)]
    for name, (a, b) in {"C1": ("sft", "rlvr_binary"), "C2": ("rlvr_binary", "rlvr_task_specific")}.items():
        for part, text in claims[name]["parts"].items():
            assert float(text) == pytest.approx(paper.loc[b, part] - paper.loc[a, part], abs=1e-9)


# ---- score files -----------------------------------------------------------------------------------------------------
def test_words_for_true_and_false_are_read(tmp_path):
    path = tmp_path / "sft.csv"
    frame = cases(3, 2)
    frame["changed"] = frame["changed"].map({True: "true", False: "FALSE"})
    frame["binary"] = frame["binary"].astype(bool)
    frame["response_tokens"] = None  # reference rows have no response
    frame.to_csv(path, index=False)
    read = read_scores(path)
    assert (read["changed"].sum(), read["binary"].sum()) == (40, 5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "", "cannot be read"),
        (lambda text: text.replace("binary", "exact", 1), "no column binary"),
        (lambda text: text.splitlines()[0] + "\n", "no cases"),
        (lambda text: text + text.splitlines()[1] + "\n", "occurs twice"),
        (lambda text: text.rsplit(",", 4)[0], "not a number"),  # cut short in the last line
        (lambda text: text.replace("False,1", "False,oops", 1), "'oops', not a number"),
    ],
)
def test_damaged_score_files_are_named(tmp_path, damage, words):
    path = tmp_path / "sft.csv"
    path.write_text(damage(cases(3, 2).to_csv(index=False)))
    with pytest.raises(UserError, match=words) as caught:
        read_scores(path)
    assert "sft.csv" in str(caught.value) and "\n" not in str(caught.value)


# ---- tables ----------------------------------------------------------------------------------------------------------
def make_table(tmp_path, models=RIGHT):
    write_scores(tmp_path / "e", models)
    scores, left_out = load_scores(tmp_path / "e")
    return table1(scores, 0, left_out, "profile laptop, commit c0ffee")


def test_table1_has_the_known_numbers(tmp_path):
    table = make_table(tmp_path)
    row = table.data.set_index(["split", "model"]).loc[("in_distribution", "rlvr_binary")]
    assert (row.unchanged, row.changed, row.overall) == (80.0, 50.0, 68.0)
    assert (row.n_unchanged, row.n_changed, row.n_overall) == (60, 40, 100)
    assert (row.corrected_overall, row.difference_to_sft_overall) == (67.0, 34.0)
    assert row.task_specific_reward == pytest.approx(0.3 * 0.68)
    half = 196 * np.sqrt(0.68 * 0.32 / 100)
    assert row.overall - row.overall_low == pytest.approx(half, rel=0.15)
    assert (row.paper_unchanged, row.paper_changed, row.paper_overall) == (73.57, 33.14, 57.01)
    held_out = table.data.set_index(["split", "model"]).loc[("held_out", "sft")]
    assert (held_out.unchanged, held_out.n_overall) == (40.0, 50)
    assert np.isnan(held_out.paper_overall) and np.isnan(held_out.difference_to_sft_overall)


def test_the_papers_numbers_stay_in_columns_of_their_own(tmp_path):
    block = make_table(tmp_path).blocks["In-distribution games"].set_index("model")
    assert block.loc["SFT", "paper: overall"] == "32.87"
    assert block.loc["SFT", "overall"].startswith("34.0 [")
    assert block.loc["GPT-4 (as reported by an earlier paper)", "overall"] == "–"
    assert not [name for name in make_table(tmp_path).blocks["Held-out games"] if name.startswith("paper")]


def test_missing_models_are_left_out_with_a_reason(tmp_path):
    table = make_table(tmp_path, {"sft": (24, 10)})
    assert set(table.left_out) == set(LABELS) - {"sft"}
    assert "oracle.csv does not exist" in table.left_out["oracle"]
    text = markdown_text(table)
    assert "left out" in text and "oracle.csv" in text
    unevaluated = table.data[table.data["model"] == "rlvr_binary"].iloc[0]
    assert np.isnan(unevaluated["overall"]) and unevaluated["paper_overall"] == 57.01


def test_unlike_cases_give_no_paired_difference(tmp_path):
    write_scores(tmp_path / "e")
    cases(50, 30, n=(70, 40)).to_csv(tmp_path / "e" / "rlvr_binary.csv", index=False)
    scores, left_out = load_scores(tmp_path / "e")
    rows = table1(scores, 0, left_out, "").data.set_index(["split", "model"])
    row = rows.loc[("in_distribution", "rlvr_binary")]
    assert np.isnan(row.difference_to_sft_overall) and row.overall == pytest.approx(100 * 80 / 110, abs=1e-3)


def test_every_form_of_a_table_carries_its_provenance(profile, no_figures):
    write_scores(runs_folder(profile) / "text_game_evaluation")
    settings = {"text_game.evaluation": {"temperature": 1.0}, "text_game.data": {"source": "embedded"}}
    write_stage(runs_folder(profile), "text_game_evaluation", settings=settings)
    build_report(profile)
    for suffix in (".csv", ".md", ".tex"):
        text = (report_folder(profile) / "tables" / f"table1_text_games{suffix}").read_text()
        for word in ("laptop", "seed 0", "c0ffee", "2026-01-02", "temperature 1.0", "embedded"):
            assert word in text, (suffix, word)


def test_per_game_table(tmp_path):
    write_scores(tmp_path / "e")
    table = per_game(load_scores(tmp_path / "e")[0], 0, "")
    rows = table.data.set_index(["game", "model"])
    assert rows.loc[("kitchen", "sft"), "overall"] == 34.0 and rows.loc[("garden", "sft"), "changed"] == 25.0
    assert table.blocks["Held-out games"].set_index("game").loc["garden", "SFT"] == "34 / 25"
    assert "\\begin{tabular}" in latex_text(table)


# ---- claims ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("interval", "higher", "expected"),
    [
        (Interval(0.2, 0.1, 0.3, 100), True, REPRODUCED),
        (Interval(-0.2, -0.3, -0.1, 100), True, NOT_REPRODUCED),
        (Interval(-0.2, -0.3, -0.1, 100), False, REPRODUCED),
        (Interval(0.2, 0.1, 0.3, 100), False, NOT_REPRODUCED),
        (Interval(0.2, -0.1, 0.3, 100), True, INCONCLUSIVE),
        (Interval(0.2, 0.0, 0.3, 100), True, INCONCLUSIVE),
        (Interval(1.0, 1.0, 1.0, 5), True, INCONCLUSIVE),  # five cases prove nothing
        (None, True, INCONCLUSIVE),
    ],
)
def test_verdict_of_a_part(interval, higher, expected):
    assert verdict(interval, higher) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, INCONCLUSIVE], INCONCLUSIVE),
        ([REPRODUCED, INCONCLUSIVE, NOT_REPRODUCED], NOT_REPRODUCED),
    ],
)
def test_verdict_of_a_claim(verdicts, expected):
    parts = [Part(f"part {index}", None, text) for index, text in enumerate(verdicts)]
    assert combined(parts) == expected
    assert combined([*parts, Part("context", None, NOT_REPRODUCED, decides=False)]) == expected


def judged(tmp_path, models):
    write_scores(tmp_path / "text_game_evaluation", models)
    return {one.id: one for one in evaluate_claims(tmp_path, seed=0)}


def test_claims_on_made_up_scores(tmp_path):
    claims = judged(tmp_path, RIGHT)
    parts = {part.name: part for part in claims["C1"].parts if part.decides}
    assert claims["C1"].verdict == REPRODUCED and set(parts) == {"overall", "unchanged", "changed"}
    assert parts["unchanged"].interval.mean == pytest.approx(0.4) and parts["changed"].interval.n == 40
    assert parts["changed"].paper == "+8.93"
    assert claims["C2"].verdict == INCONCLUSIVE  # one case of a hundred more
    assert claims["C5"].verdict_text == "not run (no RLVR model has been evaluated yet)"
    assert claims["C9"].verdict_text == "not run (no group sizes have been compared yet)"


def test_claim_refuted_in_one_part_is_not_reproduced(tmp_path):
    claims = judged(tmp_path, {"sft": (24, 30), "rlvr_binary": (50, 10), "rlvr_task_specific": (24, 10)})
    parts = {part.name: part.verdict for part in claims["C1"].parts if part.decides}
    assert parts == {"overall": INCONCLUSIVE, "unchanged": REPRODUCED, "changed": NOT_REPRODUCED}
    assert (claims["C1"].verdict, claims["C2"].verdict) == (NOT_REPRODUCED, NOT_REPRODUCED)


def test_claims_say_why_they_were_not_run(tmp_path):
    claims = judged(tmp_path, {"sft": (24, 10)})
    assert claims["C1"].verdict == NOT_RUN and "rlvr_binary.csv does not exist" in claims["C1"].why
    cases(9, 9, n=(10, 90)).to_csv(tmp_path / "text_game_evaluation" / "rlvr_binary.csv", index=False)
    again = {one.id: one for one in evaluate_claims(tmp_path, seed=0)}
    assert again["C1"].verdict == NOT_RUN and "different cases" in again["C1"].why


def test_a_later_part_plugs_in_its_claims(tmp_path, monkeypatch):
    evaluate_claims(tmp_path, seed=0)  # all others have registered
    monkeypatch.setitem(REGISTRY, "C5", REGISTRY["C5"])  # put back afterwards
    gap = Interval(0.1, 0.05, 0.2, 500)
    claim("C5")(lambda evidence: ([Part("LPIPS", gap, verdict(gap), unit="plain")], ""))
    found = {one.id: one for one in evaluate_claims(tmp_path, seed=0)}["C5"]
    assert found.verdict == REPRODUCED and found.ours == "LPIPS +0.100 [+0.050, +0.200]"


# ---- the page --------------------------------------------------------------------------------------------------------
def test_report_with_nothing_run(profile, no_figures):
    path = build_report(profile, remaining=["10_text_game_data, about 1 min"])
    page, text = path.read_text(), path.with_suffix(".md").read_text()
    for content in (page, text):
        assert "10_text_game_data, about 1 min" in content and "no model has been evaluated yet" in content
    claims = pd.read_csv(path.parent / "claims.csv")
    assert list(claims["claim"]) == [f"C{number}" for number in range(1, 14)]
    assert claims["verdict"].str.startswith("not run (").all()


def full_run(profile):
    runs = runs_folder(profile)
    write_scores(runs / "text_game_evaluation")
    outputs = {"sft.csv": {"sha256": sha256_of(runs / "text_game_evaluation" / "sft.csv")}}
    write_stage(runs, "text_game_evaluation", outputs=outputs)
    start = {"text_game.sft": {"start": "released"}}
    write_stage(runs, "text_game_sft", {"peak_memory_gib": 1.25, "substitutions": [ATTACK]}, settings=start)
    losses = [{"step": step, "loss": 2.0 - 0.1 * step} for step in range(9)]
    rewards = [{"step": step, "reward": 0.1 * step, "kl": None} for step in range(5)] + [{"step": 5, "seconds": 1}]
    for name, records in {"text_game_sft": losses, "text_game_rlvr_binary": rewards}.items():
        (runs / name).mkdir(exist_ok=True)
        lines = [json.dumps(record) for record in records]
        (runs / name / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "lo')
    return runs


def test_full_report(profile):
    runs = full_run(profile)
    (runs / "broken").mkdir()
    (runs / "broken" / "done.json").write_text("{")
    path = build_report(profile, remaining=[ATTACK])
    page, text = path.read_text(), path.with_suffix(".md").read_text()
    names = {file.name for file in (path.parent / "figures").iterdir()}
    assert {"text_game_curves.png", "text_game_curves.pdf", "table1_bars.png", "text_game_sft_loss.pdf"} <= names
    for content in (page, text):
        assert "<script" not in content and "&lt;script&gt;" in content
        for words in ("57.01", "68.0 [", "1:01", "1.2", "abcdefabcdef", "text-game SFT from the released weights"):
            assert words in content, words
        assert "broken/done.json cannot be read" in content
    assert page.count("data:image/png;base64,") == 3 and len(page) < 1_000_000
    assert not re.search(r'(src|href)="(?!data:|notebooks/)', page)


def test_game_names_are_escaped(profile, no_figures):
    folder = runs_folder(profile) / "text_game_evaluation"
    folder.mkdir(parents=True)
    cases(24, 10, game=ATTACK).to_csv(folder / "sft.csv", index=False)
    path = build_report(profile)
    assert "<script" not in path.read_text() and "<script" not in path.with_suffix(".md").read_text()


def test_edited_scores_are_told(profile, no_figures):
    runs = full_run(profile)
    assert "was edited" not in build_report(profile).read_text()
    cases(60, 40).to_csv(runs / "text_game_evaluation" / "sft.csv", index=False)
    assert "text_game_evaluation/sft.csv was edited" in build_report(profile).read_text()


def test_smoke_run_judges_nothing(tmp_path, no_figures):
    smoke = load_profile("smoke", overrides=f"runs_dir={tmp_path}/runs reports_dir={tmp_path}/reports")
    full_run(smoke)
    path = build_report(smoke)
    assert "numbers mean nothing" in path.read_text()
    assert pd.read_csv(path.parent / "claims.csv")["verdict"].str.startswith("not run").all()
    with pytest.raises(UserError, match="smoke"):
        export_reference(smoke)


def test_export_for_reference(profile):
    with pytest.raises(UserError, match="rlvr reproduce"):
        export_reference(profile)
    full_run(profile)
    build_report(profile)
    for place in ("pusht/real2sim_evaluation/episodes.csv", "pusht/real2sim_evaluation.previous/episodes.csv"):
        path = runs_folder(profile) / place
        path.parent.mkdir(parents=True)
        path.write_text("success\n1.0\n")
    for name in ("00_tour.html", "00_tour.ipynb"):
        (report_folder(profile) / "notebooks").mkdir(exist_ok=True)
        (report_folder(profile) / "notebooks" / name).write_text(f"<p>executed in {ROOT}/notebooks, {ROOT}</p>")
    stale = report_folder(profile).parent / "reference" / "scores" / "old.csv"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    target = export_reference(profile)
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "claims.csv", "tables/table1_text_games.tex"} <= files
    assert {"figures/text_game_curves.png", "scores/text_game_evaluation/rlvr_binary.csv"} <= files
    assert (target / "notebooks" / "00_tour.html").read_text() == "<p>executed in notebooks, .</p>"
    assert {"notebooks/00_tour.html", "scores/pusht/real2sim_evaluation/episodes.csv"} <= files
    assert not stale.exists() and not [
        name for name in files if name.endswith((".pdf", ".ipynb")) or "previous" in name
    ]


def test_tables_of_a_rebuilt_report_are_equal(profile, no_figures):
    full_run(profile)

    def contents():
        files = build_report(profile).parent.rglob("*.*")  # the pages themselves carry the date
        return {path.name: path.read_bytes() for path in files if not path.name.startswith("report.")}

    assert contents() == contents()


def test_notebooks_get_the_same_tables(profile):
    assert "no model has been evaluated yet" in table1_of(profile).data
    full_run(profile)
    assert "68.0 [" in table1_of(profile).data and "57.01" in table1_of(profile).data
    two = claims_of(profile, ["C1", "C2"]).data
    assert (
        "<b>C1</b>" in two and "<b>C2</b>" in two and "<b>C3</b>" not in two and "<b>C3</b>" in claims_of(profile).data
    )


def test_logs_of_live_trainings_and_checkpoints(tmp_path):
    for name in (
        "text_game_sft/live",
        "text_game_sft/checkpoints/c1",
        "text_game_base.previous",
        "text_game_rlvr_binary",
    ):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    logs = metrics_logs(tmp_path, "text_game")
    assert [log_label(name) for name in logs] == ["RLVR, binary reward", "SFT, short live training"]


# ---- figures ---------------------------------------------------------------------------------------------------------
def test_absent_keys_are_not_drawn():
    records = [{"step": 0, "reward": 0.1}, {"step": 1}, {"step": 2, "reward": 0.3, "kl": float("nan"), "entropy": "?"}]
    steps, values = figures.series(records, "reward")
    assert steps.tolist() == [0, 2] and values.tolist() == [0.1, 0.3]
    assert len(figures.series(records, "kl")[0]) == len(figures.series(records, "entropy")[0]) == 0
    figure = figures.text_game_curves({"run": records, "empty": []})
    assert [len(axes.lines) for axes in figure.axes] == [2, 0, 0, 0, 0, 0]


def test_smoothing_keeps_constants_and_takes_means():
    assert figures.smooth(np.full(40, 3.0)) == pytest.approx(np.full(40, 3.0))
    assert figures.smooth(np.array([0.0, 3.0, 6.0, 0.0]), width=3) == pytest.approx([1.5, 3.0, 3.0, 3.0])
    assert figures.smooth(np.array([2.0]), width=25).tolist() == [2.0]


def test_figures_are_written_in_equal_bytes(tmp_path):
    records = [{"step": step, "loss": 1.0 / (step + 1), "validation_loss": 0.5} for step in range(5)]
    for name in ("a", "b"):
        figures.likelihood_curve(records, tmp_path / name)
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_bars_show_ours_and_the_papers(tmp_path):
    axes = figures.accuracy_bars(make_table(tmp_path).data).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == [10, 40, 80, 80, 0, 25, 50, 52.5, 6, 34, 68, 69]
    markers = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "D"]
    assert markers[2] == [7.11, 32.87, 57.01, 63.24]


def test_render_needs_no_figure_or_table():
    from rlvr_lib.report.build import Report

    assert "None yet." in render_html(Report("laptop", 0))


def test_explaining_pictures(tmp_path):
    class Letters:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(letter) for letter in text]}

        def decode(self, ids):
            return chr(ids[0])

    advantages = [text.get_text() for text in figures.pipeline_picture().axes[0].texts if text.get_text()[:1] in "+-"]
    rewards = np.array([1, 0, 1, 0, 0])
    expected = (rewards - rewards.mean()) / rewards.std(ddof=1)
    assert [float(text) for text in advantages if text] == pytest.approx(expected.round(2).tolist())
    strip = figures.token_strip(Letters(), "a $b\n" * 60, limit=100).axes[0]
    assert len(strip.texts) == 100 and strip.get_title() == "300 characters, 300 tokens (first 100 shown)"


def test_a_caption_says_how_often_each_kind_was_sampled():
    settings = {"video.evaluation": {"samples": {"single_step": 12, "multi_step": 2}, "temperature": 1.0, "top_k": 100}}

    def told(name):
        return samples_text(StageRecord(name, settings=settings))

    assert "scores averaged: 12 (single-step), 2 (multi-step): temperature 1.0" in told("video_evaluation")
    assert "12 (single-step)" in told("rope_evaluation") and "multi-step" not in told("rope_evaluation")
    assert told("video_base_evaluation").startswith("One sample per segment")
