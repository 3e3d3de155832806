"""Agreement between evaluated and real success rates: definitions by hand and by loops, intervals against theory."""

import numpy as np
import pytest
from scipy import stats

from rlvr_lib.evaluation.real2sim_metrics import (
    METRICS,
    Confusion,
    Draws,
    agreement,
    closer,
    interval,
    mean_absolute_error,
    mmrv,
    pearson,
    rogan_gladen,
    spearman,
)


def slow_mmrv(sim, real):
    worst = []
    for i in range(len(real)):
        violations = [0.0]
        for j in range(len(real)):
            if (sim[i] > sim[j]) != (real[i] > real[j]):
                violations.append(abs(real[i] - real[j]))
        worst.append(max(violations))
    return sum(worst) / len(worst)


def test_mmrv_agrees_with_loops_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sim, real = rng.integers(0, 4, (2, 6)) / 4  # quarters, so that ties are frequent
        assert mmrv(sim, real) == pytest.approx(slow_mmrv(sim, real))


def test_mmrv_by_hand():
    """Swapping the two best costs their distance, for two of four; a tie on one side only counts in one order."""
    real = np.array([0.0, 0.3, 0.6, 0.9])
    assert mmrv(np.array([0.0, 0.3, 0.9, 0.6]), real) == pytest.approx(2 * 0.3 / 4)
    assert mmrv(real / 2 + 0.1, real) == 0
    assert mmrv(np.array([0.5, 0.5]), np.array([0.2, 0.8])) == pytest.approx(0.6 / 2)
    assert mmrv(np.array([0.2, 0.8]), np.array([0.5, 0.5])) == 0


def test_pearson_and_spearman():
    rng = np.random.default_rng(1)
    sim, real = rng.random((2, 7))
    assert pearson(sim, real) == pytest.approx(np.corrcoef(sim, real)[0, 1], abs=1e-6)
    assert spearman(sim, real) == pytest.approx(stats.spearmanr(sim, real).statistic, abs=1e-6)
    assert pearson(real + 0.25, real + 0.25) == 1
    assert pearson(np.full(3, 0.5), np.full(3, 0.75)) == 1  # identical after centring, though nothing varies
    assert pearson(np.full(7, 0.3), real) == 0  # 0 / 1e-8, not 0 / 0
    half = np.array([0.0, 1e-4])
    assert pearson(half, 2 * half) == pytest.approx(1e-8 / (1e-8 + 1e-8))  # the 1e-8 of the definition shows here


def test_metrics_work_on_many_draws_at_once():
    rng = np.random.default_rng(2)
    sim, real = rng.random((2, 20, 5))
    for metric in (mean_absolute_error, pearson, mmrv, spearman):
        assert metric(sim, real) == pytest.approx([float(metric(a, b)) for a, b in zip(sim, real, strict=True)])


def test_rogan_gladen_undoes_a_judges_errors():
    for true in (0.0, 0.3, 1.0):
        seen = true * 0.9 + (1 - true) * (1 - 0.7)
        assert rogan_gladen(seen, 0.9, 0.7) == pytest.approx(true)
    assert rogan_gladen(0.0, 0.9, 0.7) == 0 and rogan_gladen(1.0, 0.9, 0.7) == 1  # never outside
    assert np.isnan(rogan_gladen(0.4, 0.5, 0.5)) and np.isnan(rogan_gladen(0.4, 0.3, 0.5))


def test_an_interval_is_as_wide_as_theory_says():
    """Bernoulli episodes: a standard error of sqrt(p (1 - p) / n)."""
    scores = (np.arange(400) % 4 == 0).astype(float)[None, None]
    found = interval(Draws(1, 400, 4000, 0).rates(scores)[:, 0, 0], 400)
    assert found.mean == 0.25 and found.n == 400
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.1)


def test_a_perfect_judge_changes_nothing_and_a_poor_one_widens_the_interval():
    scores = (np.arange(200) % 2).astype(float)[None, None]
    draws = Draws(1, 200, 2000, 0)
    perfect = Confusion(np.ones(50), np.zeros(50))
    assert draws.corrected(scores, [perfect]) == pytest.approx(draws.rates(scores))
    poor = Confusion((np.arange(50) % 10 > 0).astype(float), (np.arange(50) % 5 == 0).astype(float))
    assert poor.rates() == (0.9, 0.8)
    found = draws.corrected(scores, [poor])[:, 0, 0]
    assert found[0] == pytest.approx((0.5 - 0.2) / 0.7)
    plain, wide = interval(draws.rates(scores)[:, 0, 0], 200), interval(found, 200)
    # both parts of the error by the delta method: episodes and held-out judgements
    p, rate = found[0], 0.5
    variance = rate * (1 - rate) / 200 + p**2 * 0.9 * 0.1 / 50 + (1 - p) ** 2 * 0.8 * 0.2 / 50
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * np.sqrt(variance) / 0.7, rel=0.12)
    assert wide.high - wide.low > 1.3 * (plain.high - plain.low)


def test_where_the_judge_tells_nothing_there_is_no_number():
    draws, scores = Draws(1, 20, 200, 0), np.ones((2, 1, 20))
    for useless in (Confusion(np.full(9, 0.5), np.full(9, 0.5)), Confusion(np.ones(9), np.zeros(0))):
        rates = draws.corrected(scores, [useless])
        assert interval(rates[:, 0, 0], 20) is None
        assert all(agreement(rates, draws.rates(scores), 20, metric) is None for metric in METRICS)


def test_starts_are_shared_by_what_is_compared():
    """An evaluator that says of every episode what really happened has error 0 in every draw; pairs cancel."""
    rng = np.random.default_rng(3)
    real = (rng.random((3, 2, 30)) < 0.5).astype(float)
    draws = Draws(2, 30, 500, 0)
    truth, same = draws.rates(real), draws.rates(real.copy())
    exact = agreement(same, truth, 180, "mae")
    assert (exact.mean, exact.low, exact.high) == (0, 0, 0)
    gap = closer(draws.rates(1 - real), same, truth, 180)
    assert gap.high < 0 and gap.mean == pytest.approx(-np.abs(1 - 2 * real.mean(-1)).mean())
    assert np.array_equal(Draws(2, 30, 500, 0).counts, draws.counts) and (draws.counts.sum(-1) == 30).all()
