"""The committed notebooks: their form, and one whole run at the smoke profile with the network blocked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_import import offline_environment

from rlvr_lib.artifacts import ROOT
from rlvr_lib.notebooks import FOLDER, NOTEBOOKS, Shelf
from rlvr_lib.profile import load_profile

PATHS = sorted(FOLDER.glob("*.ipynb"))
MAX_LINES = 25
by_name = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_notebook_is_in_the_plan():
    assert {path.stem for path in PATHS} <= {notebook.name for notebook in NOTEBOOKS}


def test_dependencies_are_an_order():
    shelf = Shelf()
    for notebook in shelf.present():
        assert all(int(other.number) < int(notebook.number) for other in shelf.upstream(notebook))


@by_name
def test_it_is_valid_and_holds_no_output(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None


@by_name
def test_it_names_its_language_and_kernel(path):
    metadata = nbformat.read(path, as_version=4).metadata
    assert metadata.kernelspec.name == "python3" and metadata.kernelspec.language == "python"


@by_name
def test_one_parameters_cell_with_profile_seed_and_overrides(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    values: dict = {}
    exec(tagged[0].source, {}, values)  # our own committed text
    assert set(values) == {"profile", "seed", "overrides"}
    assert all(isinstance(value, str | int) and not isinstance(value, bool) for value in values.values())
    load_profile(values["profile"], values["seed"], values["overrides"])


@by_name
def test_cells_are_short(path):
    long = [cell.source.splitlines()[0] for cell in code_cells(path) if len(cell.source.splitlines()) > MAX_LINES]
    assert long == []


@by_name
def test_nobodys_machine_is_in_it(path):
    text = path.read_text()
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


@pytest.mark.notebooks
@pytest.mark.timeout(2400)
@pytest.mark.skipif(not PATHS, reason="no notebooks yet")
def test_smoke_run_ends_without_network(tmp_path):
    (tmp_path / "site").mkdir()
    environment = offline_environment(tmp_path / "site")
    overrides = f"runs_dir={tmp_path / 'runs'} reports_dir={tmp_path / 'reports'}"
    command = [sys.executable, "-m", "rlvr_lib.cli", "reproduce", "--profile", "smoke", "--overrides", overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    report = tmp_path / "reports" / "smoke"
    for path in PATHS:
        stamp = json.loads((tmp_path / "runs" / "smoke" / "notebooks" / f"{path.stem}.done.json").read_text())
        assert stamp["output"] == str(report / "notebooks" / path.name)
        assert (report / "notebooks" / f"{path.stem}.html").stat().st_size > 0
    for name in ("report.html", "report.md", "claims.csv"):
        assert (report / name).stat().st_size > 0, name
    assert os.listdir(report / "tables")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0 and again.stdout.count("up to date") == len(PATHS)
