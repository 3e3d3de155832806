"""Real2Sim at the paper's profile: RT-1's actions, checkpoints that are absent, published rates in place of a robot."""

import numpy as np
import pandas as pd
import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.real2sim import take_published
from rlvr_lib.evaluation.real2sim_results import PublishedResults, Real2SimResults
from rlvr_lib.profile import load_profile
from rlvr_lib.report.real2sim_figures import figure5
from rlvr_lib.report.real2sim_tables import figure5_table
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.training.picture_policies import make_policies, policy_names
from rlvr_lib.training.rt1_policies import SENTENCES, action_vector, checkpoint_folders, stops
from rlvr_lib.worlds.policy_scenes import usable

PAPER = load_profile("paper")


def test_a_dictionary_becomes_thirteen_numbers_in_alphabetical_order():
    entries = {
        "world_vector": [10, 11, 12],
        "gripper_closedness_action": [0.5],
        "rotation_delta": [4, 5, 6],
        "terminate_episode": [7, 8, 9],
    }
    assert action_vector(entries).tolist() == [0, 0, 0, 0.5, 4, 5, 6, 7, 8, 9, 10, 11, 12]  # no base: zeros
    assert action_vector({**entries, "gripper_closedness_action": [-0.009]})[3] == 0
    assert action_vector({**entries, "gripper_closedness_action": [-0.011]})[3] == pytest.approx(-0.011)
    ordered = ActionBins.rt1()
    assert len(action_vector({})) == ordered.dims


def test_an_episode_ends_when_terminate_is_exactly_one_zero_zero():
    for flags, ends in (((1, 0, 0), True), ((0, 1, 0), False), ((1, 0, 1), False), ((0.9, 0, 0), False)):
        assert stops(action_vector({"terminate_episode": flags})) == ends
    assert not stops(np.array([1, 0, 0, 0], dtype=np.float32)), "drawers have no such numbers"


def test_moves_beyond_one_are_rt1s_own_business():
    """RT-1's ranges reach 22: nothing is cut off before its actions become bins."""
    action = action_vector({"world_vector": [2.5, -3, 1]})
    assert usable(action, 13)[0].tolist() == action.tolist()


def test_absent_checkpoints_are_named_with_the_setting(tmp_path):
    with pytest.raises(UserError, match=r"video\.real2sim\.checkpoints: set it to the folder of RT-1"):
        make_policies(tmp_path, PAPER, tmp_path)
    names = PAPER.video.real2sim.rt1
    for name in names[:-1]:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"has no folder {names[-1]}"):
        checkpoint_folders(str(tmp_path), names)
    (tmp_path / names[-1]).mkdir()
    with pytest.raises(UserError, match=SENTENCES):
        checkpoint_folders(str(tmp_path), names)
    (tmp_path / SENTENCES).mkdir()
    assert list(checkpoint_folders(str(tmp_path), names)) == policy_names(PAPER) == names


@pytest.fixture
def folder(tmp_path):
    """An evaluation of RT-1 in which the base says 50 % of everything and RLVR what is published as real."""
    take_published(tmp_path, PAPER)
    published, settings = pd.read_csv(tmp_path / "published.csv").set_index("policy"), PAPER.video.real2sim
    rows = []
    for name, rate in (
        ("base world model", lambda _: 0.5),
        ("RLVR world model", lambda p: published.loc[p, "real_open"]),
    ):
        for policy in settings.rt1:
            for task in settings.tasks:
                for episode in range(50):
                    success = episode < round(50 * rate(policy))
                    row = {"simulator": name, "policy": policy, "task": task, "episode": episode, "success": success}
                    row |= {"frames": 113, "bad_actions": 0, "probability": 0.5, "invalid_ids": 0}
                    rows.append({**row, "verdict": "success" if success else "failure"})
    pd.DataFrame(rows).to_csv(tmp_path / "episodes.csv", index=False)
    held = [{"episode": str(n), "task": task, "look": "camera", "success": n % 2, "probability": n % 2,
             "verdict": ("failure", "success")[n % 2]} for task in settings.tasks for n in range(40)]  # fmt: skip
    pd.DataFrame(held).to_csv(tmp_path / "judge.csv", index=False)
    about = pd.DataFrame([{"decides": settings.decides, "bootstrap_draws": 1000}])
    about.to_csv(tmp_path / "about.csv", index=False)
    return tmp_path


def test_published_rates_stand_on_the_x_axis(folder):
    results = Real2SimResults.read(folder, 0)
    assert isinstance(results, PublishedResults) and len(results.compared) == 1
    (panel,) = results.compared
    real = results.rate("real", "rt1_converged", panel)
    assert real.mean == pytest.approx((0.815 + 0.926) / 2, abs=1e-3)
    error = np.sqrt(0.815 * 0.185 / 27 + 0.926 * 0.074 / 27) / 2
    assert real.high - real.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    begin = results.rate("real", "rt1_begin", panel)
    assert (begin.mean, begin.low, begin.high) == (0, 0, 0)
    matching = results.rate("SIMPLER visual matching", "rt1_x", panel)
    assert matching.mean == matching.low == matching.high == pytest.approx(0.597)


def test_errors_are_of_the_means_over_drawers(folder):
    results = Real2SimResults.read(folder, 0)
    real = np.array([0.870, 0.796, 0.630, 0.0])
    expected = np.abs(np.array([0.730, 0.565, 0.597, 0.139]) - real).mean()
    assert results.metric("mae", "SIMPLER visual matching").mean == pytest.approx(expected, abs=1e-3)
    assert results.metric("mae", "base world model").mean == pytest.approx(np.abs(0.5 - real).mean(), abs=1e-3)
    assert results.metric("mae", "SIMPLER variant aggregation") is None, "one of its numbers is not known"
    assert results.gain("base world model", "RLVR world model").high < 0


def test_figure_and_table_are_drawn_from_published_rates(folder, tmp_path):
    results = Real2SimResults.read(folder, 0)
    assert len(figure5(results, path=tmp_path / "five").axes) == 1
    data = figure5_table(results, "").data
    assert set(data["task"]) == {"all tasks", *results.compared}


def test_unknown_checkpoints_have_no_published_rate(tmp_path):
    with pytest.raises(UserError, match="nothing is published about 'rt2'"):
        take_published(tmp_path, load_profile("paper", overrides="video.real2sim.rt1=[rt1_x,rt2]"))
