"""The released text-game weights: they match their manifests, and they answer."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.text_games import answer_all, score_cases
from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.text_game_task import TextGameTask, compact_prompt
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.training import released
from rlvr_lib.worlds.text_game_data import crawl_transitions

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
    for part, key in (("base", "text_game.pretrain"), ("sft", "text_game.sft")):
        manifest = json.loads((released.RELEASED / part / "manifest.json").read_text())
        now = LAPTOP.config_of(["text_game.model", key])
        assert manifest["settings"]["text_game.model"] == now["text_game.model"]
        told = {name: value for name, value in manifest["settings"][key].items() if name != "start"}
        assert told == {name: value for name, value in now[key].items() if name != "start"}
