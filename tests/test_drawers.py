"""Recorded drawer episodes: real physics and pictures, equal whoever records them, never mixed, resumable."""

import multiprocessing

import numpy as np
import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.processes import pool
from rlvr_lib.worlds import drawers
from rlvr_lib.worlds.drawers import (
    GRADES,
    TASKS,
    DrawerScene,
    Recording,
    cast_of,
    prepare_worker,
    record_episode,
    record_set,
)
from rlvr_lib.worlds.renderers import choose_renderer
from rlvr_lib.worlds.video_episodes import EpisodeSet, load_episode

EGL = Recording(seed=0, renderer="egl")
RAYS = Recording(seed=5, height=16, width=20, most_frames=4, renderer="rays")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawers")
    return folder, record_set(folder, 3, RAYS, workers=1)


def test_a_set_is_described_and_well_formed(recorded):
    folder, facts = recorded
    episodes = EpisodeSet(folder, test_every=2)
    assert facts["renderer"] == episodes.manifest["renderer"] == "rays" and facts["frames"] == 12
    assert not episodes.check() and episodes.test == ["00000.npz", "00002.npz"]
    first = episodes["00000.npz"]
    assert first.frames.shape == (4, 16, 20, 3) and first.actions.shape == (4, 4)
    assert np.abs(first.actions).max() <= 1
    cast = [(episodes[name].facts["task"], episodes[name].facts["policy"]) for name in episodes.names]
    assert cast == [cast_of(RAYS.seed, number) for number in range(3)]


def test_pictures_change_and_the_green_drawer_is_in_them(recorded):
    folder, _ = recorded
    frames = load_episode(folder / "00001.npz").frames.astype(int)
    assert np.abs(frames[-1] - frames[0]).max() > 40
    green = (frames[..., 1] > frames[..., 0] + 25) & (frames[..., 1] > frames[..., 2] + 25)
    assert green.mean((1, 2)).min() > 0.02


def test_an_episode_does_not_depend_on_who_recorded_it_or_what_came_before(recorded, tmp_path):
    folder, _ = recorded
    (tmp_path / "other").mkdir()
    again = record_set(tmp_path / "other", 3, RAYS, workers=2)
    assert again["success"] == recorded[1]["success"]
    for name in ("00000.npz", "00001.npz", "00002.npz"):
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()


def test_a_broken_run_goes_on_and_a_damaged_file_is_made_again(recorded, capsys):
    folder, _ = recorded
    before = (folder / "00002.npz").read_bytes()
    kept = (folder / "00000.npz").stat().st_mtime_ns
    (folder / "00002.npz").write_bytes(before[:50])
    record_set(folder, 3, RAYS)
    assert (folder / "00002.npz").read_bytes() == before
    assert (folder / "00000.npz").stat().st_mtime_ns == kept
    printed = capsys.readouterr().out
    assert "recorded again" in printed and "2 of 3 episodes are there already" in printed


def test_sets_are_never_mixed(recorded):
    folder, _ = recorded
    other = Recording(seed=5, height=16, width=20, most_frames=4, renderer="egl")
    with pytest.raises(UserError, match="renderer rays, now it is egl"):
        record_set(folder, 3, other)


def test_renderers_are_chosen_or_refused(monkeypatch):
    assert choose_renderer("rays") == "rays"
    with pytest.raises(UserError, match="opengl"):
        choose_renderer("opengl")
    monkeypatch.setattr("rlvr_lib.worlds.renderers._PROBE", "raise SystemExit(1)")
    assert choose_renderer("auto") == "rays"
    with pytest.raises(UserError, match="does not open"):
        choose_renderer("egl")


def _outcomes(grade: str) -> list[bool]:
    prepare_worker("rays")
    scene = DrawerScene("drawer-close", Recording(seed=0, height=8, width=8, most_frames=40, renderer="rays"))
    scene.frame = lambda: np.zeros((8, 8, 3), dtype=np.uint8)  # physics only
    return [record_episode(scene, grade, (7, number)).facts["success"] for number in range(8)]


def test_better_grades_succeed_more_often():
    assert list(GRADES) == ["expert", "good", "fair", "poor", "bad"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        expert, bad = pool.map(_outcomes, ["expert", "bad"])
    assert sum(expert) >= 7 and sum(bad) <= sum(expert) - 2


@pytest.mark.parametrize("every", [2, 3, 10, 20])
def test_every_split_has_all_tasks_and_grades(every):
    kinds = [cast_of(3, number) for number in range(800)]
    for part in (kinds[::every], [kind for number, kind in enumerate(kinds) if number % every]):
        shares = [part.count((task, grade)) / len(part) for task in TASKS for grade in GRADES]
        assert min(shares) > 0.01 and max(shares) < 0.25
    assert all(len(set(kinds[first : first + 10])) == 10 for first in range(0, 800, 10))
    assert kinds != [cast_of(4, number) for number in range(800)]


def most_different(task: str, hidden: tuple[str, ...]) -> int:
    """Largest difference of a pixel along an episode: as drawn, and with reflections and without ``hidden`` bodies."""
    import mujoco

    scene = DrawerScene(task, EGL)
    frames = record_episode(scene, "good", (3, 1)).frames
    drawers.UNDER_TABLE = hidden
    scene = DrawerScene(task, EGL)
    scene.renderer.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = True
    return int(np.abs(record_episode(scene, "good", (3, 1)).frames.astype(int) - frames).max())


@pytest.mark.skipif(choose_renderer() != "egl", reason="EGL does not open here")
@pytest.mark.parametrize("task", TASKS)
def test_what_is_not_drawn_is_in_no_picture(task):
    with pool(1, prepare_worker, ("egl",)) as processes:
        assert processes.apply(most_different, (task, ())) == 0
        assert processes.apply(most_different, (task, ("drawer_link",))) > 50
