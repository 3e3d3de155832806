"""Figure 4 at toy size: the best-of-N estimator against all subsets, verdicts from made-up scores, trials, variants."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_video import Squares, task, toy_model  # noqa: F401

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.action_trials import agreements, displacement
from rlvr_lib.evaluation.best_of import (
    best_of_curve,
    crossing,
    expected_best,
    per_segment,
    sampled_scores,
    steps_of_n,
)
from rlvr_lib.evaluation.model_analysis import METRICS, group_size_variants, metric_variants
from rlvr_lib.evaluation.video_scores import group_scores, segment_scores
from rlvr_lib.profile import load_profile
from rlvr_lib.report.analysis_claims import group_difference
from rlvr_lib.report.analysis_figures import figure4a
from rlvr_lib.report.analysis_tables import against_base
from rlvr_lib.report.claims import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, evaluate_claims
from rlvr_lib.training.rlvr_variants import varied
from rlvr_lib.worlds import drawer_trials
from rlvr_lib.worlds.drawer_trials import ACTIONS, BEHAVIOURS, behaviour, branch, make_trials, trial
from rlvr_lib.worlds.drawers import recording_for
from rlvr_lib.worlds.perceptual import Perceptual
from rlvr_lib.worlds.video_clips import Clip
from rlvr_lib.worlds.video_metrics import FRAME_METRICS
from rlvr_lib.worlds.video_segments import to_float


@pytest.mark.parametrize("higher", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_expected_best_is_the_mean_over_all_subsets(n, higher):
    values = np.random.default_rng(0).normal(size=(3, 6))
    values[1, 2] = values[1, 4]  # ties
    best = max if higher else min
    expected = [np.mean([best(some) for some in itertools.combinations(row, n)]) for row in values]
    assert expected_best(values, n, higher) == pytest.approx(expected, rel=1e-12)


def test_a_hundred_samples_are_no_trouble():
    values = np.arange(100.0)[None]  # the smallest of n of 0..99 is (100 - n) / (n + 1) on average
    for n in (1, 7, 50, 100):
        assert expected_best(values, n)[0] == pytest.approx((100 - n) / (n + 1), rel=1e-9)
    with pytest.raises(ValueError, match="best of 101"):
        expected_best(values, 101)
    assert steps_of_n(12) == [1, 2, 3, 5, 7, 10, 12] and steps_of_n(1) == [1]


def test_a_part_of_the_segments_scores_as_among_all(task):  # noqa: F811
    """Parts are sampled in processes of their own: a segment's random numbers follow from its number alone."""
    model, distance, rng = toy_model(task), Perceptual("squares", Squares()), np.random.default_rng(5)
    length = task.clip_frames + task.has_context
    frames, actions = torch.rand(5, length, 3, 16, 16), rng.uniform(-1, 1, (5, length, 2)).astype(np.float32)
    clips = [Clip(*pair) for pair in zip(frames, actions, strict=True)]
    options = {"samples": 4, "distance": distance, "seed": 3}
    whole = sampled_scores(model, task, clips, **options)
    part = sampled_scores(model, task, clips[2:], first_clip=2, **options)
    other = sampled_scores(model, task, clips[2:], **options)
    for name, values in whole.items():
        assert values.shape == (5, 4) and part[name] == pytest.approx(values[2:], rel=1e-5)
    assert other["mse"] != pytest.approx(whole["mse"][2:], rel=1e-3)
    assert whole["mse"].std(1).min() > 0  # samples of a segment differ


