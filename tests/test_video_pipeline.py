"""The stages of the video part one after another at the smoke profile: data, tokenizers, models, scores, report."""

import shutil
import subprocess
import sys
import time

import pytest
import torch

from rlvr_lib.artifacts import UserError, read_json
from rlvr_lib.evaluation.video import (
    evaluate_base,
    evaluate_kind,
    evaluate_rlvr,
    liveliest_clip,
    load_world_model,
    segments_of,
    without_repetition,
)
from rlvr_lib.profile import load_profile
from rlvr_lib.progress import MetricsLog
from rlvr_lib.report.video_tables import read_video_scores, table3
from rlvr_lib.report.video_widgets import other_actions
from rlvr_lib.training.video import (
    CONTROLS,
    KINDS,
    _train_tokenizer,
    make_task,
    make_tokenizer,
    open_episodes,
)
from rlvr_lib.training.video_rlvr import sample_group
from rlvr_lib.training.video_stages import TRAINED, run_video_stage, train_and_release, video_stage
from rlvr_lib.worlds.perceptual import perceptual

ONE_STAGE = """
import sys, torch
from rlvr_lib.profile import load_profile
from rlvr_lib.training.video_stages import run_video_stage
torch.set_num_threads(1)
run_video_stage(load_profile("smoke", overrides=sys.argv[1]), "single_step_rlvr")
"""
TOKENIZER = {"single_step": "frame", "multi_step": "compressive"}


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return load_profile("smoke", overrides=f"runs_dir={tmp_path_factory.mktemp('runs')}")


@pytest.fixture(scope="module")
def stages(profile):
    found = {"data": run_video_stage(profile, "data")}
    for kind, name in TOKENIZER.items():
        found[name] = run_video_stage(profile, f"{name}_tokenizer")
        found[kind] = run_video_stage(profile, kind)
    return found


def test_splits_never_touch(profile, stages):
    episodes = open_episodes(profile, stages["data"])
    assert len(episodes.train) == 4 and len(episodes.test) == 2
    frames = {name: episodes[name].frames.tobytes() for name in episodes.names}
    assert not {frames[name] for name in episodes.train} & {frames[name] for name in episodes.test}


def test_scores_of_every_row(profile, stages, tmp_path):
    tokenizers = {kind: stages[name] for kind, name in TOKENIZER.items()}
    facts = evaluate_base(tmp_path, profile, stages["data"], tokenizers, {kind: stages[kind] for kind in KINDS})
    scores = {kind: read_video_scores(tmp_path / f"{kind}.csv") for kind in KINDS}
    for frame in scores.values():
        assert frame.groupby("model").size().eq(2).all() and frame["model"].nunique() == 6
        assert frame[facts["metric"]].notna().all()
    data = table3(scores, profile.seed, "").data
    assert set(data["task"]) == set(KINDS) and (data["n"] == 2).all()


def test_a_tokenizer_learns_by_the_loss_that_is_asked_for(profile, stages, tmp_path):
    """The perceptual part of the loss may be 1 - MS-SSIM; held-out frames are measured by the metric."""
    facts = {}
    for loss in ("lpips", "ms_ssim"):
        asked = profile.video.frame_tokenizer.model_copy(update={"perceptual_loss": loss})
        own = profile.model_copy(update={"video": profile.video.model_copy(update={"frame_tokenizer": asked})})
        facts[loss] = _train_tokenizer(tmp_path / loss, own, stages["data"], "frame", 2)
    metric = perceptual(profile.video.metric).name
    assert {loss: one["perceptual_loss"] for loss, one in facts.items()} == {"lpips": metric, "ms_ssim": "1 - MS-SSIM"}
    assert all(one["metric"] == metric for one in facts.values())
    alike = facts["lpips"]["validation_l1"] == facts["ms_ssim"]["validation_l1"]
    assert alike == (metric == "1 - MS-SSIM"), "other gradients, other weights"


def test_the_liveliest_clip_is_held_out_and_changes_most(profile, stages):
    task = make_task(profile, stages["data"], stages["compressive"], "multi_step")
    episodes = open_episodes(profile, stages["data"])
    tasks = {episodes[name].facts["task"] for name in episodes.test}
    for wanted in ({"task": sorted(tasks)[0]}, {"task": "no such task"}):
        names = [name for name in episodes.test if episodes[name].facts["task"] == wanted["task"]] or episodes.test
        changes = {}
        for name in names:  # the slow way, in whole numbers
            frames = episodes[name].frames.astype(int)
            for start in range(len(frames) - task.clip_frames + 1):
                changes[name, start] = abs(frames[start + task.clip_frames - 1] - frames[start]).mean()
        name, start = max(changes, key=changes.get)
        clip = liveliest_clip(profile, stages["data"], task, wanted)
        assert clip.frames.shape[0] == task.clip_frames + 1
        shown = (clip.frames[1:].movedim(1, -1) * 255).round().numpy().astype("uint8")
        assert (shown == episodes[name].frames[start : start + task.clip_frames]).all()


