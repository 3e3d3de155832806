"""Profiles: the paper's numbers, overrides, one-line errors; and one source of versions for pip, lock and conda."""

import re
import tomllib

import pytest
import yaml
from pydantic import ValidationError

from rlvr_lib.artifacts import ROOT, UserError, text_hash
from rlvr_lib.profile import Profile, load_profile, parse_overrides, profile_names
from rlvr_lib.profile_fields import Section

# The paper's table of hyperparameters for text games, typed in by hand from the paper and its scripts.
PAPER = {
    "model.name": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "sft.lora_rank": 32,
    "sft.lora_alpha": 16,
    "sft.batch": 16,
    "sft.learning_rate": 0.00001,
    "sft.betas": (0.9, 0.95),
    "sft.weight_decay": 0.01,
    "sft.grad_clip": 1.0,
    "sft.warmup_ratio": 0.1,
    "sft.epochs_planned": 15,
    "sft.epochs_used": 10,
    "sft.max_length": 11384,
    "sft.samples": 4237,
    "rlvr.prompts_per_step": 128,
    "rlvr.prompts_per_update": 64,
    "rlvr.group_size": 5,
    "rlvr.learning_rate": 0.000001,
    "rlvr.betas": (0.9, 0.999),
    "rlvr.weight_decay": 0.01,
    "rlvr.grad_clip": 1.0,
    "rlvr.clip": 0.2,
    "rlvr.entropy_coefficient": 0.001,
    "rlvr.kl_coefficient": 0.001,
    "rlvr.max_prompt": 7192,
    "rlvr.max_response": 4096,
    "rlvr.temperature": 1.0,
    "rlvr.top_p": 1.0,
    "rlvr.evaluate_every": 20,
    "rlvr.evaluate_cases": 2954,
    "rlvr.sequences_per_micro_batch": 2,
    "data.test_cases": 2954,
    "data.train_transitions": 150672,
    "teacher.budget_usd": 40,
    "teacher.max_tokens": 4000,
    "evaluation.temperature": 1.0,
}

VIDEO_PAPER = {
    "data.test_every": 100, "data.test_segments": 873, "data.height": 256, "data.width": 320, "data.jitter": True,
    "metric": "vgg", "dynamics_patch": 4, "attention_heads": 4,
    "frame_tokenizer.widths": [128, 256, 256, 512, 768], "frame_tokenizer.decoder_blocks": 2,
    "compressive_tokenizer.widths": [128, 256, 256, 512], "compressive_tokenizer.decoder_blocks": 3,
    **{
        f"{tokenizer}_tokenizer.{key}": value
        for tokenizer in ("frame", "compressive")
        for key, value in {
            "levels": [7, 5, 5, 5, 5], "latent": 64, "norm_groups": 32, "encoder_blocks": 2, "iterations": 600_000,
            "clips": 16, "clip_frames": 8, "learning_rate": 5e-4, "betas": (0.9, 0.999), "warmup": 5000,
            "grad_clip": 1.0, "perceptual_weight": 1.0, "adversary_weight": 0.1, "adversary_start": 10_000,
            "penalty_weight": 10.0,
        }.items()
    },
    **{
        f"{kind}.{key}": value
        for kind in ("single_step", "multi_step")
        for key, value in {
            "hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072, "batch": 32, "learning_rate": 5e-5,
            "betas": (0.9, 0.999), "weight_decay": 0.0, "warmup": 5000, "grad_clip": 1.0, "schedule": "constant",
            "evaluate_every": 5000, "save_every": 10_000,
        }.items()
    },
    "single_step.steps": 990_000, "single_step.context": 4, "single_step.horizon": 1,
    "multi_step.steps": 450_000, "multi_step.context": 1, "multi_step.horizon": 7,
    "evaluation.temperature": 1.0, "evaluation.top_k": 100,
}  # fmt: skip


