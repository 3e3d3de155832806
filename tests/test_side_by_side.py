"""Pieces of work beside each other: order, threads, and no process where there is nothing to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlvr_lib.profile import load_profile
from rlvr_lib.side_by_side import side_by_side


def told(profile, item):
    return item, profile.threads, os.getpid()


@pytest.mark.parametrize(("threads", "left", "apart"), [(2, 2, True), (1, 2, False), (2, 1, False), (2, 0, False)])
def test_work_keeps_its_order_and_its_threads(threads, left, apart):
    profile = load_profile("smoke", overrides=f"threads={threads}")
    found = side_by_side(told, [(profile, one) for one in ("a", "b", "c")], left)
    assert [item for item, _, _ in found] == ["a", "b", "c"]
    assert all((pid != os.getpid()) == apart for _, _, pid in found)
    assert {own for _, own, _ in found} == {1 if apart else threads}


def threads_of_torch(profile, item):
    return torch.get_num_threads()


def test_torch_keeps_to_one_thread_in_each_process():
    """Two processes of two threads each on two cores take four times as long; work that sets none must not do that."""
    code = "import test_side_by_side as t; profile = t.load_profile('smoke', overrides='threads=2');"
    code += "print(*t.side_by_side(t.threads_of_torch, [(profile, 1), (profile, 2)], 2))"
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1"]