def test_table_3_of_base_and_rlvr(profile, stages, tmp_path):
    """RLVR from both bases at smoke, then every row of the table; what is there is not made again."""
    tokenizers = {kind: stages[name] for kind, name in TOKENIZER.items()}
    bases, tuned = {kind: stages[kind] for kind in KINDS}, {}
    for kind in KINDS:
        tuned[kind] = run_video_stage(profile, f"{kind}_rlvr")
        rows = MetricsLog(tuned[kind] / "metrics.jsonl").read()
        assert [row["step"] for row in rows] == [1, 2] and all(row["lpips"] > 0 for row in rows)
        assert rows[0]["validation_mae"] > 0 and not (tuned[kind] / "checkpoints").exists()
    longer = {}
    for part in CONTROLS:
        longer[part] = run_video_stage(profile, part)
    same, third, base = (load_world_model(folder, profile).state_dict() for folder in (
        longer["multi_step_same_time"], longer["multi_step_third"], bases["multi_step"]))  # fmt: skip
    differ = [any(not torch.equal(one[name], base[name]) for name in base) for one in (same, third)]
    assert differ == [True, True] and any(not torch.equal(same[name], third[name]) for name in base)
    arguments = (profile, stages["data"], tokenizers, bases, tuned, longer)
    evaluate_rlvr(tmp_path, *arguments)
    scores = {kind: read_video_scores(tmp_path / f"{kind}.csv") for kind in KINDS}
    assert scores["single_step"]["model"].nunique() == 9 and scores["multi_step"]["model"].nunique() == 12
    again = scores["multi_step"][scores["multi_step"]["model"] == "base, repeated samples drawn again"]
    assert (again["repetition"] == 0).all()
    table = table3(scores, profile.seed, "").data.set_index(["task", "model"])
    assert table.loc[("multi_step", "RLVR"), "paper_lpips"] == 13.4
    assert table.loc[("multi_step", "base, repeated samples drawn again"), "paper_repetition"] == 0
    stamp = (tmp_path / "multi_step.csv").stat().st_mtime_ns
    (tmp_path / "single_step.csv").unlink()
    evaluate_rlvr(tmp_path, *arguments)
    assert (tmp_path / "multi_step.csv").stat().st_mtime_ns == stamp and (tmp_path / "single_step.csv").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_to_look_at_is_scored_against_the_camera(profile, stages, kind):
    """Frames and rewards of one clip, the rewards again by hand: minus L1 minus the perceptual distance."""
    group = sample_group(profile, stages["data"], stages[TOKENIZER[kind]], stages[kind], kind, item=1)
    count = getattr(profile.video, f"{kind}_rlvr").group_size
    horizon = getattr(profile.video, kind).horizon
    assert group.frames.shape == (count, horizon, 3, 64, 80) and group.truth.shape == (horizon, 3, 64, 80)
    distance = perceptual(profile.video.metric)
    for frames, reward in zip(group.frames, group.rewards, strict=True):
        expected = -float((frames - group.truth).abs().mean()) - float(distance(group.truth, frames).mean())
        assert float(reward) == pytest.approx(expected, rel=1e-4)


def test_a_held_action_reaches_the_model(profile, stages):
    """Another action after the history gives another prompt; the frames before it stay as they were."""
    task = make_task(profile, stages["data"], stages["compressive"], "multi_step")
    model = load_world_model(stages["multi_step"], profile)
    clip = segments_of(profile, stages["data"], task)[0]
    frames = other_actions(model, task, clip, {"left": [1, 0, 0, 0], "right": [-1, 0, 0, 0]})
    assert not torch.equal(frames["left"], frames["right"])
    assert frames["left"].shape == frames["right"].shape == (7, 3, 64, 80)
    assert torch.equal(clip.frames, segments_of(profile, stages["data"], task)[0].frames)


def test_released_weights_are_refused_where_they_do_not_fit(profile, stages, tmp_path):
    other = load_profile(
        "smoke",
        overrides=f"runs_dir={tmp_path} video.frame_tokenizer.start=released video.data.height=128",
    )
    with pytest.raises(UserError, match=r"video.frame_tokenizer.start=scratch|is missing"):
        make_tokenizer(tmp_path, other, stages["data"], "frame")
    public = load_profile(
        "smoke", overrides=f"runs_dir={tmp_path} video.data.source=rt1 video.frame_tokenizer.start=released"
    )
    with pytest.raises(UserError, match="drawers only"):
        make_tokenizer(tmp_path, public, stages["data"], "frame")
    with pytest.raises(UserError, match=r"video\.data\.root"):
        open_episodes(public, stages["data"])


