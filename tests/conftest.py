"""Shared by all tests: one thread, no network, real data when it lies beside the project.

Importing rlvr_lib first makes transformers, trl and peft importable beside a CPU torch.
"""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RLVR_HEADLESS"] = "1"
os.environ.pop("RLVR_FORCE", None)

import pytest
import torch
from toy_video import episodes, task  # noqa: F401 (fixtures)

import rlvr_lib  # noqa: F401 (first)
from rlvr_lib.profile import Profile, load_profile


@pytest.fixture
def cut_off():
    """``cut_off(training, step, counter, at)``: its run is interrupted when ``counter`` has come to ``at``."""

    def run(training, step: str, counter: str, at: int) -> None:
        go_on = getattr(training, step)

        def interrupted():
            if getattr(training, counter) == at:
                raise KeyboardInterrupt
            return go_on()

        setattr(training, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.run()

    return run


torch.set_num_threads(1)
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "RLVR_SHARED_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["RLVR_SHARED_DATA"] = str(_BESIDE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run; begin with the whole run of all notebooks, the longest."""
    items.sort(key=lambda item: item.get_closest_marker("notebooks") is None)
    shared = os.environ.get("RLVR_SHARED_DATA", "")
    if not Path(shared or "/nonexistent").is_dir():
        mark = pytest.mark.skip(reason="real data: RLVR_SHARED_DATA names no folder")
        for item in items:
            if item.get_closest_marker("shared_data"):
                item.add_marker(mark)
    if not torch.cuda.is_available():
        mark = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(mark)


@pytest.fixture
def places(tmp_path: Path) -> str:
    """Overrides that send runs and reports to a temporary folder."""
    return f"runs_dir={tmp_path / 'runs'} reports_dir={tmp_path / 'reports'}"


@pytest.fixture
def smoke(places: str) -> Profile:
    """The smoke profile, writing to a temporary folder."""
    return load_profile("smoke", overrides=places)
