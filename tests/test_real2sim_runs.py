"""Policies in simulators and in dreams: who begins where, which rows come of it, what a second run keeps."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation import real2sim, real2sim_stages
from rlvr_lib.evaluation.real2sim import FILMED, REAL, film_path, load_film, simulate, starts_of
from rlvr_lib.evaluation.real2sim_dreams import Case, Watching, dream_rows
from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.training.dreams import Dreams
from rlvr_lib.training.success_judge import FAILURE, SUCCESS, UNDECIDED, SuccessJudge
from rlvr_lib.worlds.drawers import Recording
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet, save_episode

TASKS = ("drawer-open", "drawer-close")


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return load_profile("smoke", overrides=f"runs_dir={tmp_path_factory.mktemp('runs')} video.real2sim.episodes=4")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Twelve recordings, every third of them test."""
    folder = tmp_path_factory.mktemp("set")
    for number in range(12):
        frames, facts = np.full((3, 4, 4, 3), number, dtype=np.uint8), {"task": TASKS[number % 2], "seed": [9, number]}
        save_episode(folder / f"{number:02d}.npz", Episode(frames, np.zeros((3, 4), dtype=np.float32), facts))
    return EpisodeSet(folder, test_every=3)


def test_all_begin_at_the_same_training_episodes(profile, episodes):
    starts = starts_of(profile, episodes)
    assert starts == starts_of(profile, episodes) and len({start.number for start in starts}) == 8
    for task in TASKS:
        own = [start for start in starts if start.task == task]
        assert [start.episode for start in own] == [0, 1, 2, 3]
        assert len({start.name for start in own}) == 4, "as many as there are: none twice"
        assert all(episodes[start.name].facts == {"task": task, "seed": list(start.seed)} for start in own)
        assert {start.name for start in own} <= set(episodes.train)
    more = profile.model_copy(deep=True)
    many = more.video.real2sim.model_copy(update={"episodes": 9, "starts": "test"})
    more = more.model_copy(update={"video": more.video.model_copy(update={"real2sim": many})})
    assert {start.name for start in starts_of(more, episodes)} <= set(episodes.test)
    none = many.model_copy(update={"tasks": ["drawer-turn"]})
    more = more.model_copy(update={"video": more.video.model_copy(update={"real2sim": none})})
    with pytest.raises(UserError, match="no test episode of 'drawer-turn'"):
        starts_of(more, episodes)


def test_pushts_episodes_begin_with_something_left_to_do(profile, tmp_path):
    for number, done in enumerate(("000", "100", "010", "111")):
        facts = {"task": "pusht", "seed": [9, number], "done": done}
        frames = np.full((3, 4, 4, 3), number, dtype=np.uint8)
        save_episode(tmp_path / f"{number:02d}.npz", Episode(frames, np.zeros((3, 4), dtype=np.float32), facts))
    some = profile.video.real2sim.model_copy(update={"tasks": ["pusht"], "starts": "train"})
    own = profile.model_copy(update={"video": profile.video.model_copy(update={"real2sim": some})})
    begun = {start.seed[1] for start in starts_of(own, EpisodeSet(tmp_path, test_every=100))}
    assert begun and begun <= {0, 2}


class Ramp:
    """Done once the way is long enough; the seed's second number is the way that is needed."""

    def begin(self, seed, physics):
        self.needed, self.step_length, self.way = seed[1], physics.action_scale, 0.0

    def frame(self):
        return np.full((4, 4, 3), int(10 * self.way), dtype=np.uint8)

    def act(self, action):
        self.way += self.step_length * float(action[0])
        return self.way >= self.needed - 1e-6

    def close(self): ...


class Fixed:
    """Always the same first number; NaN at the second step if wanted."""

    def __init__(self, move, broken=False):
        self.move, self.broken = move, broken

    def act(self, frames, tasks, episodes, step):
        actions = np.zeros((len(frames), 4), dtype=np.float32)
        actions[:, 0] = np.nan if self.broken and step == 1 else self.move
        return actions