def test_a_checkpoint_folder_says_what_was_done(stages):
    facts = read_json(stages["single_step"] / "done.json")["facts"]
    assert facts["steps"] == 4 and facts["parameters"] > 0 and facts["validation_loss"] > 0
    assert (stages["single_step"] / "model" / "model.safetensors").exists()


def test_repeating_samples_are_drawn_again_and_only_they(profile, stages, monkeypatch, capsys):
    """Attempt j of sample s (seed + 50 s + j) frees segment j; segment 3 never moves and is told, for either sample."""
    task = make_task(profile, stages["data"], stages["compressive"], "multi_step")
    clips, asked = [object() for _ in range(4)], []

    def written(numbers, attempt):
        codes = torch.zeros(len(numbers), 2, 1, dtype=torch.long)
        codes[[place for place, number in enumerate(numbers) if number <= attempt and number < 3], 1] = 1
        return codes

    def drawn(_model, _task, some, samples, *, seed, **_):
        asked.append((seed, samples))
        codes = torch.stack([written(range(4), 0)] * samples, 1)
        return torch.full((len(some), samples, 2, 3, 4, 4), float(seed)), codes

    def again(_model, _task, some, *, seed, **_):
        numbers = [clips.index(clip) for clip in some]
        asked.append((seed, numbers))
        return torch.full((len(some), 2, 3, 4, 4), float(seed)), written(numbers, (seed - 10) % 50)

    monkeypatch.setattr("rlvr_lib.evaluation.video.predict_samples", drawn)
    monkeypatch.setattr("rlvr_lib.evaluation.video.predict_with_codes", again)
    frames, codes = without_repetition(None, task, clips, 10, 2, most=5)
    each = [[1, 2, 3], [2, 3], [3], [3]]
    assert asked == [(10, 2), *zip((11, 12, 13, 14), each, strict=True), *zip((61, 62, 63, 64), each, strict=True)]
    assert frames[:, :, 0, 0, 0, 0].tolist() == [[10, 10], [11, 61], [12, 62], [14, 64]]
    assert codes[:, :, 1, 0].tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    assert capsys.readouterr().out.count("1 of 4 segments still repeat after 5 attempts") == 2


@pytest.mark.parametrize("kind,tokenizer", [("single_step", "frame"), ("multi_step", "compressive")])
def test_a_kept_clip_is_tokenised_once_and_alike(profile, stages, monkeypatch, kind, tokenizer):
    task = make_task(profile, stages["data"], stages[tokenizer], kind)
    clips = segments_of(profile, stages["data"], task)
    count, counted, own = len(clips), [], task.frames
    plain = task.encode(clips), task.prompt(clips)
    monkeypatch.setattr(task, "frames", lambda some, *part: counted.append(len(some)) or own(some, *part))
    with task.keeping():
        assert torch.equal(task.prompt(clips[:1]), plain[1][:1]) and counted == [1]
        for _ in range(3):
            assert torch.equal(task.encode(clips), plain[0]) and torch.equal(task.prompt(clips), plain[1])
        assert torch.equal(task.encode(clips[::-1]), plain[0].flip(0))
        assert counted == [1, count, count - 1] and count > 1  # only those that were not asked for before
    task.encode(clips)
    assert counted[3:] == [count]


def test_scores_of_several_samples_are_averaged(profile, stages, monkeypatch):
    """A segment's samples are grey 0.1, 0.6 and 0.35 brighter than black; the first one repeats."""
    task = make_task(profile, stages["data"], stages["compressive"], "multi_step")
    clips = segments_of(profile, stages["data"], task, 2)
    black = torch.zeros_like(task.truth(clips))
    grey, asked = torch.tensor([0.1, 0.6, 0.35]), []

    def drawn(_model, _task, some, samples, *, seed, temperature, **_):
        asked.append((seed, samples, temperature))
        codes = torch.zeros(len(some), samples, 2, 1, dtype=torch.long)
        codes[:, 1:, 1] = 1
        return black[:, None] + grey[:samples].view(1, -1, 1, 1, 1, 1), codes

    monkeypatch.setattr("rlvr_lib.evaluation.video.predict_samples", drawn)
    monkeypatch.setattr(task, "truth", lambda clips: black)
    seven = profile.model_copy(update={"seed": 7})
    scores = evaluate_kind({"base": None}, task, clips, seven, perceptual("squeeze"), samples=3).set_index("model")
    assert asked == [(7, 3, 1.0), (7, 1, 0.7), (7, 1, 0)]
    assert scores.loc["base", "mae"].tolist() == pytest.approx([0.35, 0.35], abs=1e-6)
    assert scores.loc["base", "mse"].tolist() == pytest.approx([(0.01 + 0.36 + 0.1225) / 3] * 2, abs=1e-6)
    assert scores.loc["base", "repetition"].tolist() == pytest.approx([1 / 3] * 2)
    assert scores.loc["base, greedy", "mae"].tolist() == pytest.approx([0.1, 0.1], abs=1e-6)


