"""Pieces of work beside each other: order, threads, and no process where there is nothing to do."""

import os

import pytest

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