def at(section: object, place: str) -> object:
    for part in place.split("."):
        section = getattr(section, part)
    return section


@pytest.mark.parametrize(("place", "value"), VIDEO_PAPER.items())
def test_the_papers_video_numbers(place, value):
    assert at(load_profile("paper").video, place) == value


@pytest.mark.parametrize(("place", "value"), PAPER.items())
def test_paper_profile_holds_the_papers_value(place, value):
    assert at(load_profile("paper").text_game, place) == value


WEB_PAPER = {
    "model.name": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "data.max_tokens": 5000,
    "sft.lora_rank": 32, "sft.lora_alpha": 16, "sft.batch": 8, "sft.learning_rate": 1e-5, "sft.betas": (0.9, 0.95),
    "sft.epochs_planned": 40, "sft.epochs_used": 4, "sft.max_length": 5000,
    "rlvr.prompts_per_step": 64, "rlvr.prompts_per_update": 16, "rlvr.group_size": 5, "rlvr.learning_rate": 1e-6,
    "rlvr.kl_coefficient": 0.001, "rlvr.clip": 0.2, "rlvr.entropy_coefficient": 0.001, "rlvr.temperature": 1.0,
    "rlvr.max_prompt": 5000, "rlvr.max_response": 7288, "rlvr.sequences_per_micro_batch": 5,
    "rlvr.evaluate_every": 20, "evaluation.variant": "released",
}  # fmt: skip


@pytest.mark.parametrize(("place", "value"), WEB_PAPER.items())
def test_the_papers_web_page_numbers(place, value):
    assert at(load_profile("paper").web_page, place) == value


def test_paper_mixing_ratios_give_the_papers_slots():
    rlvr = load_profile("paper").text_game.rlvr
    assert int(18196 * rlvr.unchanged_ratio_binary) == 7278
    assert int(18196 * rlvr.unchanged_ratio_task_specific) == 1000
    assert 1 / load_profile("paper").text_game.teacher.keep_unchanged_ratio == pytest.approx(101)


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu", "paper"])
def test_every_profile_loads(name):
    profile = load_profile(name)
    assert profile.name == name and profile.runs_dir == ROOT / "runs"


def test_small_profiles_keep_the_papers_algorithm():
    for name in profile_names():
        for section in (load_profile(name).text_game, load_profile(name).web_page):
            assert (section.rlvr.group_size, section.rlvr.clip, section.rlvr.kl_coefficient) == (5, 0.2, 0.001)


def every_field(model: type[Section]):
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from every_field(field.annotation)


def test_every_field_says_where_it_comes_from():
    assert [name for name, field in every_field(Profile) if not field.description] == []


def test_overrides_and_seed_as_papermill_passes_them():
    profile = load_profile("laptop", "007", "text_game.rlvr.steps=50 text_game.sft.betas=[0.8,0.9] threads=1")
    assert (profile.seed, profile.text_game.rlvr.steps, profile.text_game.sft.betas) == (7, 50, (0.8, 0.9))
    assert load_profile("laptop", 3, "seed=5").seed == 5
    assert load_profile("laptop", "", None) == load_profile("laptop")


