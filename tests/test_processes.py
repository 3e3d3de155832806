"""Processes of our own: their imports are done, their environment and preparation are as asked for."""

import multiprocessing
import os
import sys

import pytest
import torch

from rlvr_lib import processes


def told(name: str) -> tuple[str | None, str | None, bool]:
    """What the process sees: a variable, what was prepared, and whether the trainers are imported."""
    return os.environ.get(name), os.environ.get("PREPARED"), "trl.trainer.grpo_trainer" in sys.modules


def prepared(word: str) -> None:
    os.environ["PREPARED"] = word


@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_environment_and_preparation_are_those_of_the_moment(kind, monkeypatch):
    """The server keeps the environment of its start; its processes must not."""
    quick = processes.start_method() == "forkserver"
    for value in ("first", None, "second"):
        monkeypatch.delenv("TOLD", raising=False)
        if value:
            monkeypatch.setenv("TOLD", value)
        with getattr(processes, kind)(1, prepared, (f"for {value}",)) as workers:
            assert list(workers.map(told, ["TOLD"])) == [(value, f"for {value}", quick)]
    assert "PREPARED" not in os.environ


def test_fresh_processes_beside_a_gpu_and_without_a_server(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes.start_method() == "spawn"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert processes.start_method() == "spawn"


def test_the_server_imports_nothing_that_reads_its_settings_when_imported():
    with processes.pool(1) as workers:
        assert workers.apply(loaded, (("mujoco", "OpenGL"),)) == []


def loaded(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in sys.modules]
