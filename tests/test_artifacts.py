"""Atomic writes, hashes, stages and their faults: truncated, edited, missing files; full and read-only disks; kills."""

import errno
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from rlvr_lib.artifacts import (
    Stage,
    UserError,
    atomic_write_json,
    atomic_write_text,
    disk_fault,
    provenance,
    read_json,
    sha256_of,
)
from rlvr_lib.profile import load_profile
from rlvr_lib.progress import MetricsLog, clock, progress_line, track
from rlvr_lib.provenance import fast_bfloat16


def write_answer(folder: Path, text: str = "42") -> dict:
    (folder / "answer.txt").write_text(text)
    return {"length": len(text)}


def must_not_run(folder: Path) -> dict:
    raise AssertionError("the stage was made again")


# ---- files -----------------------------------------------------------------------------------------------------------
def test_write_and_read_back(tmp_path):
    path = atomic_write_json(
        tmp_path / "new" / "a.json", {"x": numpy.float32(0.5), "p": tmp_path, "v": numpy.arange(2)}
    )
    assert read_json(path) == {"x": 0.5, "p": str(tmp_path), "v": [0, 1]}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("damage", ["", '{"x": 1', "\x00\x00", "{'x': 1}"])
def test_damaged_json_is_one_line_naming_the_file(tmp_path, damage):
    path = tmp_path / "a.json"
    path.write_text(damage)
    with pytest.raises(UserError, match=r"a\.json is damaged") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"b\.json is missing"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, number):
    path = atomic_write_text(tmp_path / "a.txt", "old")

    def fail(*_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt.*run again"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where the machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_loses_nothing(small_disk):
    profile = load_profile("smoke", overrides=f"runs_dir={small_disk / 'runs'}")
    first = Stage(profile, "first")
    first.run(write_answer)

    def too_much(folder):
        (folder / "checkpoint.bin").write_bytes(b"0" * 1_000_000)

    with pytest.raises(UserError, match=r"cannot write .*second.*the disk is full"):
        Stage(profile, "second").run(too_much)
    with pytest.raises(UserError, match="the disk is full"):
        atomic_write_text(small_disk / "big.txt", "0" * 1_000_000)
    assert first.run(must_not_run) == first.folder and not (small_disk / "big.txt").exists()


def test_a_really_read_only_disk(small_disk):
    atomic_write_text(small_disk / "a.txt", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"a\.txt.*read-only"):
        atomic_write_text(small_disk / "a.txt", "new")
    profile = load_profile("smoke", overrides=f"runs_dir={small_disk / 'runs'}")
    with pytest.raises(UserError, match="read-only"):
        Stage(profile, "first").run(write_answer)
    assert (small_disk / "a.txt").read_text() == "old"


def test_a_disk_fault_hidden_in_a_librarys_own_error():
    class SafetensorError(Exception):
        pass

    fault = disk_fault(
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "m"
    )
    assert fault is not None and "cannot write m: the disk is full" in str(fault)
    assert disk_fault(ValueError("bad shape"), "m") is None


def test_hash_of_file_and_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    before = sha256_of(tmp_path)
    (tmp_path / "a").write_bytes(b"abd")
    assert sha256_of(tmp_path) != before
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"abc")
    assert sha256_of(tmp_path) != before
    with pytest.raises(UserError, match="gone is missing"):
        sha256_of(tmp_path / "gone")


# ---- stages ----------------------------------------------------------------------------------------------------------
def test_a_stage_runs_once_and_is_loaded_after(smoke, capsys):
    stage = Stage(smoke, "answer", ["text_game.sft"])
    assert stage.state()[0] == "missing" and not stage.done
    folder = stage.run(write_answer, text="seven")
    assert folder == smoke.runs_dir / "smoke" / "answer" and stage.done and stage.facts["length"] == 5
    Stage(smoke, "answer", ["text_game.sft"]).run(must_not_run)
    record = read_json(folder / "done.json")
    assert f"loaded answer {record['sha256'][:12]} (made {record['provenance']['date']}, " in capsys.readouterr().out
    assert record["outputs"]["answer.txt"]["sha256"] == hashlib.sha256(b"seven").hexdigest()
    assert record["settings"]["text_game.sft"]["lora_rank"] == smoke.text_game.sft.lora_rank and record["seed"] == 0


