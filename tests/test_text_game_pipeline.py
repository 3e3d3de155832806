"""Data, RLVR and Table 1 of the text games: splits never touch, kills change nothing, one seed gives one result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from rlvr_lib.evaluation.text_games import evaluate
from rlvr_lib.profile import load_profile
from rlvr_lib.progress import MetricsLog
from rlvr_lib.tokens.text_game_task import compact_prompt
from rlvr_lib.training.teacher import read_sft_samples
from rlvr_lib.training.text_game_corpus import base_pages, make_data
from rlvr_lib.training.text_games import evenly, make_base, make_rlvr, make_task
from rlvr_lib.worlds.text_game_data import crawl_transitions, load_cases, question_key
from rlvr_lib.worlds.text_games import HELD_OUT, TRAINING_GAMES

RLVR = "text_game.rlvr.steps=5 text_game.rlvr.save_every=1"
RLVR_JOB = f'''
import sys
from pathlib import Path
import rlvr_lib
from rlvr_lib.profile import load_profile
from rlvr_lib.training.text_games import make_rlvr
profile = load_profile("smoke", overrides="{RLVR}")
profile.seed_everything()
out, data, base = map(Path, sys.argv[1:])
make_rlvr(out, profile, data, base, "task_specific")
'''
TABLE_JOB = """
import sys
from pathlib import Path
import rlvr_lib
from rlvr_lib.evaluation.text_games import evaluate
from rlvr_lib.profile import load_profile
from rlvr_lib.training.text_games import make_task
from rlvr_lib.worlds.text_game_data import load_cases
profile = load_profile("smoke")
out, data, base = map(Path, sys.argv[1:])
task = make_task(profile, base / "model")
evaluate(out, profile, task, {"in_distribution": load_cases(data / "test.jsonl")}, {"sft": base / "model"})
"""


@pytest.fixture(scope="module")
def profile():
    found = load_profile("smoke")
    found.seed_everything()
    return found


@pytest.fixture(scope="module")
def data(profile, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, profile)
    return folder


@pytest.fixture(scope="module")
def base(profile, data, tmp_path_factory) -> Path:
    """A base model after a few updates: what it answers is rubbish, but always the same rubbish."""
    folder = tmp_path_factory.mktemp("base")
    make_base(folder, profile, data)
    return folder


def run(job: str, *folders: Path, kill_when=None) -> None:
    """Run a job in a process of its own; ``kill_when()`` true: SIGKILL."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-c", job, *map(str, folders)], env=environment)
    end = time.monotonic() + 300
    while kill_when and process.poll() is None and time.monotonic() < end and not kill_when():
        time.sleep(0.002)
    if kill_when:
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    else:
        assert process.wait() == 0


# ---- data
def test_splits_never_touch(profile, data):
    """No question of validation, test or held_out occurs in any layout that a model learns from."""
    cases = {path.stem: load_cases(path) for path in data.glob("*.jsonl") if path.stem != "sft"}
    keys = {name: {question_key(case) for case in found} for name, found in cases.items()}
    pools = keys["pool_changed"] | keys["pool_unchanged"]
    for name in ("validation", "test", "held_out"):
        assert keys[name] and keys[name].isdisjoint(pools)
        layouts = {case.layout_seed for case in cases[name]}
        assert layouts.isdisjoint(case.layout_seed for case in cases["pool_changed"] + cases["pool_unchanged"])
    assert keys["validation"].isdisjoint(keys["test"] | keys["held_out"])
    assert {case.game for case in cases["held_out"]} == set(HELD_OUT)
    assert set(TRAINING_GAMES).isdisjoint(HELD_OUT)
    assert {case.game for name in keys if name != "held_out" for case in cases[name]} <= set(TRAINING_GAMES)
    looked_at = crawl_transitions("test", profile.text_game.data.first_layout_test, (*TRAINING_GAMES, *HELD_OUT))
    assert (keys["test"] | keys["held_out"]).isdisjoint(question_key(item) for item in looked_at)
    assert profile.text_game.data.first_layout_test > 0
    learnt = {tuple(sample.case_id.split("/")[:2]) for sample in read_sft_samples(data / "sft.jsonl")}
    for name in ("validation", "test", "held_out", "pool_changed", "pool_unchanged"):
        assert learnt.isdisjoint(tuple(case.case_id.split("/")[:2]) for case in cases[name]), name


