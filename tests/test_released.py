"""The released weights: they match their manifests, and they answer."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr_lib.artifacts import UserError
from rlvr_lib.cli import main, told_command
from rlvr_lib.evaluation import web_pages
from rlvr_lib.evaluation.text_games import answer_all, score_cases
from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.text_game_task import TextGameTask, compact_prompt
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.tokens.web_page_task import perfect_answer
from rlvr_lib.training import released, video_stages
from rlvr_lib.training.web_page_data import RECORDED
from rlvr_lib.training.web_pages import make_task
from rlvr_lib.worlds import perceptual
from rlvr_lib.worlds.drawers import record_set, recording_for
from rlvr_lib.worlds.pusht import PushTScene
from rlvr_lib.worlds.text_game_data import crawl_transitions
from rlvr_lib.worlds.video_episodes import load_episode
from rlvr_lib.worlds.video_segments import to_float
from rlvr_lib.worlds.web_pages import Changes
from rlvr_lib.worlds.web_transitions import load_web_set

LAPTOP = load_profile("laptop")


@pytest.mark.parametrize("part", ["base", "sft"])
def test_they_take_and_cut_text_as_they_were_trained(part, tmp_path):
    """Also after a round trip through a stage's folder: no other tokenizer slips in beside a Qwen2 model."""
    facts = released.take_released(part, LAPTOP, tmp_path)
    assert facts["manifest"]["part"] == part and facts["manifest"]["curve"] and facts["manifest"]["provenance"]
    for folder in (released.released(part, LAPTOP), tmp_path / "model"):
        tokenizer = load_tokenizer(folder)
        ids = tokenizer("put pot (ID: 10) in hob (ID: 4)")["input_ids"]
        assert [tokenizer.decode([index]) for index in ids] == [
            "put",
            " ",
            "pot (ID: 10)",
            " ",
            "in",
            " ",
            "hob (ID: 4)",
        ]


@pytest.mark.parametrize(("modality", "part"), [("text_game", "base"), ("web_page", "sft"), ("video", "multi_step")])
def test_a_stage_depends_on_the_weights_it_takes(modality, part):
    found = released.released_input(part, LAPTOP, modality)
    assert json.loads(found["released"].read_text())["part"] == part
    key = {"base": "pretrain"}.get(part, part)
    scratch = load_profile("laptop", overrides=f"{modality}.{key}.start=scratch")
    assert released.released_input(part, scratch, modality) == {}
    assert released.released_input(part, load_profile("gpu"), modality) == {}


def test_the_fine_tuned_model_answers():
    """On a game layout never trained on: nearly all answers parse, and many are right."""
    folder = released.released("sft", LAPTOP)
    task = TextGameTask(load_tokenizer(folder))
    cases = list(crawl_transitions("validation", 1, ("boil-water", "freeze-juice")))[:80:2]
    assert max(map(len, task.prompt_ids(cases))) < LAPTOP.text_game.rlvr.max_prompt
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    scores = score_cases(cases, answer_all(model, task, cases, max_response=128, seed=0, greedy=True), "validation")
    assert scores["parsed"].mean() > 0.9 and scores["binary"].mean() > 0.5
    assert compact_prompt(cases[0]).endswith("\n")


def test_manifests_name_no_place_of_one_machine():
    manifests = list((released.RELEASED.parent).glob("*/*/manifest.json"))
    assert len(manifests) >= 10
    for path in manifests:
        assert not re.search(r"[\s=']/\w", json.loads(path.read_text())["command"]), path


def test_a_told_command_leaves_out_where_runs_lie():
    words = ["release", "--jobs", "2", "--overrides", "threads=1 runs_dir=/somewhere/runs"]
    assert told_command(words) == "rlvr release --jobs 2 --overrides threads=1"
    assert told_command(["release", "--overrides", "runs_dir=/somewhere", "--only", "x"]) == "rlvr release --only x"
    assert told_command([]) == "rlvr"  # called from Python, as tests do
    assert told_command(["release", "--overrides", "a=1 b=2"]) == "rlvr release --overrides 'a=1 b=2'"


