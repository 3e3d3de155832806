"""The runner on small notebooks of its own (order, skipping, failure, going on, staleness, kills); the command line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from rlvr_lib import cli
from rlvr_lib.artifacts import ROOT, UserError, read_json
from rlvr_lib.doctor import doctor_text, missing
from rlvr_lib.notebook_rules import broken_cell, measured
from rlvr_lib.notebooks import Notebook, Shelf, state_of
from rlvr_lib.profile import load_profile
from rlvr_lib.runner import reproduce
from rlvr_lib.status import status_table

PARAMETERS = 'profile = "laptop"\nseed = 0\noverrides = ""'
STAGE = """
from rlvr_lib.artifacts import Stage
from rlvr_lib.profile import load_profile
stage = Stage(load_profile(profile, seed, overrides), "numbers", ["text_game.sft"])
"""


@pytest.fixture
def shelf(tmp_path):
    """Three notebooks, the second built on the first, and a library of one file."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "a.py").write_text("A = 1\n")
    notebooks = (
        Notebook("10_first", uses=("text_game.sft",)),
        Notebook("11_second", after=("10",)),
        Notebook("20_third"),
    )
    return Shelf(tmp_path / "notebooks", notebooks, tmp_path / "library")


def write(shelf: Shelf, name: str, *cells: str) -> None:
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, shelf.folder / f"{name}.ipynb")


def states(shelf, profile) -> dict[str, str]:
    return {notebook.number: state_of(shelf, notebook, profile)[0] for notebook in shelf.present()}