def test_changed_settings_seed_and_inputs_make_it_stale(smoke, places, tmp_path):
    data = tmp_path / "data.txt"
    data.write_text("1")
    Stage(smoke, "answer", ["text_game.sft"], {"data": data}).run(write_answer)

    def state(seed=None, overrides=""):
        profile = load_profile("smoke", seed, f"{places} {overrides}")
        return Stage(profile, "answer", ["text_game.sft"], {"data": data}).state()

    assert state() == ("done", "")
    assert state(overrides="text_game.rlvr.steps=9 threads=2")[0] == "done"
    assert state(overrides="text_game.sft.batch=3") == ("stale", "setting text_game.sft.batch (8 -> 3) changed")
    assert state(seed=1)[1] == "setting seed (0 -> 1) changed"
    data.write_text("2")
    assert state()[0] == "stale" and "input data changed" in state()[1]
    data.unlink()
    assert "input data is missing" in state()[1]


def test_a_stale_stage_is_made_again_and_the_old_one_kept(smoke, places):
    Stage(smoke, "answer", ["text_game.sft"]).run(write_answer, text="old")
    other = Stage(load_profile("smoke", overrides=f"{places} text_game.sft.batch=4"), "answer", ["text_game.sft"])
    folder = other.run(write_answer, text="new")
    assert (folder / "answer.txt").read_text() == "new"
    assert (folder.with_name("answer.previous") / "answer.txt").read_text() == "old"


@pytest.mark.parametrize("content", ["4", "43", ""])
def test_an_edited_or_truncated_output_is_named(smoke, capsys, content):
    stage = Stage(smoke, "answer")
    path = stage.run(write_answer) / "answer.txt"
    path.write_text(content)
    assert not stage.done and f"error: {path} was edited or cut short" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"answer\.txt was edited or cut short.*delete it"):
        stage.run(must_not_run)
    assert path.read_text() == content
    path.write_text("42")
    stage.run(must_not_run)
    path.write_text(content)
    stage.run(write_answer, force=True)
    assert stage.done and path.read_text() == "42"


def test_a_missing_output_is_named_and_made_again(smoke, capsys):
    stage = Stage(smoke, "answer")
    path = stage.run(write_answer) / "answer.txt"
    path.unlink()
    assert stage.state() == ("stale", f"output is missing: {path}")
    stage.run(write_answer)
    assert stage.done and f"output is missing: {path}" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": {}}'])
def test_a_damaged_record_is_named(smoke, content):
    stage = Stage(smoke, "answer")
    record = stage.run(write_answer) / "done.json"
    record.write_text(content)
    with pytest.raises(UserError, match=r"done\.json is damaged"):
        stage.run(must_not_run)
    record.unlink()
    stage.run(write_answer)
    assert stage.done