def samples(first, spread, model, segments=40, count=20, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for segment in range(segments):
        for number in range(count):
            error = first + spread * rng.normal()
            rows.append({"model": model, "segment": segment, "sample": number, "psnr": -error, "LPIPS-Squeeze": error})
    return rows


def test_every_model_of_the_curve_has_a_colour_of_its_own():
    models = ["base", "base, temperature 0.7", "base, temperature 0.4", "RLVR"]
    curve = best_of_curve(pd.DataFrame([row for model in models for row in samples(1.0, 0.5, model, 4, 3)]), 0)
    panel = figure4a(curve).axes[0]
    assert [line.get_label() for line in panel.lines] == models
    assert len({line.get_color() for line in panel.lines}) == 4


def test_the_curve_and_where_it_is_crossed():
    frame = pd.DataFrame(samples(1.0, 1.0, "base") + samples(0.4, 0.1, "RLVR", seed=1))
    curve = best_of_curve(frame, 0)
    for metric in ("psnr", "LPIPS-Squeeze"):
        n = crossing(curve, metric, "base", "RLVR")
        assert n is not None and 2 <= n <= 5, "one normal deviate of two is about 0.56 better, of three 0.85"
    assert crossing(curve, "psnr", "RLVR", "base") == 1
    row = curve[(curve["model"] == "base") & (curve["metric"] == "LPIPS-Squeeze") & (curve["n"] == 1)].iloc[0]
    assert row["mean"] == pytest.approx(frame[frame["model"] == "base"]["LPIPS-Squeeze"].mean())
    assert row["low"] < row["mean"] < row["high"] and row["segments"] == 40
    assert per_segment(frame, "base", "psnr", 20) == pytest.approx(
        frame[frame["model"] == "base"].groupby("segment")["psnr"].max().to_numpy()
    )


def test_groups_are_scored_frame_by_frame():
    """37 predictions of a segment, more than are scored at a time, against each metric on one of them alone."""
    torch.manual_seed(0)
    distance = Perceptual("squares", Squares())
    truth, frames = torch.rand(2, 3, 3, 16, 16), 1.2 * torch.rand(2, 37, 3, 3, 16, 16)
    found = group_scores(truth, frames, distance)
    for place in (0, 36):
        alone = segment_scores(truth, frames[:, place], distance)
        for name, metric in {**FRAME_METRICS, "squares": distance}.items():
            expected = metric(truth, frames[:, place].clamp(0, 1)).mean(-1).numpy()
            assert found[name][:, place] == pytest.approx(expected, rel=1e-5)
            assert alone[name].to_numpy() == pytest.approx(expected, rel=1e-5)


def verdict_of(runs, name):
    return next(one for one in evaluate_claims(runs, 0) if one.id == name)


def write(runs, folder, name, rows):
    (runs / folder).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(runs / folder / name, index=False)


def test_nothing_is_claimed_before_notebook_36(tmp_path):
    assert {verdict_of(tmp_path, name).verdict for name in ("C9", "C10", "C11")} == {NOT_RUN}


@pytest.mark.parametrize(("lead", "expected"), [(2.5, REPRODUCED), (-0.5, NOT_REPRODUCED)])
def test_one_sample_of_rlvr_against_five(tmp_path, lead, expected):
    rows = samples(1.0, 1.0, "base") + samples(1.0 - lead, 0.1, "RLVR", seed=1)
    rows += samples(0.2, 0.1, "base, temperature 0.4", seed=2)
    write(tmp_path, "video_best_of_evaluation", "best_of.csv", rows)
    found = verdict_of(tmp_path, "C11")
    assert found.verdict == expected and found.parts[0].verdict == expected
    assert found.parts[2].interval.mean == pytest.approx(-lead, abs=0.2)
    cooler = found.parts[-1]
    assert cooler.name.endswith("RLVR minus base, temperature 0.4, once") and not cooler.decides
    assert cooler.interval.mean == pytest.approx(0.8 - lead, abs=0.02)


def group_rows(gain_by_step):
    """A size's LPIPS falls by its gain a step, up to what it reaches; segments differ, seeds shift all alike."""
    rows = []
    for size, gain in gain_by_step.items():
        for seed in range(3):
            for step in range(5 if size == 32 else 9):
                for segment in range(40):
                    value = 1 + 0.01 * segment + 0.1 * seed - gain * step
                    facts = {"size": size, "seed": seed, "step": step, "prompts": 8 * step, "samples": 8 * step * size}
                    rows.append({**facts, "seconds": 1.0 * step * size, "segment": segment, "mae": 1.0, "lpips": value})
    return rows


def test_group_sizes_are_compared_at_equal_cost(tmp_path):
    rows = group_rows({4: 0.01, 32: 0.03})
    gap = group_difference(pd.DataFrame(rows), "prompts", 4, 32, 0)
    assert gap.mean == pytest.approx(4 * 0.01 - 4 * 0.03) and gap.n == 40  # step 4 is what both reached
    gap = group_difference(pd.DataFrame(rows), "samples", 4, 32, 0)
    assert gap.mean == pytest.approx(8 * 0.01 - 1 * 0.03)  # 256 rollouts: eight steps of 4, one of 32
    coarse = pd.DataFrame([row for row in rows if row["size"] == 4 or row["step"] % 2 == 0])
    gap = group_difference(coarse, "samples", 4, 32, 0)
    assert gap.mean == pytest.approx(8 * 0.01 - 1 * 0.03)  # halfway between the validations after none and 512 rollouts
    write(tmp_path, "video_group_size_evaluation", "group_sizes.csv", rows)
    found = verdict_of(tmp_path, "C9")
    assert found.verdict == REPRODUCED and [part.decides for part in found.parts] == [True, False, False]
    assert found.parts[1].verdict == NOT_REPRODUCED


def reward_rows(own_gain):
    rng = np.random.default_rng(0)
    rows = []
    for segment in range(40):
        noise = rng.normal()
        for model in ("base", *METRICS):
            row = {"model": model, "segment": segment}
            for metric in METRICS:
                sign = -1 if metric in ("psnr", "ssim") else 1
                column = "LPIPS-Squeeze" if metric == "lpips" else metric
                gain = 0 if model == "base" else own_gain if model == metric else 0.05
                row[column] = sign * (2 + 0.1 * noise - gain)
            rows.append(row)
    return rows


@pytest.mark.parametrize(("gain", "expected"), [(0.1, REPRODUCED), (0.05, INCONCLUSIVE), (0.0, NOT_REPRODUCED)])
def test_each_model_on_its_own_metric(tmp_path, gain, expected):
    write(tmp_path, "video_metric_reward_evaluation", "metric_rewards.csv", reward_rows(gain))
    found = verdict_of(tmp_path, "C10")
    assert found.verdict == expected and len(found.parts) == 5
    changes = against_base(pd.DataFrame(reward_rows(0.1)), 0)
    own = changes[(changes["reward"] == "psnr") & (changes["metric"] == "psnr")].iloc[0]
    assert own["better"] == pytest.approx(5, rel=0.02) and own["certain"]


def test_variants_are_what_they_say():
    profile = load_profile("laptop")
    rlvr = varied(profile, metric_variants(profile)["psnr"]).video.single_step_rlvr
    assert rlvr.reward.model_dump() == {"mae": 0, "lpips": 0, "mse": 0, "psnr": 1, "ssim": 0}
    settings = profile.analysis.group_sizes
    for variant in group_size_variants(profile):
        rlvr = varied(profile, variant).video.single_step_rlvr
        rollouts = rlvr.steps * rlvr.prompts_per_step * rlvr.group_size
        assert rollouts >= settings.samples and rlvr.steps * rlvr.prompts_per_step >= settings.prompts
        assert rlvr.steps % rlvr.evaluate_every == 0
    assert len({(v.name, v.seed) for v in group_size_variants(profile)}) == len(settings.sizes) * settings.seeds
    with pytest.raises(UserError, match="validations: must divide"):
        load_profile("laptop", overrides="analysis.group_sizes.validations=3")


def test_agreement_by_hand():
    truth = torch.zeros(3, 1, 1, 2)
    truth[:, 0, 0] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert agreements(truth, 0.5 * truth + 0.3).tolist() == pytest.approx([1, 1, 0], abs=1e-6)
    assert agreements(truth, -truth)[:2].tolist() == pytest.approx([-1, -1])
    assert agreements(truth, torch.full_like(truth, 0.3)).abs().max() < 1e-6, "who ignores the action agrees by 0"


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-5, 4)])
def test_a_patch_is_found_again(shift):
    generator = torch.Generator().manual_seed(0)
    patch, before, after = torch.rand(3, 6, 6, generator=generator), torch.zeros(3, 32, 32), torch.zeros(3, 32, 32)
    before[:, 12:18, 12:18] = patch
    after[:, 12 + shift[1] : 18 + shift[1], 12 + shift[0] : 18 + shift[0]] = patch
    mask = np.zeros((32, 32), dtype=bool)
    mask[12:18, 12:18] = True
    assert displacement(before, after, mask) == shift
    assert displacement(before, after, np.zeros_like(mask)) == (0, 0)


