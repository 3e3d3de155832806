"""Episode files: round trip, every way in which they can be damaged, splits and counts of a set."""

import numpy as np
import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.training.video import oddities
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet, load_episode, save_episode, write_manifest


def episode(length: int = 6, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (length, 8, 10, 3), dtype=np.uint8)
    return Episode(frames, rng.normal(size=(length, 4)).astype(np.float32), {"success": True, "seed": seed})


def test_round_trip_with_equal_bytes(tmp_path):
    first, second = save_episode(tmp_path / "a.npz", episode()), save_episode(tmp_path / "b.npz", episode())
    assert first.read_bytes() == second.read_bytes()
    back = load_episode(first)
    assert np.array_equal(back.frames, episode().frames) and np.array_equal(back.actions, episode().actions)
    assert back.facts == {"success": True, "seed": 0} and len(back) == 6


def test_files_of_others_are_read(tmp_path):
    """numpy's own writer, float64 actions, no facts: the layout that the public converters write."""
    np.savez_compressed(tmp_path / "x.npz", image=episode().frames, action=episode().actions.astype(np.float64))
    assert load_episode(tmp_path / "x.npz").actions.dtype == np.float32
    np.savez_compressed(tmp_path / "y.npz", image=episode().frames)
    assert load_episode(tmp_path / "y.npz", need_actions=False).actions.shape == (6, 0)
    with pytest.raises(UserError, match="no action array"):
        load_episode(tmp_path / "y.npz")


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda parts: {**parts, "image": parts["image"].astype(np.float32)}, "uint8"),
        (lambda parts: {**parts, "image": parts["image"][..., :2]}, r"\[T, H, W, 3\]"),
        (lambda parts: {**parts, "image": parts["image"][:0]}, "T > 0"),
        (lambda parts: {**parts, "action": parts["action"].astype(np.int64)}, "float32"),
        (lambda parts: {**parts, "action": parts["action"][:-1]}, "6 frames but 5 actions"),
        (lambda parts: {**parts, "action": np.where(np.arange(6)[:, None] == 4, np.nan, parts["action"])}, "row 4"),
        (lambda parts: {"action": parts["action"]}, "no image"),
        (lambda parts: {**parts, "facts": np.frombuffer(b"{", dtype=np.uint8)}, "facts"),
        (lambda parts: {**parts, "image": np.array([{"a": 1}], dtype=object)}, "damaged"),
    ],
)
def test_damage_is_named(tmp_path, change, words):
    parts = {"image": episode().frames, "action": episode().actions}
    np.savez(tmp_path / "bad.npz", **change(parts))
    with pytest.raises(UserError, match=words) as caught:
        load_episode(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_truncated_and_missing_files(tmp_path):
    path = save_episode(tmp_path / "a.npz", episode())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.npz is damaged"):
        load_episode(path)
    with pytest.raises(UserError, match="missing"):
        load_episode(tmp_path / "b.npz")


def test_a_wrong_episode_is_not_written(tmp_path):
    wrong = Episode(episode().frames, np.full((6, 4), np.nan, dtype=np.float32))
    with pytest.raises(UserError, match="not finite"):
        save_episode(tmp_path / "a.npz", wrong)
    assert not list(tmp_path.iterdir())


def test_splits_by_position_and_a_damaged_file_moves_nobody(tmp_path, capsys):
    for number in range(25):
        save_episode(tmp_path / f"{number:03d}.npz", episode(seed=number))
    write_manifest(tmp_path, {"seed": 0}, [f"{number:03d}.npz" for number in range(25)])
    whole = EpisodeSet(tmp_path, test_every=10)
    assert whole.test == ["000.npz", "010.npz", "020.npz"]
    assert len(whole.train) == 22 and not set(whole.train) & set(whole.test)
    assert whole.manifest["episodes"] == 25 and whole.check() == {}
    (tmp_path / "004.npz").write_bytes(b"PK damaged")
    hurt = EpisodeSet(tmp_path, test_every=10)
    assert list(hurt.check()) == ["004.npz"] and len(hurt) == 24
    assert hurt.test == whole.test and set(whole.train) - set(hurt.train) == {"004.npz"}
    assert "1 of 25 episodes are left out" in capsys.readouterr().out
    assert sum(1 for _ in hurt) == 24


def test_frames_of_another_size_are_set_aside(tmp_path, capsys):
    for number in range(3):
        save_episode(tmp_path / f"{number}.npz", episode(seed=number))
    odd = Episode(np.zeros((6, 10, 8, 3), np.uint8), np.zeros((6, 4), np.float32))
    save_episode(tmp_path / "1.npz", odd)
    assert list(EpisodeSet(tmp_path).check((8, 10))) == ["1.npz"] and EpisodeSet(tmp_path).check() == {}
    assert "frames of 10 x 8, the profile wants 8 x 10" in capsys.readouterr().out


def test_short_episodes_and_outside_actions_are_counted(tmp_path, capsys):
    for number, length in enumerate((3, 6, 9)):
        actions = np.zeros((length, 2), np.float32)
        actions[:number, 1] = 1.5  # none, one, two values beyond the range
        frames = np.zeros((length, 8, 10, 3), np.uint8)
        save_episode(tmp_path / f"{number}.npz", Episode(frames, actions))
    found = oddities(EpisodeSet(tmp_path, test_every=2), ActionBins([-1, -1], [1, 1]), clip=8)
    assert found == {"short_episodes": 2, "actions_outside": 3}
    printed = capsys.readouterr().out
    assert "2 of 3 episodes are shorter than a clip of 8" in printed and "3 action values lie outside" in printed
    assert oddities(EpisodeSet(tmp_path), ActionBins([-1, -1], [1, 2]), clip=3) == dict.fromkeys(found, 0)
    assert capsys.readouterr().out == ""


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no \.npz"):
        EpisodeSet(tmp_path)
    with pytest.raises(UserError, match="missing"):
        EpisodeSet(tmp_path / "none")