class Bright(SuccessJudge):
    """The brighter the frame, the likelier the success."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), TASKS, 1, (0.3, 0.6))

    def probability(self, frames, tasks):
        return frames.mean((1, 2, 3)) / 100


@pytest.fixture
def staged(monkeypatch, episodes, profile):
    """Everything but processes, MuJoCo and networks."""
    played = []

    def serially(work, parts, workers):
        for part in parts:
            played.append(part)
            yield work(part)

    policies = {"few episodes": Fixed(1.0), "untrained": Fixed(0.25, broken=True)}
    for name, stand_in in (
        ("_spread", serially),
        ("open_scene", lambda task, recording: Ramp()),
        ("load_policies", lambda folder, profile: policies),
        ("load_judge", lambda folder, profile: Bright()),
        ("open_episodes", lambda profile, data: episodes),
        ("recording_of", lambda data: Recording(seed=0)),
        ("load_bins", lambda data: ActionBins([-1] * 4, [1] * 4)),
        ("_sets", {}),
    ):
        monkeypatch.setattr(real2sim, name, stand_in)
    return played


def test_every_policy_is_tried_everywhere_and_only_what_is_missing_again(profile, staged, tmp_path):
    most = profile.video.real2sim.rounds * profile.video.multi_step.horizon
    simulate(tmp_path, profile, tmp_path, tmp_path, tmp_path)
    table = pd.read_csv(tmp_path / "episodes.csv")
    assert len(table) == 2 * 2 * 2 * 4 and len(staged) == 8  # simulators x policies x tasks (x episodes)
    for row in table.itertuples():
        needed = int(row.start[:2])
        scale = 1.0 if row.simulator == REAL else 0.7
        moves = most if row.policy == "few episodes" else most - 1  # one was no number
        way = moves * scale * (1.0 if row.policy == "few episodes" else 0.25)
        assert row.success == (way >= needed - 1e-6), row
        assert row.bad_actions == (row.policy == "untrained" and needed > 0.25)
        assert pd.isna(row.verdict) == (row.simulator != REAL)
    before = table.to_csv()
    (tmp_path / "parts" / "0-0-0.csv").unlink()
    simulate(tmp_path, profile, tmp_path, tmp_path, tmp_path)
    assert len(staged) == 9 and pd.read_csv(tmp_path / "episodes.csv").to_csv() == before
    film = load_film(film_path(tmp_path, profile, "few episodes", TASKS[0]))
    assert film.dtype == np.uint8 and film.shape[1:] == (4, 4, 3) and FILMED == 1


def test_every_policy_acts_on_its_own_rows(profile, episodes):
    starts = starts_of(profile, episodes)
    cases = [Case(name, start) for name in ("a", "b") for start in starts[:2]]
    watching = Watching(cases, {"a": Fixed(1.0), "b": Fixed(-1.0)}, Bright())
    frames = np.stack([np.full((4, 4, 3), 10 * number, dtype=np.uint8) for number in range(3)])
    actions, seen = watching(np.array([3, 0, 2]), frames, 0)
    assert actions[:, 0].tolist() == [-1, 1, -1] and seen.tolist() == pytest.approx([0, 0.1, 0.2])


def test_dreamt_rows_hold_verdicts_and_oddities(profile, episodes):
    """Judged on predicted frames only, up to where the policy stopped; undecided counts half."""
    cases = [Case("a", start) for start in starts_of(profile, episodes)[:4]]
    probability = np.array([[0.9, 0.1, 0.2], [0.0, 0.1, 0.9], [0.0, 0.4, 0.5], [0.0, 0.1, 0.9]])
    nothing = torch.zeros(4, 2, 1, dtype=torch.long)
    counts = [np.array([0, 3, 0, 0]), np.array([1, 0, 0, 0]), np.array([2, 2, 2, 1])]
    dreams = Dreams(nothing[:, 0], nothing, probability, *counts)
    table = dream_rows("base world model", cases, dreams, Bright())
    assert table["verdict"].tolist() == [FAILURE, SUCCESS, UNDECIDED, FAILURE]
    assert table["success"].tolist() == [0, 1, 0.5, 0] and table["frames"].tolist() == [3, 3, 3, 2]
    assert table["invalid_ids"].tolist() == [0, 3, 0, 0] and table["bad_actions"].tolist() == [1, 0, 0, 0]


def test_recordings_without_a_note_are_told(tmp_path):
    with pytest.raises(UserError, match=r"recording\.json"):
        real2sim.recording_of(tmp_path)


def test_parts_of_several_worlds_come_back_by_world(profile, monkeypatch):
    worlds = [profile, profile.model_copy(update={"name": "smoke/pusht"})]
    monkeypatch.setattr(real2sim_stages, "run_real2sim", lambda own, part: Path(own.name) / part)
    first, second = real2sim_stages.run_parts(worlds, ["policies", "judge"])
    assert first == {"policies": Path("smoke/policies"), "judge": Path("smoke/judge")}
    assert second == {"policies": Path("smoke/pusht/policies"), "judge": Path("smoke/pusht/judge")}