def test_nothing_is_released_that_was_trained_with_the_fallback(monkeypatch, capsys):
    monkeypatch.setattr(perceptual, "trunk_weights", lambda net: None)
    trained = []
    monkeypatch.setattr(video_stages, "train_and_release", lambda *given: trained.append(given) or [])
    with pytest.raises(SystemExit):
        main(["release", "--profile", "smoke"])
    assert not trained and "no LPIPS-squeeze" in "".join(capsys.readouterr())
    monkeypatch.setattr(perceptual, "trunk_weights", lambda net: {})
    with pytest.raises(SystemExit) as ended:
        main(["release", "--profile", "smoke"])
    assert ended.value.code == 0 and len(trained) == 1


def test_damaged_weights_are_refused(tmp_path, monkeypatch):
    shutil.copytree(released.RELEASED / "sft", tmp_path / "sft")
    monkeypatch.setattr(released, "RELEASED", tmp_path)
    weights = tmp_path / "sft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match="not the released file"):
        released.released("sft", LAPTOP)
    weights.unlink()
    with pytest.raises(UserError, match="is missing"):
        released.released("sft", LAPTOP)
    public = load_profile("laptop-public")
    with pytest.raises(UserError, match="start=scratch"):
        released.released("base", public)


def test_manifests_hold_settings_that_the_profile_still_has():
    """Weights and profile belong together: a changed model size or recipe asks for new weights."""
    for folder, section in ((released.RELEASED, "text_game"), (released.RELEASED_WEB, "web_page")):
        for part, key in (("base", f"{section}.pretrain"), ("sft", f"{section}.sft")):
            manifest = json.loads((folder / part / "manifest.json").read_text())
            now = LAPTOP.config_of([f"{section}.model", key])
            assert manifest["settings"][f"{section}.model"] == now[f"{section}.model"]
            assert trained(manifest["settings"][key]) == trained(now[key])


def trained(settings: dict) -> dict:
    """Settings that decide about trained weights: not where a run starts, nor how long it trains for show.

    Grouping by length is younger than the text-game weights, which were trained without.
    """
    kept = {key: value for key, value in settings.items() if key != "start" and not key.startswith("live_")}
    return kept | ({} if kept.get("length_grouped") or "patience" not in kept else {"length_grouped": False})


def test_the_released_web_model_predicts_changes():
    """On recorded training steps, greedily: it ends its answers and names most changes. (On new pages it is weaker.)"""
    folder = released.released("sft", LAPTOP, "web_page")
    task = make_task(LAPTOP, folder)
    steps = [item for item in load_web_set(RECORDED, ("train",))["train"] if 100 < len(perfect_answer(item)) < 700]
    steps = steps[::200]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = web_pages.answer_all(model, task, steps, max_response=250, seed=0, greedy=True)
    scores = web_pages.score_cases(steps, answers, "train")
    nothing = web_pages.score_cases(steps, [web_pages.Answer(Changes().text, 0, True)] * len(steps), "train")
    assert scores["ended"].mean() > 0.9 and scores["f1"].mean() > nothing["f1"].mean() + 0.1, scores["f1"].mean()


@pytest.mark.parametrize(
    "part", [part for part in released.VIDEO_PARTS if getattr(LAPTOP.video, part).start == "released"]
)
def test_released_video_weights_load_and_fit_the_profile(part, tmp_path):
    folder = released.released_video(part, LAPTOP)
    manifest = json.loads((folder / "manifest.json").read_text())
    recipe = load_profile("laptop-weights").config_of([f"video.{part}"])[f"video.{part}"]
    younger = {"perceptual_loss": "lpips"} if part.endswith("_tokenizer") else {}  # than the weights, and its default
    assert younger | manifest["settings"][f"video.{part}"] == recipe
    for key in ("hidden", "layers", "heads", "intermediate", "widths", "latent", "levels", "context", "horizon"):
        assert recipe.get(key) == getattr(getattr(LAPTOP.video, part), key, None)
    assert manifest["seed"] != LAPTOP.seed  # another seed records other episodes: none of ours was trained on
    assert manifest["episodes"] >= manifest["settings"]["video.data"]["episodes"] and manifest["curve"]
    released.take_released_video(part, LAPTOP, tmp_path)
    model = released.VIDEO_PARTS[part].from_pretrained(tmp_path / "model")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert (folder / "model.safetensors").stat().st_size < 16 * 2**20


