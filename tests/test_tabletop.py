"""PushT, rope, granular: physics against gym-pusht's own and against facts, pictures against places, equal episodes."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds import pusht
from rlvr_lib.worlds.deformables import MATERIALS, SEGMENT, SEGMENTS, record_material
from rlvr_lib.worlds.pusht import GRADES, STEADY, PushTScene, plan, record_pusht, steady_push
from rlvr_lib.worlds.tabletop import TabletopRecording, action_of, grade_of, push_of

STATE = np.array([150.0, 300.0, 250.0, 240.0, 0.7])


@pytest.fixture(scope="module")
def scene():
    return PushTScene()


def towards(rng, steps):
    return rng.uniform(180, 320, (steps, 2))


def test_a_step_is_gym_pushts_own_to_the_bit(scene):
    other = PushTScene()
    for one in (scene, other):
        one.set_state(STATE)
    for target in towards(np.random.default_rng(0), 20):
        scene.step(target)
        other.env.step(target)  # gym-pusht's, with its reward
        assert (scene.state == other.state).all() and (scene.motion == other.motion).all()
    assert np.linalg.norm(scene.state[2:4] - STATE[2:4]) > 5  # the T was moved


def test_a_state_is_put_back_exactly_in_the_middle_of_a_push(scene):
    scene.set_state(STATE)
    targets = towards(np.random.default_rng(1), 30)
    for target in targets[:10]:
        scene.step(target)
    kept = scene.state, scene.motion
    after = []
    for _ in range(2):
        scene.set_state(*kept)
        assert (scene.state == kept[0]).all()
        for target in targets[10:]:
            scene.step(target)
        after.append(scene.state)
    assert (after[0] == after[1]).all() and (after[0] != kept[0]).any()


def test_coverage_and_distance_at_the_mark_and_away_from_it(scene):
    scene.set_state([50, 50, *scene.env.goal_pose])
    assert scene.coverage() == pytest.approx(1) and scene.distance() == pytest.approx(0, abs=1e-9)
    x, y, angle = scene.env.goal_pose
    scene.set_state([50, 50, x + 30, y - 40, angle])
    assert scene.distance() == pytest.approx(50) and scene.coverage() < 0.6  # every corner moved by 3-4-5
    scene.set_state([50, 50, x - 150, y - 150, angle])
    assert scene.coverage() == 0


def test_pictures_show_things_where_they_are_in_gym_pushts_colours(scene):
    scene.set_state(STATE)
    frame = scene.frame(64).astype(int)
    blue = (frame[..., 2] > frame[..., 0] + 60) & (frame[..., 2] > 200)
    rows, columns = np.nonzero(blue)
    assert np.allclose([columns.mean() + 0.5, rows.mean() + 0.5], STATE[:2] / 8, atol=0.5)
    from PIL import Image

    theirs = np.transpose(np.array(_pixels(scene)), (1, 0, 2))
    theirs = np.asarray(Image.fromarray(theirs).reduce(8)).astype(int)
    assert np.abs(frame - theirs).mean() < 2 and np.abs(frame - theirs).max() < 110
    assert np.abs(theirs - 255).mean() > 5  # there is something to see


def _pixels(scene):
    import pygame

    return pygame.surfarray.pixels3d(scene.env._draw())


def test_planning_leaves_no_trace_and_more_candidates_are_no_worse(scene):
    scene.set_state(STATE, [3, -2, 0, 0, 0])
    distances = []
    for candidates in (1, 16):
        before = scene.state, scene.motion
        push = plan(scene, candidates, np.random.default_rng(5))
        assert push.shape == (10, 2) and (scene.state == before[0]).all() and (scene.motion == before[1]).all()
        for target in push:
            scene.step(target)
        distances.append(scene.distance())
        scene.set_state(*before)
    assert distances[1] <= distances[0]  # the first of the sixteen is the one of the one


@pytest.mark.parametrize("name", MATERIALS)
def test_material_stays_whole_and_on_the_table(name):
    material, rng = MATERIALS[name](), np.random.default_rng(3)
    material.reset(rng)
    for _ in range(6):
        aim = material.points()[rng.integers(len(material.points()))]
        material.act(action_of([aim - 90, aim + 90]))
    points = material.points()
    assert points.min() > -10 and points.max() < 522
    if name == "rope":
        pieces = np.linalg.norm(np.diff(points, axis=0), axis=1)
        assert len(pieces) == SEGMENTS and np.allclose(pieces, SEGMENT, atol=4)
        assert pieces.sum() == pytest.approx(SEGMENTS * SEGMENT, rel=0.03)
    else:
        gaps = np.linalg.norm(points[:, None] - points[None], axis=2) - material.radii[:, None] - material.radii
        assert gaps[~np.eye(len(points), dtype=bool)].min() > -8  # pressed at most, never inside one another


def test_the_bar_clears_its_way_and_a_distant_push_moves_nothing():
    pile = MATERIALS["granular"]()
    pile.reset(np.random.default_rng(8))
    before = pile.points()
    far = action_of([[500, 500], [505, 505]] if before.mean() < 256 else [[8, 8], [12, 12]])
    pile.act(far)
    assert np.abs(pile.points() - before).max() < 3
    height = float(before[:, 1].mean())
    pile.act(action_of([[20, height], [400, height]]))
    x, y = pile.points().T
    inside = (x > 60) & (x < 380) & (np.abs(y - height) < 45)
    assert inside.sum() == 0 and (np.abs(before[:, 1] - height) < 45).sum() > 20


@pytest.mark.parametrize("name", MATERIALS)
def test_a_picture_is_where_the_material_is(name):
    material = MATERIALS[name]()
    material.reset(np.random.default_rng(4))
    frame = material.frame(64).astype(int)
    marked = np.abs(frame - frame[0, 0]).sum(2) > 40
    rows, columns = np.nonzero(marked)
    middle = material.points().mean(0) / 8
    assert np.allclose([columns.mean() + 0.5, rows.mean() + 0.5], middle, atol=1.5)
    assert 0.02 < marked.mean() < 0.5


def test_equal_settings_make_equal_episodes_in_any_order():
    for record, recording in (
        (record_pusht, TabletopRecording("pusht", 7, 16, 16, frame_every=2, most_frames=4)),
        (record_material, TabletopRecording("rope", 7, 16, 16, most_frames=3)),
        (record_material, TabletopRecording("granular", 7, 16, 16, most_frames=3)),
    ):
        first, second = record(recording, 1), (record(recording, 0), record(recording, 1))[1]
        assert (first.frames == second.frames).all() and (first.actions == second.actions).all()
        assert first.frames.shape == (recording.most_frames, 16, 16, 3) and first.facts["seed"] == [7, 1]
        assert first.actions.shape == (recording.most_frames, 4) and np.abs(first.actions).max() <= 1.5


def test_the_bars_of_the_t_have_one_order(scene, monkeypatch):
    """pymunk keeps a body's shapes in a set, whose order follows addresses: it differs from scene to scene."""
    env = scene.env
    block = SimpleNamespace(shapes=[*env.block.shapes][::-1])
    turned = SimpleNamespace(reset=lambda seed: None, block=block, goal_pose=env.goal_pose)
    monkeypatch.setattr(pusht, "_environment", lambda: turned)
    assert [bar.tolist() for bar in PushTScene().corners] == [bar.tolist() for bar in scene.corners]