def test_behaviours():
    move = np.array([1.0, -0.5, 0.2, -1.0], dtype=np.float32)
    rng = np.random.default_rng(0)
    assert behaviour("usual", rng)(move).tolist() == move.tolist()
    assert behaviour("slow", rng)(move) == pytest.approx([0.3, -0.15, 0.06, -1])
    assert behaviour("backwards", rng)(move).tolist() == [-1, 0.5, pytest.approx(-0.2), -1]
    one_way = behaviour("one direction", rng)
    assert one_way(move)[:3].tolist() == one_way(-move)[:3].tolist() and np.abs(one_way(move)[:3]).max() == 1
    with pytest.raises(ValueError, match="no behaviour"):
        behaviour("dancing", rng)


@pytest.fixture(scope="module")
def recording():
    return recording_for(5, 32, 40, 4)


@pytest.fixture(scope="module")
def in_a_process(recording):
    """A small set, made in processes of their own, where OpenGL is set up."""
    return make_trials(recording, episodes=2, histories=2, context=3, workers=1)


def test_trials_are_real(in_a_process):
    short, histories = in_a_process
    assert set(short) == set(BEHAVIOURS) and all(len(episodes) == 2 for episodes in short.values())
    assert [episode.facts["task"] for episode in short["usual"]] == ["drawer-open", "drawer-close"]
    usual, slow = short["usual"][0], short["slow"][0]
    assert np.array_equal(usual.frames[0], slow.frames[0]) and not np.array_equal(usual.frames[-1], slow.frames[-1])
    assert slow.actions[0][:3] == pytest.approx(0.3 * usual.actions[0][:3], rel=1e-5)
    for one in histories:
        assert one.history.shape == (3, 32, 40, 3) and one.outcomes.shape == (6, 32, 40, 3)
        clips = one.clips()
        assert len(clips) == 6 and clips[0].frames.shape == (4, 3, 32, 40) and clips[0].actions.shape == (4, 4)
        assert np.array_equal(clips[2].actions[2], one.choices[2]) and np.array_equal(clips[2].actions[:2], one.actions)
        mask = (to_float(one.outcomes) - to_float(one.history[-1:])).abs().amax((0, 1)).numpy() > 0.05
        assert mask.any(), "some action moves something"
        apart = [np.abs(a.astype(int) - b).mean() for a, b in itertools.combinations(one.outcomes, 2)]
        assert min(apart) > 0, "other actions, other frames"


