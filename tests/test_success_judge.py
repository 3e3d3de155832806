"""The judge of success: labels from recordings, the rule for episodes, learning; policies cloned from pictures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlvr_lib.artifacts import UserError, atomic_write_json
from rlvr_lib.profile import load_profile
from rlvr_lib.profile_schema_real2sim import ClonedPolicy
from rlvr_lib.training.picture_policies import (
    ClonedFramePolicy,
    PictureNet,
    clone,
    demonstrations,
    network_of,
)
from rlvr_lib.training.success_judge import (
    FAILURE,
    SUCCESS,
    UNDECIDED,
    SuccessJudge,
    episode_probability,
    train_judge,
    verdict,
)
from rlvr_lib.training.success_labels import LabelledFrames, Marks, frame_labels
from rlvr_lib.worlds import drawers
from rlvr_lib.worlds.drawers import Recording, record_episode
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet, save_episode

MOST = 12


class Clock:
    """A scene whose picture is the number of steps so far and whose task is done at step ``done``."""

    task, recording = "drawer-open", Recording(seed=0, most_frames=MOST)

    def __init__(self, done: int):
        self.done, self.steps = done, 0

    def reset(self, rng):
        return np.zeros(39)

    def step(self, action):
        self.steps += 1
        return np.zeros(39), self.steps == self.done

    def frame(self):
        return np.full((16, 16, 3), self.steps, dtype=np.uint8)


@pytest.mark.parametrize("done", [1, 4, 7, 8, 9, 12, 99])
def test_labels_are_what_the_recorder_knew(monkeypatch, done):
    """Frame n shows the state after n steps. Labels are right where given, missing only in cut recordings."""
    monkeypatch.setattr(drawers, "GradedPolicy", lambda *_: lambda _: np.zeros(4, dtype=np.float32))
    episode = record_episode(Clock(done), "good", (1,))
    labels = frame_labels(episode, MOST)
    for place, frame in enumerate(episode.frames):
        if not np.isnan(labels[place]):
            assert labels[place] == (frame.max() >= done)
    cut = episode.facts["success"] and len(episode) == MOST
    assert np.isnan(labels).sum() == (4 if cut else 0)
    assert (labels == 1).sum() == (4 if episode.facts["success"] and not cut else 0)


def test_pushts_recordings_say_it_frame_by_frame():
    facts = {"task": "pusht", "done": "00110", "success": True}
    episode = Episode(np.zeros((5, 8, 8, 3), dtype=np.uint8), np.zeros((5, 10), dtype=np.float32), facts)
    assert frame_labels(episode, 5).tolist() == [0, 0, 1, 1, 0]


def test_noise_falls_on_all_of_an_agents_moves_and_on_an_arms_but_not_its_gripper():
    frames, net = np.zeros((1, 16, 16, 3), dtype=np.uint8), PictureNet(16, 16, 1, 10)
    for task, moves in (("pusht", 10), ("drawer-open", 3)):
        still, noisy = (ClonedFramePolicy(net, [task], noise, 1).act(frames, [task], [5], 3) for noise in (0.0, 0.5))
        assert (still != noisy).sum() == moves


def test_an_episode_counts_its_best_run_of_frames():
    probabilities = np.array([0.1, 0.9, 0.2, 0.6, 0.7, 0.8])
    assert episode_probability(probabilities, 1) == 0.9
    assert episode_probability(probabilities, 3) == pytest.approx((0.6 + 0.7 + 0.8) / 3)
    assert episode_probability(probabilities, 99) == pytest.approx(probabilities.mean())
    assert np.isnan(episode_probability(np.array([0.9, np.nan, 0.9]), 2))


def test_between_the_ends_of_the_band_nothing_is_decided():
    found = [verdict(p, (0.3, 0.7)) for p in (0.0, 0.29, 0.3, 0.5, 0.7, 0.71, 1.0, float("nan"))]
    assert found == [FAILURE, FAILURE, UNDECIDED, UNDECIDED, UNDECIDED, SUCCESS, SUCCESS, UNDECIDED]
    with pytest.raises(UserError, match=r"judge\.undecided: the lower end"):
        load_profile("smoke", overrides="video.real2sim.judge.undecided=[0.7,0.3]")


def lamps(number: int, seed: int) -> LabelledFrames:
    """Task 0 is done when the left half is bright, task 1 when it is dark."""
    rng = np.random.default_rng(seed)
    frames, tasks, labels = rng.integers(0, 60, (number, 16, 16, 3), dtype=np.uint8), [], []
    for place in range(number):
        bright, task = bool(rng.integers(2)), int(rng.integers(2))
        frames[place, :, :8] += np.uint8(120 * bright)
        tasks.append(task)
        labels.append(float(bright == (task == 0)))
    return LabelledFrames(list(frames), tasks, labels)


def test_the_judge_learns_what_done_looks_like_task_by_task():
    torch.manual_seed(0)
    net, settings = PictureNet(16, 16, 2, 1), SimpleNamespace(steps=60, batch=16, learning_rate=3e-3)
    train_judge(net, lamps(200, 0), settings, 0)
    judge, held = SuccessJudge(net, ["a", "b"], 1, (0.5, 0.5)), lamps(60, 1)
    found = judge.probability(held.frames, [judge.tasks[task] for task in held.tasks]) > 0.5
    assert (found == held.labels.numpy().astype(bool)).mean() > 0.95


def recorded(folder, facts, frames=6):
    folder.mkdir(exist_ok=True)
    for number, fact in enumerate(facts):
        pictures = np.full((frames, 16, 16, 3), number, dtype=np.uint8)
        actions = np.full((frames, 4), number / 10, dtype=np.float32)
        save_episode(folder / f"{number}.npz", Episode(pictures, actions, fact))
    return EpisodeSet(folder, test_every=3)


def test_labels_made_by_hand_and_recordings_that_say_nothing(tmp_path):
    episodes = recorded(tmp_path / "set", [{"instruction": "open top drawer"}] * 3)
    with pytest.raises(UserError, match=r"judge\.labels: these recordings"):
        Marks(episodes, "")
    rows = (
        "episode,frame,task,success\n1.npz,0,open top drawer,0\n1.npz,4,open top drawer,1\n1.npz,77,open top drawer,1\n"
    )
    (tmp_path / "labels.csv").write_text(rows)
    marks = Marks(episodes, str(tmp_path / "labels.csv"))
    (labels,) = marks("1.npz", episodes["1.npz"]).values()
    assert labels[[0, 4]].tolist() == [0, 1] and np.isnan(labels[[1, 2, 3, 5]]).all()
    assert marks("2.npz", episodes["2.npz"]) == {}
    frames = LabelledFrames.of(episodes, episodes.train, ["open top drawer"], marks)
    assert frames.labels.tolist() == [0, 1] and frames.frames.shape == (2, 16, 16, 3)
    for text in ("episode,frame,task\n1,2,a\n", "episode,frame,task,success\n1,2,a,maybe\n", ""):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(UserError, match=r"labels\.csv"):
            Marks(episodes, str(tmp_path / "labels.csv"))


def test_only_training_episodes_of_the_wanted_grades_are_cloned(tmp_path):
    facts = [
        {"task": "drawer-open", "policy": grade, "success": True} for grade in ("good", "bad", "good", "good", "good")
    ]
    episodes = recorded(tmp_path / "set", facts)
    atomic_write_json(tmp_path / "set" / "recording.json", {"most_frames": 36})
    found = demonstrations(episodes, ["drawer-open"], ["good"], 10)
    assert [int(episode.frames.max()) for episode in found] == [2, 4]  # 0 and 3 are test, 1 is bad
    assert demonstrations(episodes, ["drawer-open"], ["good"], 1)[0].frames.max() == 2
    assert (
        demonstrations(episodes, ["drawer-close"], ["good"], 9)
        == demonstrations(episodes, ["drawer-open"], [], 9)
        == []
    )


def test_cloning_learns_the_shown_action_and_noise_belongs_to_the_episode():
    """Bright pictures were answered with +1, dark ones with -1. Noise: moves only, equal wherever it is drawn."""
    pictures = [np.full((8, 16, 16, 3), 200 * (number % 2), dtype=np.uint8) for number in range(4)]
    shown = [np.full((8, 4), 2.0 * (number % 2) - 1, dtype=np.float32) for number in range(4)]
    facts = {"task": "drawer-open"}
    episodes = [Episode(frames, actions, facts) for frames, actions in zip(pictures, shown, strict=True)]
    torch.manual_seed(0)
    net = PictureNet(16, 16, 1, 4)
    clone(net, episodes, ["drawer-open"], SimpleNamespace(steps=80, batch=16, learning_rate=3e-3), 0, "test")
    frames = np.stack([pictures[0][0], pictures[1][0]])
    still = ClonedFramePolicy(net, ["drawer-open"], 0.0, 1).act(frames, ["drawer-open"] * 2, [5, 6], 3)
    assert np.abs(still - [[-1] * 4, [1] * 4]).max() < 0.15
    noisy = ClonedFramePolicy(net, ["drawer-open"], 0.5, 1)
    both = noisy.act(frames, ["drawer-open"] * 2, [5, 6], 3)
    alone = noisy.act(frames[1:], ["drawer-open"], [6], 3)
    assert both[1] == pytest.approx(alone[0], abs=1e-5)
    drawn = np.stack([noisy.act(frames[:1], ["drawer-open"], [5], step)[0] - still[0] for step in range(200)])
    assert drawn[:, :3].std() == pytest.approx(0.5, rel=0.1) and np.abs(drawn[:, 3]).max() < 1e-5


def test_policies_of_equal_training_share_a_network():
    policies = [ClonedPolicy(name=str(noise), episodes=9, grades=["good"], noise=noise) for noise in (0.0, 1.0)]
    other = ClonedPolicy(name="poor", episodes=9, grades=["poor"], noise=0.0)
    assert network_of(policies[0]) == network_of(policies[1]) != network_of(other)