def test_an_episodes_actions_lead_from_frame_to_frame():
    recording = TabletopRecording("pusht", 2, 32, 32, frame_every=5, most_frames=6)
    episode, scene = record_pusht(recording, 0), PushTScene()
    scene.reset(np.random.default_rng((2, 0)))
    for step in range(6):
        assert np.abs(scene.frame(32).astype(int) - episode.frames[step]).max() <= 8  # actions are float32
        scene.act(episode.actions[step])


def test_the_t_is_placed_when_its_middle_is_within_forty_units_of_the_marks(scene):
    goal = np.asarray(scene.env.goal_pose, dtype=float)
    for away, placed in (((0, 0), True), ((39, 0), True), ((0, -41), False), ((28, 28), True), ((29, 29), False)):
        scene.set_state([50, 50, *(goal[:2] + away), goal[2]])
        assert scene.placed() is placed
    middle, turned = scene.mark(), []
    for angle in (0.0, 1.0, 3.0):  # turned about its middle it is placed all the same
        scene.set_state([50, 50, 256, 256, angle])
        scene.set_state([50, 50, *(np.array([256, 256]) + middle - scene.centre()), angle])
        turned.append(scene.placed())
    assert turned == [True] * 3


def test_the_steady_policy_goes_around_and_pushes_towards_the_mark():
    mark = np.array([256.0, 256.0])
    middle = np.array([356.0, 256.0])  # the T lies to the right of its mark
    assert (steady_push(np.array([460.0, 250.0]), middle, mark) - [460, 250])[
        0
    ] < -50  # behind it: to the left, through it
    around = steady_push(np.array([240.0, 256.0]), middle, mark)  # before it: not into it
    assert np.linalg.norm(around - middle) > 100 and abs(around[1] - 256) > 30
    assert (steady_push(np.array([100.0, 100.0]), mark + np.array([15, 0]), mark) == [100, 100]).all()  # it is there