def test_a_training_is_released_with_its_recipe(profile, stages, tmp_path, monkeypatch):
    """Every part's weights in half precision, with command, curve, hash and the episodes' hash; only known parts."""
    monkeypatch.setattr("rlvr_lib.training.released.RELEASED_VIDEO", tmp_path)
    folders = train_and_release(profile, ["frame_tokenizer", "single_step"], "the command")
    assert [folder.name for folder in folders] == ["frame_tokenizer", "single_step"]
    for folder in folders:
        told = read_json(folder / "manifest.json")
        assert told["command"] == "the command" and told["seed"] == profile.seed and told["curve"]
        assert told["episodes_sha256"] == read_json(stages["data"] / "episodes" / "manifest.json")["sha256"]
    before, after = (load_world_model(place, profile) for place in (stages["single_step"], released_as_stage(tmp_path)))
    for name, value in before.state_dict().items():
        assert torch.equal(value.half().float(), after.float().state_dict()[name])
    with pytest.raises(UserError, match="no part 'tokenizer'; there are frame_tokenizer"):
        train_and_release(profile, ["tokenizer"], "")
    with pytest.raises(UserError, match="must be scratch"):
        train_and_release(load_profile("laptop", overrides=f"runs_dir={tmp_path}"), ["frame_tokenizer"], "")


def test_new_released_weights_make_a_stage_stale(tmp_path, monkeypatch):
    """A run that took the former weights does not pass for one with the new ones."""
    monkeypatch.setattr("rlvr_lib.training.released.RELEASED_VIDEO", tmp_path)
    (tmp_path / "frame_tokenizer").mkdir()
    manifest = tmp_path / "frame_tokenizer" / "manifest.json"
    manifest.write_text("{}")
    profile = load_profile("laptop", overrides=f"runs_dir={tmp_path / 'runs'}")
    stage = video_stage(profile, "frame_tokenizer")
    stage.inputs.pop("data")
    stage.run(lambda folder: (folder / "model").write_text("weights") and {})
    assert stage.state() == ("done", "")
    manifest.write_text('{"sha256": "another"}')
    assert stage.state()[0] == "stale" and "released changed" in stage.state()[1]


def released_as_stage(weights):
    """A folder in which the released single-step model is found as a stage's model is."""
    (weights / "stage").mkdir()
    (weights / "stage" / "model").symlink_to(weights / "single_step")
    return weights / "stage"


def test_a_killed_iteration_goes_on_along_the_same_curve(profile, stages, tmp_path):
    """SIGKILL between checkpoints, the same command again: rewards, losses, KL and validation of an unbroken run."""
    rows = {}
    for name in ("whole", "broken"):
        shutil.copytree(profile.runs_dir / "smoke", tmp_path / name / "smoke", ignore=shutil.ignore_patterns("*_rlvr"))
        words = f"runs_dir={tmp_path / name} " + " ".join(
            f"video.single_step_rlvr.{setting}" for setting in ("steps=7", "save_every=2", "evaluate_every=3")
        )
        log = tmp_path / name / "smoke" / "video_single_step_rlvr" / "metrics.jsonl"
        if name == "broken":
            child = subprocess.Popen([sys.executable, "-c", ONE_STAGE, words], stdout=subprocess.DEVNULL)
            while not log.exists() or len(log.read_text().splitlines()) < 3:
                assert child.poll() is None, "it ended before it could be killed"
                time.sleep(0.01)
            child.kill()
            child.wait()
            assert not (log.parent / "done.json").exists()
        run_video_stage(load_profile("smoke", overrides=words), "single_step_rlvr")
        rows[name] = [{k: v for k, v in row.items() if "seconds" not in k} for row in MetricsLog(log).read()]
    assert [row["step"] for row in rows["broken"]] == list(range(1, 8))
    assert rows["broken"] == rows["whole"]


def test_every_trained_part_is_a_stage_of_its_own(profile):
    names = [video_stage(profile, part).name for part in ("data", *TRAINED, "single_step_rlvr", "multi_step_rlvr")]
    assert len(set(names)) == len(names) == 9
