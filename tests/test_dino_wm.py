"""DINO-WM's files: small ones written in its public format, read back; what is missing, damaged or wrong is named."""

import pickle
import shutil

import av
import numpy as np
import pytest
import torch

from rlvr_lib.artifacts import UserError, read_json
from rlvr_lib.worlds.dino_wm import convert_dino_wm, read_film
from rlvr_lib.worlds.video_episodes import EpisodeSet

LENGTHS = {"train": (12, 9, 16), "val": (10,)}


def film(path, frames):
    """A grey film whose frame t has the value 20 + 12 t everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for step in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 + 12 * step, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def pusht(tmp_path_factory):
    """Action number d of step t in episode e is 100 e + 10 t + d (table units), behind the end the padding 99 900."""
    root = tmp_path_factory.mktemp("pusht_noise")
    for split, lengths in LENGTHS.items():
        longest = max(lengths)
        actions = torch.full((len(lengths), longest, 2), 99_900.0)
        for episode, length in enumerate(lengths):
            steps = torch.arange(length)[:, None] * 10
            actions[episode, :length] = 100 * episode + steps + torch.arange(2)
            film(root / split / "obses" / f"episode_{episode:03d}.mp4", length)
        torch.save(actions, root / split / "rel_actions.pth")
        torch.save(torch.zeros(len(lengths), longest, 5), root / split / "states.pth")
        (root / split / "seq_lengths.pkl").write_bytes(b"never opened")
    return root


@pytest.fixture
def rope(tmp_path):
    root, rng = tmp_path / "rope", np.random.default_rng(0)
    (root / "000000").mkdir(parents=True)
    (root / "000001").mkdir()
    torch.save(torch.arange(2 * 3 * 4).reshape(2, 3, 4).double(), root / "actions.pth")
    torch.save(torch.zeros(2, 3, 7, 4), root / "states.pth")
    for episode in range(2):
        pixels = torch.from_numpy(rng.integers(0, 256, (3, 32, 32, 3)).astype(np.float32))
        torch.save(pixels, root / f"{episode:06d}" / "obses.pth")
    return root


def test_pusht_keeps_its_split_and_joins_the_actions_between_frames(pusht, tmp_path):
    facts = convert_dino_wm(pusht, tmp_path / "out", size=32)
    assert facts["format"] == "pusht" and facts["frame_every"] == 5 and facts["episodes"] == 4 and not facts["damaged"]
    episodes = EpisodeSet(tmp_path / "out", test_every=2)
    assert episodes.test == ["test_000000.npz"] and len(episodes.train) == 3
    second = episodes["train_000001.npz"]  # nine frames: the first of them, and no whole five after the fifth
    assert second.frames.shape == (1, 32, 32, 3) and second.actions.shape == (1, 10)
    assert np.allclose(second.actions[0], (100 + np.array([0, 1, 10, 11, 20, 21, 30, 31, 40, 41])) / 100)
    third = episodes["train_000002.npz"]
    brightness = third.frames.mean((1, 2, 3))
    assert len(third) == 3 and np.allclose(brightness, [20, 80, 140], atol=3)
    assert np.allclose(third.actions[:, 0], (200 + np.array([0, 50, 100])) / 100)


def test_a_limit_keeps_the_test_episodes_of_a_set_with_its_own_split(pusht, tmp_path):
    convert_dino_wm(pusht, tmp_path / "out", size=16)
    episodes = EpisodeSet(tmp_path / "out", test_every=2)
    episodes.limit(3)
    assert episodes.test == ["test_000000.npz"] and episodes.train == ["train_000000.npz", "train_000001.npz"]


def test_rope_is_read_pixel_by_pixel(rope, tmp_path):
    facts = convert_dino_wm(rope, tmp_path / "out", size=32)
    assert facts["format"] == "deformable" and facts["frame_every"] == 1 and "test" not in facts
    episode = EpisodeSet(tmp_path / "out", test_every=2)["all_000001.npz"]
    assert (episode.frames == torch.load(rope / "000001" / "obses.pth", weights_only=True).numpy()).all()
    assert (episode.actions == np.arange(12, 24, dtype=np.float32).reshape(3, 4)).all()


def test_a_broken_conversion_goes_on_and_a_damaged_episode_is_listed(pusht, tmp_path):
    convert_dino_wm(pusht, tmp_path / "out", size=16)
    kept = (tmp_path / "out" / "train_000000.npz").stat().st_mtime_ns
    (tmp_path / "out" / "train_000001.npz").write_bytes(b"cut off")
    assert convert_dino_wm(pusht, tmp_path / "out", size=16)["episodes"] == 4
    assert (tmp_path / "out" / "train_000000.npz").stat().st_mtime_ns == kept
    assert len(EpisodeSet(tmp_path / "out")["train_000001.npz"]) == 1


def test_padding_that_a_film_reaches_is_an_action_out_of_range(pusht, tmp_path, capsys):
    copy = tmp_path / "longer"
    shutil.copytree(pusht, copy)
    film(copy / "train" / "obses" / "episode_001.mp4", 15)  # six frames into the padding
    film(copy / "train" / "obses" / "episode_002.mp4", 20)  # more frames than there are actions
    facts = convert_dino_wm(copy, tmp_path / "out", size=16)
    assert set(facts["damaged"]) == {"train_000001.npz", "train_000002.npz"}
    assert "99900 is out of range" in facts["damaged"]["train_000001.npz"]
    assert "20 frames but 16 actions" in facts["damaged"]["train_000002.npz"]
    assert "2 episodes could not be read" in capsys.readouterr().out
    assert set(read_json(tmp_path / "out" / "manifest.json")["damaged"]) == set(facts["damaged"])


def spoil_pickle(root):
    (root / "actions.pth").write_bytes(pickle.dumps({"run": print}))


def spoil_shape(root):
    torch.save(torch.zeros(2, 3, 2), root / "actions.pth")


def spoil_states(root):
    torch.save(torch.zeros(2, 5, 7, 4), root / "states.pth")


def spoil_cut(root):
    (root / "states.pth").write_bytes((root / "states.pth").read_bytes()[:200])


def spoil_missing(root):
    (root / "states.pth").unlink()


def spoil_all(root):
    (root / "actions.pth").unlink()


def spoil_pixels(root):
    for episode in ("000000", "000001"):
        torch.save(torch.full((3, 32, 32, 3), 300.0), root / episode / "obses.pth")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_pickle, r"actions\.pth is damaged or holds more than a tensor"),
        (spoil_shape, r"actions\.pth: a tensor of 3 dimensions, the last of 4 should be there, not \[2, 3, 2\]"),
        (spoil_states, r"states are \[2, 5\] .* actions \[2, 3\]"),
        (spoil_cut, r"states\.pth is damaged .* fetch it again"),
        (spoil_missing, r"states\.pth is missing: unpack"),
        (spoil_all, r"holds neither train and val .* nor actions\.pth"),
        (spoil_pixels, r"no episode could be converted; the first: .* pixels must be from 0 to 255, not 300"),
    ],
)
def test_bad_files_are_named_with_a_remedy(rope, tmp_path, spoil, words):
    spoil(rope)
    with pytest.raises(UserError, match=words):
        convert_dino_wm(rope, tmp_path / "out", size=32)


def test_wrong_folders_are_told_which_one_is_meant(pusht, tmp_path):
    with pytest.raises(UserError, match="name the folder above it"):
        convert_dino_wm(pusht / "train", tmp_path / "out")
    with pytest.raises(UserError, match="no such folder"):
        convert_dino_wm(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "half" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="val is missing"):
        convert_dino_wm(tmp_path / "half", tmp_path / "out")
    (tmp_path / "film.mp4").write_bytes(b"no film at all")
    with pytest.raises(UserError, match="damaged or no film"):
        read_film(tmp_path / "film.mp4")


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    from rlvr_lib.cli import main

    for words, told in (([], "no such folder"), (["--size", "0"], "--size: must be at least 1, not 0")):
        with pytest.raises(SystemExit) as stopped:
            main(["convert-dino-wm", str(tmp_path / "nowhere"), str(tmp_path / "out"), *words])
        assert stopped.value.code == 2 and told in capsys.readouterr().err