class Counter:
    """A scene whose state is the sum of all actions since reset, for the bookkeeping of replays."""

    def __init__(self):
        self.task = "drawer-open"

    def reset(self, rng):
        self.state, self.start = np.zeros(4), rng.normal()
        return np.zeros(39)

    def step(self, action):
        self.state = self.state + action
        return np.zeros(39), False

    def frame(self):
        return np.full((2, 2, 3), round(100 * float(self.state[:3].sum() + self.start)) % 251, dtype=np.uint8)


def test_a_branch_goes_on_from_the_same_history(monkeypatch):
    moves = np.random.default_rng(1)
    policy = SimpleNamespace(make=lambda *_: lambda observation: moves.normal(size=4).astype(np.float32))
    monkeypatch.setattr(drawer_trials, "GradedPolicy", policy.make)
    scene = Counter()
    one = branch(scene, (1, 2), context=3)
    last = int(one.history[-1, 0, 0, 0])
    jumps = [(int(outcome[0, 0, 0]) - last) % 251 for outcome in one.outcomes]
    expected = [round(100 * float(move.sum())) % 251 for move in ACTIONS.values()]
    assert all(min((a - b) % 251, (b - a) % 251) <= 1 for a, b in zip(jumps, expected, strict=True))
    assert one.actions.shape == (2, 4) and len(one.history) == 3
    assert len(trial(scene, "usual", (1, 2), 4)) == 4