@pytest.mark.timeout(900)
def test_failure_leaves_the_rest_and_the_next_call_goes_on(shelf, smoke, places, capfd):
    write(shelf, "10_first", "import sys\nprint(sys.executable, profile, seed, overrides)")
    write(shelf, "11_second", "x = 0", "# divide\n1 / x")
    write(shelf, "20_third", "print(3)")
    assert reproduce(smoke, places, shelf=shelf, jobs=2, again="rlvr reproduce --profile smoke") == 1
    said = capfd.readouterr().out
    assert states(shelf, smoke) == {"10": "done", "11": "failed", "20": "done"}
    assert "FAILED 11_second, cell 3 (# divide): ZeroDivisionError: division by zero" in said
    assert "to go on (what is done is kept): rlvr reproduce --profile smoke" in said
    executed = nbformat.read(smoke.reports_dir / "smoke" / "notebooks" / "10_first.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.split()[:3] == [sys.executable, "smoke", "0"]
    assert (smoke.reports_dir / "smoke" / "notebooks" / "20_third.html").exists()
    assert "failed" in status_table(smoke, shelf) and "ZeroDivisionError" in status_table(smoke, shelf)

    write(shelf, "11_second", "x = 1", "# divide\n1 / x")
    assert reproduce(smoke, places, shelf=shelf) == 0
    said = capfd.readouterr().out
    assert "10_first: up to date" in said and "20_third: up to date" in said
    assert states(shelf, smoke) == {"10": "done", "11": "done", "20": "done"}
    assert not list((smoke.reports_dir / "smoke" / "notebooks").glob("*.failed.ipynb"))
    assert measured(shelf.notebooks[1], smoke)["s"] > 0

    _check_staleness(shelf, smoke, places)


def _check_staleness(shelf, smoke, places):
    """Each thing a notebook depends on makes it stale, and what builds on it too."""
    first, second, third = shelf.notebooks
    other = load_profile("smoke", overrides=f"{places} text_game.sft.batch=3")
    assert state_of(shelf, first, other) == ("stale", "settings or seed changed")
    assert state_of(shelf, second, other) == ("stale", "10_first changed")
    assert state_of(shelf, third, other)[0] == "done"
    assert set(states(shelf, load_profile("smoke", 1, places)).values()) == {"stale"}
    (shelf.library / "a.py").write_text("A = 2\n")
    assert state_of(shelf, third, smoke) == ("stale", "the library changed")
    (shelf.library / "a.py").write_text("A = 1\n")
    write(shelf, "20_third", "print(4)")
    assert state_of(shelf, third, smoke) == ("stale", "the notebook changed")
    stamp = smoke.runs_dir / "smoke" / "notebooks" / "10_first.done.json"
    stamp.write_text(stamp.read_text()[:20])
    assert state_of(shelf, first, smoke)[1].endswith("is damaged")


SLOW = """
import time
def make(folder):
    at = folder / "at.txt"
    begin = int(at.read_text()) if at.exists() else 0
    for step in range(begin, 4):
        if step == 2 and begin == 0:
            (folder.parent / "ready").touch(); time.sleep(120)
        at.write_text(str(step + 1))
    return {"begin": begin}
stage.run(make)
"""


@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_where_it_stopped(shelf, smoke, places, tmp_path):
    write(shelf, "10_first", STAGE, SLOW)
    code = f"""
import sys
from pathlib import Path
from rlvr_lib.notebooks import Notebook, Shelf
from rlvr_lib.profile import load_profile
from rlvr_lib.runner import reproduce
shelf = Shelf(Path({str(shelf.folder)!r}), (Notebook("10_first"),), Path({str(shelf.library)!r}))
sys.exit(reproduce(load_profile("smoke", overrides={places!r}), {places!r}, shelf=shelf))
"""
    ready = smoke.runs_dir / "smoke" / "ready"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
        while not ready.exists() and process.poll() is None:
            time.sleep(0.2)
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another rlvr reproduce works in" in second.stderr
        process.send_signal(signal.SIGKILL)  # its Snakemake, papermill and kernel live on
        process.wait()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left behind by a run that was killed" in done.stdout
    assert read_json(smoke.runs_dir / "smoke" / "numbers" / "done.json")["facts"]["begin"] == 2


def test_only_selects_numbers_and_ranges(shelf):
    for name in ("10_first", "11_second", "20_third"):
        write(shelf, name, "1")

    def chosen(only):
        return [notebook.number for notebook in shelf.select(only)]

    assert chosen(None) == ["10", "11", "20"]
    assert chosen("10-12,20") == ["10", "11", "20"]
    assert (chosen("20"), chosen("11 - 15")) == (["20"], ["11"])
    for bad in ("x", "10-", "30", "30-40"):
        with pytest.raises(UserError, match="--only"):
            shelf.select(bad)


def test_a_dead_kernel_is_told_apart(tmp_path):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell("# Parameters", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_code_cell("a = 1", metadata={"papermill": {"status": "completed"}}),
        nbformat.v4.new_code_cell("\nb = big()", metadata={"papermill": {"status": "running"}}),
    ]
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert broken_cell(tmp_path / "n.ipynb") == {
        "cell": 2,
        "line": "b = big()",
        "error": "the kernel died (killed, or out of memory)",
    }


# ---- the command line ------------------------------------------------------------------------------------------------
def run_cli(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    return caught.value.code


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["reproduce", "--profile", "desk"], "no profile 'desk'"),
        (["status", "--overrides", "text_game.rlvr.step=5"], "text_game.rlvr.step"),
        (["reproduce", "--profile", "smoke", "--only", "77"], "--only"),
        (["reproduce", "--profile", "smoke", "--jobs", "0"], "--jobs"),
        (["settings", "--seed", "x"], "seed"),
        (["score", "text-game", "/nonexistent.jsonl"], "/nonexistent.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, words, named):
    assert run_cli(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and named in lines[0]


def test_settings_and_status_print_tables(capsys, places):
    assert run_cli("settings", "--profile", "paper") == 0
    assert re.search(r"text_game\.rlvr\.learning_rate +1e-06 +Constant", capsys.readouterr().out)
    assert run_cli("status", "--profile", "smoke", "--overrides", places) == 0
    assert "no stage has run yet" in capsys.readouterr().out


def test_start_is_spelt_out_as_overrides(monkeypatch):
    seen = {}
    monkeypatch.setattr("rlvr_lib.runner.reproduce", lambda profile, overrides, *rest: seen.update(
        start=profile.text_game.sft.start, overrides=overrides, again=rest[3], extra=rest[4]) or 0)  # fmt: skip
    words = ["reproduce", "--start", "scratch", "--force", "--overrides", "threads=1", "--", "--executor", "slurm"]
    assert run_cli(*words) == 0
    assert seen["start"] == "scratch" and "text_game.pretrain.start=scratch" in seen["overrides"]
    assert seen["again"] == "rlvr reproduce --profile laptop --overrides threads=1 --start scratch"
    assert seen["extra"] == ["--executor", "slurm"]


def test_doctor_says_what_is_there_and_what_is_missed(monkeypatch, tmp_path):
    monkeypatch.setenv("RLVR_SHARED_DATA", str(tmp_path))
    (tmp_path / "lpips" / "squeeze").mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    text = doctor_text()
    assert "squeeze (RLVR_SHARED_DATA)" in text and "not tried" in text
    assert any("ByteSized32" in lack for lack in missing(load_profile("paper")))
    assert not any("GPU" in lack for lack in missing(load_profile("laptop")))
    assert any("convert-rt1" in lack for lack in missing(load_profile("paper")))
    assert any("vgg trunk" in lack for lack in missing(load_profile("paper")))
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert "ray caster" in doctor_text()


def test_make_finds_python_or_says_so(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "make", "env"):
        (tools / tool).symlink_to(
            Path(next(p for d in os.environ["PATH"].split(":") if (p := Path(d) / tool).exists()))
        )
    done = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env={"PATH": str(tools), "SHELL": "bash"}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "error: Python 3.11 is needed" in done.stderr
