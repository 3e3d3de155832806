"""Intervals against the normal approximation, exact enumeration, and plain properties."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_lib.evaluation import statistics
from rlvr_lib.evaluation.statistics import Interval, bootstrap_mean, paired_difference


def exact_interval(values):
    """Quantiles of the mean over all n**n equally likely resamples."""
    means = [np.mean(pick) for pick in product(values, repeat=len(values))]
    return np.quantile(means, [0.025, 0.975], method="inverted_cdf")


@pytest.mark.parametrize("few", [64, 0])  # counts of distinct values, then plain resampling of every case
@pytest.mark.parametrize("binary", [True, False])
def test_big_samples_follow_the_normal_approximation(monkeypatch, few, binary):
    monkeypatch.setattr(statistics, "_FEW", few)
    rng = np.random.default_rng(0)
    values = (rng.random(3000) < 0.3).astype(float) if binary else rng.normal(2.0, 0.5, 3000)
    interval = bootstrap_mean(values, seed=1, draws=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.08 * half)
    assert interval.n == 3000


@pytest.mark.parametrize("few", [64, 0])
@pytest.mark.parametrize("values", [[0.0, 1.0, 5.0], [0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 4.0, 8.0, 16.0]])
def test_tiny_samples_match_exact_enumeration(monkeypatch, few, values):
    monkeypatch.setattr(statistics, "_FEW", few)
    low, high = exact_interval(values)
    interval = bootstrap_mean(values, seed=0, draws=40_000)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_groups_are_drawn_whole():
    # Two groups, all zeros and all ones: the mean is 0 or 1 with probability 1/4 each, so the interval is [0, 1].
    values = np.repeat([0.0, 1.0], 500)
    grouped = bootstrap_mean(values, seed=0, groups=["left"] * 500 + ["right"] * 500)
    assert (grouped.mean, grouped.low, grouped.high, grouped.n) == (0.5, 0.0, 1.0, 1000)
    alone = bootstrap_mean(values, seed=0)
    assert alone.low > 0.45 and alone.high < 0.55
    assert bootstrap_mean(values, seed=0, groups=range(1000)).low == pytest.approx(alone.low, abs=0.005)


def test_groups_of_unequal_size_weigh_cases_equally():
    values, groups = [1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]
    draws = [np.mean([*pick[0], *pick[1]]) for pick in product([[1.0] * 3, [0.0]], repeat=2)]
    assert sorted(draws) == [0.0, 0.75, 0.75, 1.0]
    interval = bootstrap_mean(values, seed=0, groups=groups)
    assert (interval.mean, interval.low, interval.high) == (0.75, 0.0, 1.0)


def test_paired_difference_is_the_mean_of_b_minus_a():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 10, 800)  # shared by both, so pairing removes it
    a, b = hard + rng.normal(0, 0.1, 800), hard + 0.5 + rng.normal(0, 0.1, 800)
    interval = paired_difference(a, b, seed=0)
    half = 1.96 * (b - a).std() / np.sqrt(800)
    assert interval.mean == pytest.approx(np.mean(b) - np.mean(a))
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
    assert interval.excludes_zero and paired_difference(b, a, seed=0).mean == pytest.approx(-interval.mean)


def test_coverage_is_near_95_percent():
    rng = np.random.default_rng(5)
    samples = rng.random((400, 300)) < 0.4
    inside = [interval.low <= 0.4 <= interval.high for interval in (bootstrap_mean(x, 0, 400) for x in samples)]
    assert 0.90 < np.mean(inside) < 0.985


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(200)
    assert bootstrap_mean(values, seed=7) == bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) != bootstrap_mean(values, seed=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=90), st.integers(0, 99))
def test_interval_lies_within_the_values(values, seed):
    interval = bootstrap_mean(values, seed, draws=100)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_excludes_zero():
    assert Interval(0.2, 0.1, 0.3, 9).excludes_zero
    assert Interval(-0.2, -0.3, -0.1, 9).excludes_zero
    assert not Interval(0.2, -0.1, 0.3, 9).excludes_zero
    assert not Interval(0.1, 0.0, 0.2, 9).excludes_zero


def test_text_and_format():
    interval = Interval(0.57012, 0.552, 0.5881, 2954)
    assert interval.text() == "57.0 [55.2, 58.8]"
    assert interval.text(scale=1, digits=2, sign=True) == "+0.57 [+0.55, +0.59]"
    assert Interval(-1e-9, -0.01, 0.01, 5).text() == "0.0 [-1.0, 1.0]"
    assert f"{interval:.2f}" == "0.57 [0.55, 0.59]"
    assert str(interval) == f"{interval}" == "0.570 [0.552, 0.588]"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0, 2.0]], [float("inf")]])
def test_unusable_values_are_refused(values):
    with pytest.raises(ValueError):
        bootstrap_mean(values, seed=0)


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="3 and 2"):
        paired_difference([1, 2, 3], [1, 2], seed=0)
    with pytest.raises(ValueError, match="group names"):
        bootstrap_mean([1, 2, 3], seed=0, groups=["a"])