def test_base_pages_hold_no_test_question(profile, data):
    layouts = profile.text_game.pretrain.layouts
    told = {question for page in base_pages(profile, "train", layouts) for question in questions(page)}
    for name in ("validation", "test", "held_out"):
        assert told.isdisjoint(compact_prompt(case) for case in load_cases(data / f"{name}.jsonl"))
    learnt = crawl_transitions("train", profile.text_game.data.layouts_train, TRAINING_GAMES)
    assert not told.isdisjoint(compact_prompt(case) for case in learnt)


def test_rlvr_asks_about_layouts_that_nobody_was_told(profile, data):
    layouts = max(profile.text_game.pretrain.layouts, profile.text_game.data.layouts_train)
    told = {question for page in base_pages(profile, "train", layouts) for question in questions(page)}
    assert told.isdisjoint(compact_prompt(case) for case in load_cases(data / "pool_changed.jsonl"))


def questions(page) -> list[str]:
    """Every (situation, action) on a page of play or of answers, as a prompt would write it."""
    play = [page[0][0] + text for text, _ in page if text.startswith("Action: ")]
    return play or [text for text, _ in page if "\nAction: " in text]


def test_cases_of_a_validation_come_from_every_game():
    """A file of 400 cases is ordered by game: 40 of each of ten."""
    cases = [(game, number) for game in range(10) for number in range(40)]
    chosen = evenly(cases, 100)
    assert [sum(case[0] == game for case in chosen) for game in range(10)] == [10] * 10
    assert len(set(chosen)) == 100 and evenly(cases[:7], 100) == cases[:7] and len(evenly(cases, 150)) == 150


def test_the_same_seed_gives_the_same_data(profile, data, tmp_path):
    make_data(tmp_path, profile)
    for path in data.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(data)).read_bytes() == path.read_bytes(), path.name


# ---- kills
def test_a_killed_rlvr_run_ends_like_an_unbroken_one(data, base, tmp_path):
    profile = load_profile("smoke", overrides=RLVR)
    profile.seed_everything()
    make_rlvr(tmp_path / "whole", profile, data, base, "task_specific")
    killed = tmp_path / "killed"
    run(RLVR_JOB, killed, data, base, kill_when=lambda: (killed / "checkpoints" / "checkpoint-4").is_dir())
    assert not (killed / "model").exists()
    run(RLVR_JOB, killed, data, base)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "whole", killed))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    told = []
    for folder in (tmp_path / "whole", killed):
        rows = MetricsLog(folder / "metrics.jsonl").read()
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        told.append([{name: row.get(name) for name in ("reward", "kl", "loss", "validation_accuracy")} for row in rows])
    assert told[0] == told[1]


def test_a_killed_table_ends_like_an_unbroken_one(profile, data, base, tmp_path):
    task, cases = make_task(profile, base / "model"), load_cases(data / "test.jsonl")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    evaluate(whole, profile, task, {"in_distribution": cases}, {"sft": base / "model"})
    run(TABLE_JOB, killed, data, base, kill_when=(killed / "sft.csv").exists)
    assert not (killed / "sft_greedy.csv").exists()
    done = (killed / "sft.csv").stat().st_mtime_ns
    run(TABLE_JOB, killed, data, base)
    assert (killed / "sft.csv").stat().st_mtime_ns == done  # a finished row is not made again
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in killed.iterdir())
    assert "sft_greedy.csv" in names and "oracle.csv" in names
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert len(pd.read_csv(whole / "sft.csv")) == len(cases)


def test_rows_made_side_by_side_are_those_made_in_turn(profile, data, base, tmp_path):
    task, cases = make_task(profile, base / "model"), load_cases(data / "test.jsonl")
    both = load_profile("smoke", overrides="threads=2")
    made = {}
    for name, settings in (("turn", profile), ("side", both)):
        (tmp_path / name).mkdir()
        made[name] = evaluate(tmp_path / name, settings, task, {"in_distribution": cases}, {"sft": base / "model"})
    assert list(made["side"]["seconds"]) == list(made["turn"]["seconds"]) == ["sft", "sft_greedy", "sft_t05"]
    for path in (tmp_path / "turn").iterdir():
        assert path.read_bytes() == (tmp_path / "side" / path.name).read_bytes(), path.name