def test_a_missing_input_is_one_line(smoke, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.* is missing"):
        Stage(smoke, "answer", inputs={"data": tmp_path / "nowhere"}).run(write_answer)


def test_a_failed_stage_resumes_with_its_checkpoints_unless_settings_changed(smoke, places):
    def breaks(folder):
        (folder / "checkpoint").write_text("3")
        raise RuntimeError("power cut")

    def resumes(folder):
        return {"found": (folder / "checkpoint").exists()}

    stage = Stage(smoke, "answer", ["text_game.sft"])
    with pytest.raises(RuntimeError):
        stage.run(breaks)
    assert stage.state()[0] == "interrupted" and not stage.done
    stage.run(resumes)
    assert stage.facts["found"]
    with pytest.raises(RuntimeError):
        stage.run(breaks, force=True)
    other = Stage(load_profile("smoke", overrides=f"{places} text_game.sft.batch=4"), "answer", ["text_game.sft"])
    other.run(resumes)
    assert not other.facts["found"]


KILLED = """
import sys, time
from rlvr_lib.artifacts import Stage
from rlvr_lib.profile import load_profile
from rlvr_lib.progress import MetricsLog

def train(folder):
    checkpoint = folder / "step.txt"
    begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
    log = MetricsLog(folder / "metrics.jsonl", resume_step=begin)
    for step in range(begin + 1, 7):
        log.log(step, begin=begin)
        if step == 5 and begin == 0:
            print("ready", flush=True)
            time.sleep(60)
        if step % 2 == 0:
            checkpoint.write_text(str(step))
    return {"begin": begin}

Stage(load_profile("smoke", overrides=sys.argv[1]), "train").run(train)
"""


def test_sigkill_repeats_at_most_one_checkpoint_interval(smoke, places):
    process = subprocess.Popen([sys.executable, "-c", KILLED, places], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match="being made by another process"):
        Stage(smoke, "train").run(must_not_run)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([sys.executable, "-c", KILLED, places], check=True, capture_output=True)
    stage = Stage(smoke, "train")
    rows = [json.loads(line) for line in (stage.folder / "metrics.jsonl").read_text().splitlines()]
    assert stage.done and stage.facts["begin"] == 4
    assert [(row["step"], row["begin"]) for row in rows] == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 4), (6, 4)]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(rows))


def test_a_forced_run_makes_each_stage_again_once(smoke, monkeypatch):
    stage = Stage(smoke, "answer")
    stage.run(write_answer)
    monkeypatch.setenv("RLVR_FORCE", "2020-01-01T00:00:00+00:00")
    stage.run(must_not_run)
    monkeypatch.setenv("RLVR_FORCE", "2999-01-01T00:00:00+00:00")
    with pytest.raises(AssertionError, match="made again"):
        stage.run(must_not_run)


def test_large_outputs_are_not_read_again(smoke, monkeypatch):
    stage = Stage(smoke, "answer")
    stage.run(write_answer)
    monkeypatch.setattr("rlvr_lib.files._known_hashes", {})
    monkeypatch.setattr("rlvr_lib.artifacts.file_hash", lambda path: pytest.fail(f"{path} was read again"))
    assert stage.done


@pytest.mark.parametrize(
    "instructions,fast", [({"avx2": True}, False), ({"avx512_bf16": True}, False), ({"amx_tile": True}, True)]
)
def test_bfloat16_is_used_where_the_processor_has_matrix_units_for_it(instructions, fast, monkeypatch, capsys):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: instructions)
    fast_bfloat16.cache_clear()
    assert fast_bfloat16("cpu") is fast and fast_bfloat16("cuda:1") is True
    assert ("float32 throughout" in capsys.readouterr().out) is not fast
    fast_bfloat16.cache_clear()


def test_provenance_says_where_a_number_comes_from():
    facts = provenance(threads=1)
    assert set(facts) == {"commit", "dirty", "versions", "hardware", "python", "date", "threads"}
    assert facts["versions"]["torch"].startswith("2.13.0") and facts["hardware"]["cores"] >= 1
    json.dumps(facts)


# ---- progress --------------------------------------------------------------------------------------------------------
def test_headless_progress_prints_lines(capsys):
    assert list(track([1, 2, 3], label="sft", unit="steps", every=0.0)) == [1, 2, 3]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sft: 1/3 steps") and lines[-1].startswith("sft: 3/3 steps") and "took" in lines[-1]
    assert progress_line("a", 40, 120, 20.0, "steps") == "a: 40/120 steps, 2 steps/s, 0:40 left"
    assert (clock(65), clock(7200)) == ("1:05", "2:00:00")


def test_metrics_log_survives_a_half_written_line(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    for step in range(3):
        log.log(step, loss=numpy.float32(step))
    with open(log.path, "a") as file:
        file.write('{"step": 3, "lo')
    resumed = MetricsLog(log.path, resume_step=1)
    resumed.log(2, loss=9.0)
    assert [(row["step"], row["loss"]) for row in resumed.read()] == [(0, 0.0), (1, 1.0), (2, 9.0)]