def test_the_steady_policy_brings_the_t_to_its_mark():
    recording = TabletopRecording("pusht", 3, 16, 16, frame_every=5, most_frames=32)
    numbers = [number for number in range(40) if grade_of(3, number, list(GRADES)) == STEADY]
    steady = [record_pusht(recording, number).facts for number in numbers]
    random = [
        record_pusht(recording, number).facts for number in range(40) if grade_of(3, number, list(GRADES)) == "random"
    ]
    rates = [np.mean([facts["success"] for facts in some]) for some in (steady, random)]
    assert len(steady) == 10 and rates[0] >= 0.9 and rates[1] <= 0.5
    for facts in steady:
        assert facts["success"] == ("1" in facts["done"]) and len(facts["done"]) == 32


def test_every_grade_once_in_a_block():
    grades = list(GRADES)
    drawn = [grade_of(5, number, grades) for number in range(60)]
    blocks = [drawn[first : first + len(grades)] for first in range(0, 60, len(grades))]
    assert all(sorted(block) == sorted(grades) for block in blocks)
    assert set(drawn[::2]) == set(drawn[::3]) == set(grades)


@pytest.mark.parametrize("action", [[0, 0, 1.01, 0], [0, 0, float("nan"), 0], [0, 0, 0], [[0, 0], [1, 1]]])
def test_a_push_beyond_the_table_is_refused(action):
    with pytest.raises(UserError, match="rope: a push is four numbers from -1 to 1"):
        push_of(action, "rope")


def test_pusht_refuses_actions_that_are_none(scene):
    for action, words in (([0.1], "pairs of finite numbers"), ([9.0, 0.0], "beyond the table")):
        with pytest.raises(UserError, match=words):
            scene.act(action)


def test_there_and_back():
    push = np.array([[0.0, 512.0], [128.0, 384.0]])
    assert (action_of(push) == np.float32([-1, 1, -0.5, 0.5])).all() and (push_of(action_of(push), "") == push).all()
    assert (action_of([[-50, 600], [0, 0]]) == [-1, 1, -1, -1]).all()
    with pytest.raises(UserError, match="square"):
        TabletopRecording("rope", 0, 64, 80)


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_pusht_runs_without_a_working_opencv(monkeypatch):
    """As on a machine without libGL, where its import fails; and no empty module is left for others to find."""
    monkeypatch.setitem(sys.modules, "cv2", None)
    for name in [name for name in sys.modules if name.startswith("gym_pusht")]:
        monkeypatch.delitem(sys.modules, name)
    assert PushTScene().frame(16).shape == (16, 16, 3) and "cv2" not in sys.modules
