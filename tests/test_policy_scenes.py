"""Wrong physics as physics knows it, the same beginnings under all of them, and policies that err."""

import multiprocessing

import numpy as np
import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.drawers import AFTER_SUCCESS, DrawerScene, Recording, prepare_worker
from rlvr_lib.worlds.policy_scenes import DrawerPolicyScene, Physics, open_scene, play, usable
from rlvr_lib.worlds.pusht import PushTScene, record_pusht
from rlvr_lib.worlds.tabletop import TabletopRecording

TINY = Recording(seed=0, height=8, width=8, renderer="rays")
WRONG = Physics(action_scale=0.5, damping=5.0)


def measured() -> dict:
    """What a process with its own MuJoCo sees of the drawer and the arm."""
    import mujoco

    prepare_worker("rays")
    scene, found = DrawerPolicyScene("drawer-open", TINY), {}
    env, joint = scene.scene.env, scene.scene.env.model.joint("goal_slidey")
    for name, physics in (("real", Physics()), ("wrong", WRONG), ("real again", Physics())):
        scene.begin((7, 3), physics)
        start = env.data.qpos.copy()
        hand = env.data.mocap_pos[0].copy()
        scene.act(np.array([0, 0, 3, 0], dtype=np.float32))  # cut to 1
        moved = env.data.mocap_pos[0] - hand
        env.data.qpos[joint.qposadr[0]], env.data.qvel[joint.dofadr[0]] = -0.08, -0.1  # half open, sliding freely
        mujoco.mj_step(env.model, env.data)
        slowed = -0.1 / float(env.data.qvel[joint.dofadr[0]]) - 1
        found[name] = {"start": start, "moved": moved, "slowed": slowed}
    plain = DrawerScene("drawer-open", TINY)
    plain.reset(np.random.default_rng((7, 3)))
    found["recorded"] = plain.env.data.qpos.copy()
    return found


@pytest.fixture(scope="module")
def physics():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured)


def test_all_begin_where_the_recorded_episode_began(physics):
    for name in ("real", "wrong", "real again"):
        assert np.array_equal(physics[name]["start"], physics["recorded"])


def test_the_arm_goes_as_far_as_the_scale_says(physics):
    """Four simulator steps of a centimetre each, or of half of one."""
    assert physics["real"]["moved"] == pytest.approx([0, 0, 0.04], abs=1e-9)
    assert physics["wrong"]["moved"] == pytest.approx([0, 0, 0.02], abs=1e-9)


def test_a_sliding_drawer_is_slowed_as_the_damping_says(physics):
    """v' = -b v / m, implicit in time: v0 / v1 - 1 = b h / m, five times as large under five times the damping."""
    assert physics["real"]["slowed"] > 0
    assert physics["wrong"]["slowed"] == pytest.approx(5 * physics["real"]["slowed"], rel=0.02)


def test_wrong_physics_leave_nothing_behind(physics):
    for name in ("moved", "slowed"):
        assert np.array_equal(physics["real again"][name], physics["real"][name])


def test_unknown_tasks_are_named():
    with pytest.raises(UserError, match="push-t"):
        open_scene("push-t", TINY)


class Counting:
    """A scene that is done after ``needed`` sound moves to the right; its picture is the number of steps."""

    def __init__(self, needed: int):
        self.needed = needed

    def begin(self, seed, physics):
        self.steps, self.place = 0, 0.0

    def frame(self):
        return np.full((2, 2, 3), self.steps, dtype=np.uint8)

    def act(self, action):
        self.steps, self.place = self.steps + 1, self.place + float(action[0])
        return self.place >= self.needed

    def close(self): ...


def right(frame, step):
    return np.array([1, 0, 0, 0], dtype=np.float32)


def test_an_episode_goes_on_a_little_after_success_and_ends_at_the_limit():
    played = play(Counting(5), right, (0,), Physics(), 20, 4)
    assert played.success and len(played.frames) == 1 + 5 + AFTER_SUCCESS
    assert [int(frame.max()) for frame in played.frames] == list(range(6 + AFTER_SUCCESS))
    assert len(play(Counting(5), right, (0,), Physics(), 20, 4, after=0).frames) == 6
    late = play(Counting(20), right, (0,), Physics(), 20, 4)
    assert late.success and len(late.frames) == 21
    assert not play(Counting(21), right, (0,), Physics(), 20, 4).success


def test_actions_that_are_no_numbers_are_counted_and_the_arm_stays():
    def faulty(frame, step):
        return np.array([np.nan, 0, 0, 0]) if step % 2 else right(frame, step)

    played = play(Counting(5), faulty, (0,), Physics(), 9, 4)
    assert played.bad_actions == 4 and played.success  # five sound moves of nine
    assert not play(Counting(5), faulty, (0,), Physics(), 8, 4).success
    assert play(Counting(1), lambda *_: np.zeros(3), (0,), Physics(), 2, 4).bad_actions == 2  # too few numbers


def test_what_is_a_usable_action():
    action, sound = usable(np.array([3, -3, 0.5, 0]), 4)
    assert sound and action.tolist() == [3, -3, 0.5, 0] and action.dtype == np.float32
    for broken in ([np.inf, 0, 0, 0], [np.nan] * 4, [0, 0]):
        action, sound = usable(np.array(broken), 4)
        assert not sound and action.tolist() == [0, 0, 0, 0]


TABLETOP = TabletopRecording("pusht", 0, 32, 32, frame_every=5)


def test_pushts_scene_begins_as_recorded_and_says_when_the_t_is_placed():
    recording = TabletopRecording("pusht", 4, 32, 32, frame_every=5, most_frames=3)
    episode, scene = record_pusht(recording, 6), open_scene("pusht", recording)
    for physics in (Physics(), Physics(0.5, 3.0)):
        scene.begin(episode.facts["seed"], physics)
        assert np.array_equal(scene.frame(), episode.frames[0])
    goal = np.asarray(scene.scene.env.goal_pose, dtype=float)
    still = np.zeros(10, dtype=np.float32)
    for away, placed in ((30, True), (60, False)):
        scene.scene.set_state([60, 60, goal[0] + away, goal[1], goal[2]])
        assert scene.act(still) is placed


def test_pushts_wrong_physics_go_less_far_and_slower():
    """One simulator step of 0.1 s towards a place 40 units away, and a whole frame of five."""
    scene, ways = open_scene("pusht", TABLETOP), {}
    for name, physics in (("real", Physics()), ("short", Physics(0.5)), ("slow", Physics(1.0, 4.0))):
        scene.begin((0, 0), physics)
        scene.scene.set_state([100, 100, 380, 380, 0])
        scene.act(np.array([0.4, 0.0] + [0.0] * 8, dtype=np.float32))
        ways[name] = scene.scene.state[0] - 100
    assert ways["real"] > 0 and ways["short"] == pytest.approx(ways["real"] / 2, rel=0.02)
    assert 0 < ways["slow"] < ways["real"]
    scene.begin((0, 0), Physics())
    assert scene.scene.env.k_v == PushTScene().env.k_v, "the next episode is real again"
    scene.act(np.full(10, 99.0, dtype=np.float32))  # beyond the table: cut to it
    assert (scene.scene.state[:2] <= 512).all()


def test_a_recording_has_its_own_tasks():
    for task, recording in (("pusht", TINY), ("drawer-open", TABLETOP), ("cloth", TABLETOP)):
        with pytest.raises(UserError, match=f"no scene for task '{task}' in these episodes"):
            open_scene(task, recording)