def test_released_video_weights_are_refused_elsewhere(tmp_path, monkeypatch):
    for setting, words in (("video.data.source=rt1", "drawers only"), ("video.data.height=128", "frames of 64 x 80")):
        with pytest.raises(UserError, match=words):
            released.released_video("frame_tokenizer", load_profile("laptop", overrides=setting))
    seed = json.loads((released.RELEASED_VIDEO / "frame_tokenizer" / "manifest.json").read_text())["seed"]
    with pytest.raises(UserError, match=f"seed {seed} records the episodes"):
        released.released_video("frame_tokenizer", load_profile("laptop", seed))
    monkeypatch.setattr(released, "RELEASED_VIDEO", tmp_path)
    with pytest.raises(UserError, match="is missing"):
        released.released_video("frame_tokenizer", LAPTOP)


def test_the_released_tokenizer_keeps_what_moves(tmp_path, monkeypatch):
    """On a fresh drawer episode: reconstructions are nearer to the truth than the frame before, where pixels change."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)  # another test may have set it
    recording = recording_for(12345, 64, 80, 4)
    folder = released.RELEASED_VIDEO / "frame_tokenizer"
    if recording.renderer != json.loads((folder / "manifest.json").read_text())["renderer"]:
        pytest.skip("the released weights know the other renderer's pictures")
    record_set(tmp_path, 1, recording)
    frames = to_float(load_episode(tmp_path / "00000.npz").frames)
    tokenizer = FrameTokenizer.from_pretrained(folder).float().eval()
    with torch.no_grad():
        again = tokenizer.decode(tokenizer.encode(frames)).clamp(0, 1)
    changed = (frames[1:] - frames[:-1]).abs().amax(1, keepdim=True).expand_as(frames[1:]) > 0.05
    kept, copied = ((frames[1:] - other).abs()[changed].mean() for other in (again[1:], frames[:-1]))
    assert kept < 0.7 * copied


def test_the_released_pusht_tokenizer_draws_the_t():
    """Where a pushed T changes pixels, what tokens keep is nearer to the truth than the frame before."""
    scene, frames = PushTScene(), []
    scene.set_state([120, 330, 250, 250, 0.6])
    for _ in range(6):
        frames.append(scene.frame(64))
        scene.act([0.5, -0.1] * 5)
    frames = to_float(np.stack(frames))
    tokenizer = FrameTokenizer.from_pretrained(released.RELEASED_DOMAINS / "pusht" / "frame_tokenizer").float().eval()
    with torch.no_grad():
        again = tokenizer.decode(tokenizer.encode(frames)).clamp(0, 1)
    changed = (frames[1:] - frames[:-1]).abs().amax(1, keepdim=True).expand_as(frames[1:]) > 0.05
    kept, copied = ((frames[1:] - other).abs()[changed].mean() for other in (again[1:], frames[:-1]))
    assert kept < 0.25 * copied


def test_a_training_is_released_with_what_was_run(tmp_path, monkeypatch):
    """Curve, settings and hash go into the manifest; weights that came from a release are not released again."""
    profile = load_profile("smoke", overrides=f"runs_dir={tmp_path / 'runs'}")
    stage = tmp_path / "runs" / "smoke" / "text_game_sft"
    model = AutoModelForCausalLM.from_pretrained(released.RELEASED / "sft")
    model.save_pretrained(stage / "model")
    load_tokenizer(released.RELEASED / "sft").save_pretrained(stage / "model")
    monkeypatch.setattr(released, "RELEASED", tmp_path / "weights")
    done = {
        "seed": 3,
        "settings": {"text_game.sft": {"batch": 2}},
        "seconds": 5,
        "provenance": {},
        "facts": {"steps": 4},
    }
    (stage / "done.json").write_text(json.dumps(done))
    rows = [{"step": 2, "loss": 1.0}, {"step": 2, "eval_loss": 0.5, "seconds": 1.0}]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = released.release_language(profile, "text_game", "sft", "the command")
    told = json.loads((folder / "manifest.json").read_text())
    assert told["command"] == "the command" and told["seed"] == 3 and told["facts"] == {"steps": 4}
    assert told["curve"] == [{"step": 2, "validation_loss": 0.5, "seconds": 1.0}]
    assert told["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (stage / "done.json").write_text(json.dumps({**done, "facts": {"released": "sft"}}))
    with pytest.raises(UserError, match="released weights already"):
        released.release_language(profile, "text_game", "sft", "the command")