def test_scientific_notation_is_a_number():
    assert parse_overrides("a=1e-6 b=1E3 c=-2.5e+1 d=e5 e=") == {"a": 1e-6, "b": 1e3, "c": -25.0, "d": "e5", "e": None}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ("text_game.rlvr.stepps=5", "text_game.rlvr.stepps; did you mean text_game.rlvr.steps"),
        ("text_gam.rlvr.steps=5", "text_gam.rlvr.steps; did you mean text_game"),
        ("text_game.rlvr.steps.more=5", "text_game.rlvr.steps.more"),
        ("text_game.rlvr.steps=many", "text_game.rlvr.steps"),
        ("text_game.rlvr.steps=1.5", "text_game.rlvr.steps"),
        ("text_game.rlvr.steps=true", "text_game.rlvr.steps"),
        ("text_game.rlvr.steps=0", "text_game.rlvr.steps"),
        ("text_game.rlvr.steps=", "text_game.rlvr.steps"),
        ("text_game.rlvr=5", "text_game.rlvr"),
        ("text_game.sft.betas=[0.9]", "text_game.sft.betas"),
        ("text_game.data.source=web", "text_game.data.source"),
        ("text_game.rlvr.prompts_per_update=7", "prompts_per_update"),
        ("text_game.rlvr.sequences_per_micro_batch=3", "text_game.rlvr.sequences_per_micro_batch"),
        ("text_game.rlvr.group_size=1", "text_game.rlvr.group_size"),
        ("text_game.model.heads=5", "text_game.model.hidden"),
        ("text_game.model.kind=hub", "text_game.model.name"),
        ("text_game.sft.epochs_used=99", "text_game.sft.epochs_used"),
        ("text_game.teacher.kind=endpoint", "text_game.teacher.base_url"),
        ("reports_dir=runs", "runs_dir"),
        ("seed=-1", "seed"),
        ("steps", "steps"),
        ("seed=[1", "seed"),
        (5, "overrides"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(overrides, named):
    with pytest.raises(UserError, match=re.escape(named)) as caught:
        load_profile("laptop", overrides=overrides)
    assert "\n" not in str(caught.value)


def test_unknown_profile_and_bad_seed():
    names = "gpu, laptop, laptop-public, laptop-weights, paper, smoke"
    with pytest.raises(UserError, match=f"no profile 'desktop'; there are {names}"):
        load_profile("desktop")
    for seed in ("x", 1.5, True, "-1"):
        with pytest.raises(UserError, match="seed"):
            load_profile("laptop", seed)


def test_profile_files_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("rlvr_lib.profile.PROFILES", tmp_path)
    paper = (ROOT / "profiles" / "paper.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(paper.replace("clip: 0.2", "clip: 0.2\n    clipp: 0.3"))
    with pytest.raises(UserError, match=r"unknown key text_game\.rlvr\.clipp; did you mean text_game\.rlvr\.clip"):
        load_profile("mine")
    (tmp_path / "mine.yaml").write_text(paper.replace("    clip: 0.2\n", ""))
    with pytest.raises(UserError, match=r"text_game\.rlvr\.clip: is missing"):
        load_profile("mine")
    (tmp_path / "mine.yaml").write_text(paper.replace("    clip: 0.2\n", "    clip: 0.2\n    clip: 0.3\n"))
    with pytest.raises(UserError, match="key clip is given twice"):
        load_profile("mine")


def test_profiles_are_immutable_and_hashable_by_part():
    one, two = load_profile("laptop"), load_profile("laptop", overrides="text_game.rlvr.steps=7")
    with pytest.raises(ValidationError):
        one.text_game.rlvr.steps = 3
    assert text_hash(one.config_of(["text_game.sft"])) == text_hash(two.config_of(["text_game.sft"]))
    assert text_hash(one.config_of(["text_game"])) != text_hash(two.config_of(["text_game"]))
    with pytest.raises(UserError, match=r"text_game\.nothing"):
        one.config_of(["text_game.nothing"])


def test_seed_everything_repeats():
    import random

    import numpy
    import torch

    def draw():
        load_profile("smoke", 3).seed_everything()
        return random.random(), numpy.random.rand(), torch.rand(1).item(), torch.get_num_threads()

    assert draw() == draw() and draw()[-1] == 1


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_pins_agree_in_pyproject_lock_and_conda():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)
    locked = {normal(name): version for name, version in lock.items()}
    for pin in pins:
        name, _, version = pin.partition("==")
        assert locked[normal(name)] == version, pin
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in conda and {"pip": ["-r requirements.lock", "-e ."]} in conda
    assert "-r requirements.lock" in (ROOT / "Makefile").read_text()
