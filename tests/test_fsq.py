"""FSQ against the definition B.1 and its worked values."""

import math

import pytest
import torch

from rlvr_lib.tokens.fsq import FSQ


def test_worked_values():
    quantiser = FSQ()
    zero = torch.zeros(1, 5)
    assert quantiser.size == 4375
    assert quantiser(zero)[1].item() == 2187
    assert quantiser(zero + 10)[1].item() == 4374 and quantiser(zero - 10)[1].item() == 0
    assert quantiser.codes_of(torch.tensor(0)).tolist() == [-1.0] * 5
    same = quantiser.codes_of(torch.tensor([2187, 6562, 10937]))
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


@pytest.mark.parametrize("levels", [(7, 5, 5, 5, 5), (8, 5, 5, 5), (2, 3), (4,)])
def test_every_index_has_its_own_code_and_comes_back(levels):
    quantiser = FSQ(levels)
    codes = quantiser.codes_of(torch.arange(quantiser.size))
    assert len(torch.unique(codes, dim=0)) == quantiser.size == math.prod(levels)
    assert codes.min() >= -1 and codes.max() <= 1
    half = torch.tensor([level // 2 for level in levels])
    digits = (codes * half + half).round().long()
    basis = [math.prod(levels[:place]) for place in range(len(levels))]
    assert torch.equal((digits * torch.tensor(basis)).sum(-1), torch.arange(quantiser.size))


@pytest.mark.parametrize("levels", [(7, 5, 5, 5, 5), (8, 6, 5)])
def test_quantising_follows_the_formula_value_by_value(levels):
    latent = torch.randn(200, len(levels), generator=torch.Generator().manual_seed(1)) * 3
    codes, index = FSQ(levels)(latent)
    for row in range(len(latent)):
        expected_index, basis = 0, 1
        for place, level in enumerate(levels):
            half = (level - 1) * (1 + 1e-3) / 2
            offset = 0.5 if level % 2 == 0 else 0.0
            bounded = math.tanh(latent[row, place].item() + math.atanh(offset / half)) * half - offset
            rounded = round(bounded)
            assert codes[row, place].item() == pytest.approx(rounded / (level // 2))
            expected_index += (rounded + level // 2) * basis
            basis *= level
        assert index[row].item() == expected_index


def test_the_gradient_passes_straight_through_the_rounding():
    latent = torch.tensor([[0.3, -0.2, 0.1, 0.0, 1.0]], requires_grad=True)
    FSQ()(latent)[0].sum().backward()
    halves = torch.tensor([3.003, 2.002, 2.002, 2.002, 2.002])
    expected = (1 - torch.tanh(latent.detach()) ** 2) * halves / torch.tensor([3.0, 2, 2, 2, 2])
    torch.testing.assert_close(latent.grad, expected)


def test_stays_float32_under_mixed_precision():
    latent = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes, index = FSQ()(latent)
    assert codes.dtype == torch.float32
    assert torch.equal(index, FSQ()(latent)[1])


def test_a_wrong_number_of_scalars_is_named():
    with pytest.raises(ValueError, match="4 scalars for 5 levels"):
        FSQ()(torch.zeros(2, 4))
