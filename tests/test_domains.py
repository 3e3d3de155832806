"""The other domains: a derived profile, its stages at the smoke size, Table 4 and claim C12 from made-up scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rlvr_lib.artifacts import UserError, read_json
from rlvr_lib.evaluation.domains import domain_evaluation, evaluation_name
from rlvr_lib.profile import domain_profile, load_profile
from rlvr_lib.profile_schema_domains import DOMAINS
from rlvr_lib.report.build import build_report, weights_text
from rlvr_lib.report.claims import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, evaluate_claims
from rlvr_lib.report.domain_tables import domain_scores, paper_domains, start_note, table4
from rlvr_lib.report.stages import domain_records
from rlvr_lib.status import stage_names, stage_of
from rlvr_lib.training import released
from rlvr_lib.training.baselines import BASELINES, baseline_stage, load_baseline, make_baseline, run_baseline
from rlvr_lib.training.video import open_episodes
from rlvr_lib.training.video_stages import DOMAIN_PARTS, run_video_stage, train_and_release
from rlvr_lib.worlds.recorders import RECORDERS, one_episode
from rlvr_lib.worlds.video_episodes import load_episode

BETTER = {"mse": -0.002, "mae": -0.01, "psnr": 0.8, "ssim": 0.02, "LPIPS-Squeeze": -0.01}


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    return load_profile("smoke", overrides=f"runs_dir={root / 'runs'} reports_dir={root / 'reports'}")


@pytest.fixture(scope="module")
def rope(profile):
    """Every stage of one domain at the smoke size."""
    own = domain_profile(profile, "rope")
    for part in ("data", "frame_tokenizer", "single_step", "single_step_rlvr"):
        run_video_stage(own, part)
    for kind in BASELINES:
        run_baseline(own, kind)
    domain_evaluation(profile, "rope")
    return own


def test_a_domain_is_a_profile_of_its_own(profile):
    for domain, context in zip(DOMAINS, (2, 1, 1), strict=True):
        own = domain_profile(profile, domain)
        assert own.name == f"smoke/{domain}" and own.video.data.source == domain
        assert (own.video.data.height, own.video.data.width) == (64, 64)
        assert own.video.single_step.context == context
        assert own.video.multi_step == profile.video.multi_step and own.text_game == profile.text_game
    assert profile.video.data.source == "drawers"  # the run's own is untouched
    with pytest.raises(UserError, match="no domain 'cloth'; there are pusht, rope, granular"):
        domain_profile(profile, "cloth")


def test_public_files_need_a_folder_that_is_named(tmp_path):
    with pytest.raises(UserError, match=r"domains\.rope\.root: set it to a folder made by `rlvr convert-dino-wm`"):
        domain_profile(load_profile("paper"), "rope")
    own = domain_profile(load_profile("paper", overrides=f"domains.rope.root={tmp_path}"), "rope")
    assert own.video.data.source == "dino_wm" and own.video.data.root == str(tmp_path)
    with pytest.raises(UserError, match=r"holds no \.npz episodes"):
        open_episodes(own, tmp_path / "unused")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("domains.height=60", r"domains\.height: 60 is not a multiple of 8"),
        ("domains.width=72", r"domains\.height: tables are square"),
        ("domains.frame_tokenizer.norm_groups=7", r"domains\.frame_tokenizer\.widths: must be multiples"),
        ("domains.pusht.contexts=2", r"domains\.pusht\.contexts; did you mean domains\.pusht\.context"),
    ],
)
def test_impossible_settings_are_named(overrides, words):
    with pytest.raises(UserError, match=words):
        load_profile("laptop", overrides=overrides)


def test_every_stage_is_seen_by_status_report_and_table(profile, rope):
    runs = profile.runs_dir / "smoke"
    inner = {f"rope/video_{part}" for part in ("data", "frame_tokenizer", "single_step_base", "single_step_rlvr")}
    inner |= {f"rope/baseline_{kind}" for kind in BASELINES}
    assert set(stage_names(profile)) == inner | {"rope_evaluation"}
    for name in stage_names(profile):
        assert stage_of(profile, name, read_json(runs / name / "done.json")).state()[0] == "done"
    changed = load_profile("smoke", overrides=f"runs_dir={profile.runs_dir} domains.single_step.steps=5")
    name = "rope/video_single_step_base"
    state, why = stage_of(changed, name, read_json(runs / name / "done.json")).state()
    assert state == "stale" and "steps (4 -> 5)" in why
    records = domain_records(runs)
    assert {record.name for record in records} == inner
    assert "Rope single step trained from scratch" in weights_text(records)
    assert "video single step" not in weights_text(records)  # the robot's has not been trained
    page = build_report(profile).read_text()
    assert "Table 4" in page and "instead of DINO-WM" in page and "Table 4: PushT has not been evaluated" in page
    scores = domain_scores(runs)["rope"]
    assert scores["model"].nunique() == 11 and (scores.groupby("model").size() == 2).all()
    rows = pd.read_csv(profile.reports_dir / "smoke" / "tables" / "table4_other_domains.csv").set_index("model")
    assert rows.loc["RLVR", "paper_lpips"] == 2.08 and rows.loc["base", "mse"] > 0
    for name in ("feature world model (tokenizer encoder)", "video diffusion"):
        assert rows.loc[name, "n"] == 2 and rows.loc[name, "ssim"] != 0 and pd.isna(rows.loc[name, "paper_lpips"])
        assert f"{name} 4 updates, 8 clips" in page
    assert "Rope: base 4 updates, 8 clips" in page
    for name, key in (("rope/baseline_diffusion", "diffusion.blocks"), ("rope_evaluation", "sampling_steps")):
        changed = load_profile("smoke", overrides=f"runs_dir={profile.runs_dir} domains.baselines.{key}=2")
        assert stage_of(changed, name, read_json(runs / name / "done.json")).state()[0] == "stale"
    expected = 100 * scores.loc[scores["model"] == "copy last frame", "mse"].mean()
    assert rows.loc["copy last frame", "mse"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("source", RECORDERS)
def test_one_episode_is_that_of_the_set(source, profile, tmp_path, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)  # another test may have set it
    own = profile if source == "drawers" else domain_profile(profile, source)
    settings = own.video.data.model_copy(update={"episodes": 2})
    RECORDERS[source](tmp_path, own.seed, settings)
    written = [load_episode(path) for path in sorted(tmp_path.rglob("*.npz"))]
    assert len(written) == 2
    made = one_episode(settings, own.seed, number=1)
    assert (made.frames == written[1].frames).all() and (made.actions == written[1].actions).all()
    assert not (made.frames.shape == written[0].frames.shape and (made.frames == written[0].frames).all())


def test_a_domains_weights_are_released_and_refused_where_they_do_not_fit(profile, rope, tmp_path, monkeypatch):
    monkeypatch.setattr(released, "RELEASED_DOMAINS", tmp_path)
    start = "domains.frame_tokenizer.start=released"
    with pytest.raises(UserError, match=r"no frame_tokenizer weights of rope are released yet: set domains\.frame"):
        released.released_video("frame_tokenizer", rope)
    folders = train_and_release(rope, DOMAIN_PARTS, "the command")
    assert [folder.relative_to(tmp_path).as_posix() for folder in folders] == [f"rope/{part}" for part in DOMAIN_PARTS]
    assert read_json(folders[1] / "manifest.json")["command"] == "the command"
    with pytest.raises(UserError, match="seed 0 records the episodes that the released frame_tokenizer was trained on"):
        released.released_video("frame_tokenizer", domain_profile(load_profile("smoke", overrides=start), "rope"))
    other = domain_profile(load_profile("smoke", 1), "rope")
    assert released.released_video("single_step", other) == folders[1]
    released.take_released_video("single_step", other, tmp_path / "copy")
    assert (tmp_path / "copy" / "model" / "model.safetensors").exists()
    for kind in BASELINES:
        taking = load_profile("smoke", 1, f"domains.baselines.{kind}.start=released")
        facts = make_baseline(tmp_path / kind, domain_profile(taking, "rope"), Path("unread"), kind)
        model, kept = (
            load_baseline(place, rope, kind).model for place in (tmp_path / kind, baseline_stage(rope, kind).folder)
        )
        pairs = zip(model.parameters(), kept.parameters(), strict=True)
        assert all(torch.allclose(a, b, atol=1e-2) and a.dtype == torch.float32 for a, b in pairs)  # halves, widened
        assert facts["updates"] == taking.domains.baselines.diffusion.updates and facts["manifest"]["curve"]
    with pytest.raises(UserError, match="frames of 64 x 64"):
        larger = load_profile("smoke", 1, "domains.height=128 domains.width=128")
        released.released_video("frame_tokenizer", domain_profile(larger, "rope"))
    with pytest.raises(UserError, match="weights of pusht are released yet"):
        released.released_video("frame_tokenizer", domain_profile(load_profile("smoke", 1), "pusht"))


def scores(folder, domain, gains=BETTER, models=("base", "RLVR"), n=40):
    """RLVR differs from the base by ``gains`` on every segment; the greedy rows are equal."""
    rng = np.random.default_rng(0)
    start = {"mse": 0.01, "mae": 0.05, "psnr": 20.0, "ssim": 0.8, "LPIPS-Squeeze": 0.1}
    rows = []
    for segment in range(n):
        noise = {name: value * (1 + 0.3 * rng.normal()) for name, value in start.items()}
        for model in [*models, *(f"{model}, greedy" for model in models)]:
            extra = gains if model == "RLVR" else {}
            values = {name: value + extra.get(name, 0) for name, value in noise.items()}
            rows.append({"model": model, "segment": segment, "moving": True, "repetition": 0.0, **values})
    place = folder / evaluation_name(domain)
    place.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(place / "single_step.csv", index=False)


def c12(runs):
    return next(one for one in evaluate_claims(runs, 0) if one.id == "C12")


def test_c12_is_reproduced_by_gains_in_all_three_domains(tmp_path):
    assert c12(tmp_path).verdict == NOT_RUN
    for domain in DOMAINS[:2]:
        scores(tmp_path, domain)
    half = c12(tmp_path)
    assert half.verdict == INCONCLUSIVE and "Granular: not evaluated" in [part.name for part in half.parts]
    scores(tmp_path, "granular")
    found = c12(tmp_path)
    assert found.verdict == REPRODUCED
    deciding = [part.name for part in found.parts if part.decides]
    expected = [
        "PushT: LPIPS-Squeeze",
        "PushT: SSIM",
        "Rope: LPIPS-Squeeze",
        "Granular: LPIPS-Squeeze",
        "Granular: SSIM",
    ]
    assert deciding == expected  # the paper has no SSIM of rope
    parts = {part.name: part for part in found.parts}
    assert parts["Rope: SSIM"].interval.mean == pytest.approx(0.02) and parts["PushT: PSNR"].unit == "plain"
    assert parts["Rope: LPIPS-Squeeze"].interval.mean == pytest.approx(-0.01)


def test_one_domain_that_gets_worse_refutes_c12(tmp_path):
    for domain in DOMAINS:
        scores(tmp_path, domain, gains={**BETTER, "LPIPS-Squeeze": 0.01} if domain == "rope" else BETTER)
    found = c12(tmp_path)
    assert found.verdict == NOT_REPRODUCED
    assert {part.name: part.verdict for part in found.parts}["PushT: LPIPS-Squeeze"] == REPRODUCED


def test_table_4_keeps_the_papers_numbers_in_columns_of_their_own(tmp_path):
    for domain in DOMAINS:
        scores(tmp_path, domain)
    table = table4(domain_scores(tmp_path), 0, "")
    rows = table.data.set_index(["task", "model"])
    paper = {("pusht", "base"): (0.83, 98.28), ("granular", "RLVR"): (2.42, 95.42), ("rope", "RLVR"): (2.08, None)}
    for place, (lpips, ssim) in paper.items():
        assert rows.loc[place, "paper_lpips"] == lpips
        assert pd.isna(rows.loc[place, "paper_ssim"]) if ssim is None else rows.loc[place, "paper_ssim"] == ssim
    quoted = rows.loc[("rope", "AVDC, diffusion (as reported elsewhere)")]
    assert quoted["paper_lpips"] == 6.0 and pd.isna(quoted["mse"]) and pd.isna(quoted["n"])
    assert list(table.blocks) == ["PushT", "Rope", "Granular"]
    shown = table.blocks["Rope"].set_index("row")
    assert shown.loc["DINO-WM (as reported elsewhere)", "paper: LPIPS-VGG"] == "0.9"
    assert shown.loc["DINO-WM (as reported elsewhere)", "MSE"] == "–" and "paper: SSIM" not in shown
    assert list(shown.loc[["base", "DINO-WM (as reported elsewhere)"], "n moving"]) == [40, "–"]
    assert paper_domains().loc[("granular", "dino_wm"), "ssim"] == 94.0


def test_a_run_says_that_it_trained_for_a_moment(profile):
    assert "TRAINED HERE FROM NOTHING" in start_note(profile) and "4 likelihood updates" in start_note(profile)
    both = "domains.frame_tokenizer.start=released domains.single_step.start=released"
    assert start_note(load_profile("laptop", overrides=both)).endswith("the released weights.")
