"""Action discretisation against the definition A.2 and its worked values."""

import numpy as np
import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.tokens.action_bins import RT1_RANGES, ActionBins


def test_worked_values():
    bins = ActionBins.rt1()
    assert bins.to_bins(np.zeros(13)).tolist() == [128, 185, 128, 128, 127, 129, 128, 0, 0, 0, 103, 51, 108]
    assert bins.to_bins(bins.low).tolist() == [0] * 13
    assert bins.to_bins(bins.high).tolist() == [255] * 13
    assert bins.dims == 13 and bins.source == "rt1"


def test_dimensions_stand_in_alphabetical_order():
    names = [name for name, _, _ in RT1_RANGES]
    assert names == sorted(names)


def test_interior_edges_belong_to_the_upper_bin():
    bins = ActionBins([0.0], [256.0])
    assert bins.to_bins(np.arange(257.0)[:, None]).ravel().tolist() == [*range(256), 255]


def test_float32_decides():
    """On the edges of a range whose width is no power of two, float32 and float64 disagree somewhere."""
    bins = ActionBins.rt1()
    edges = (np.arange(1, 256)[:, None] / 256 * (bins.high - bins.low).astype(np.float64) + bins.low).astype(np.float32)
    share = (edges - bins.low) / (bins.high - bins.low + np.float32(1e-8))
    assert share.dtype == np.float32
    single = np.minimum(np.floor(np.float32(256) * share.clip(0, 1)), 255)
    wide = edges.astype(np.float64)
    low, high = bins.low.astype(np.float64), bins.high.astype(np.float64)
    double = np.minimum(np.floor(256 * ((wide - low) / (high - low + 1e-8)).clip(0, 1)), 255)
    assert (single != double).sum() > 20
    assert np.array_equal(bins.to_bins(edges), single)


def test_centres_fall_into_their_own_bins():
    bins = ActionBins.rt1()
    assert np.array_equal(bins.to_bins(bins.centres), np.repeat(np.arange(256)[:, None], 13, axis=1))


def test_measured_ranges_and_values_outside():
    bins = ActionBins.measured([[0, 1], [2, -1], [1, 0]])
    assert bins.low.tolist() == [0, -1] and bins.high.tolist() == [2, 1] and bins.source == "measured"
    assert bins.to_bins([-5, 5]).tolist() == [0, 255]
    assert bins.outside([[-5, 0.5], [1, 7]]) == 2
    assert ActionBins.from_dict(bins.to_dict()).to_bins([1.3, 0.2]).tolist() == bins.to_bins([1.3, 0.2]).tolist()


def test_bad_actions_are_named():
    bins = ActionBins.rt1()
    with pytest.raises(UserError, match="NaN"):
        bins.to_bins(np.full(13, np.nan))
    with pytest.raises(UserError, match="dimensions"):
        bins.to_bins(np.zeros(4))
    with pytest.raises(UserError, match="ranges"):
        ActionBins.measured(np.full((3, 2), np.nan))
