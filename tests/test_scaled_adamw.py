"""AdamW with learnt scales: torch's own AdamW where no scale is learnt, closed forms where one is, resuming."""

import copy

import pytest
import torch

from rlvr_lib.training.scaled_adamw import ScaledAdamW

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-12, "weight_decay": 0.1}


def weights(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(2)]


def run(optimiser, params, steps, first=0):
    for step in range(first, first + steps):
        torch.manual_seed(100 + step)
        for weight in params:
            weight.grad = torch.randn_like(weight)
        optimiser.step()


def test_without_a_rate_it_is_adamw():
    ours, theirs = weights(), weights()
    run(ScaledAdamW([{"params": ours, "scale_rate": 0.0}], **OPTIONS), ours, 5)
    run(torch.optim.AdamW(theirs, **OPTIONS), theirs, 5)
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))


def test_a_scale_moves_as_adam_moves_a_number_of_its_own():
    """The reference keeps log scale as a parameter of torch's Adam and multiplies by hand."""
    ours, theirs = weights(), weights()
    groups = [{"params": ours[:1]}, {"params": ours[1:], "scale_rate": 0.05}]
    mine, adamw = ScaledAdamW(groups, **OPTIONS), torch.optim.AdamW(theirs, **OPTIONS)
    log_scale = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    scale = torch.optim.Adam([log_scale], 0.05, OPTIONS["betas"], OPTIONS["eps"])
    for step in range(6):
        run(mine, ours, 1, step)
        torch.manual_seed(100 + step)
        for weight in theirs:
            weight.grad = torch.randn_like(weight)
        before = log_scale.detach().clone()
        log_scale.grad = (theirs[1].detach() * theirs[1].grad).sum()
        adamw.step()
        scale.step()
        theirs[1].data.mul_(torch.exp(log_scale.detach() - before))
        for one, two in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_step_is_the_rate(sign):
    """Down the slope, by the rate in log scale, whatever its size; AdamW's own part is switched off."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    weight.grad = sign * 1e-5 * weight.detach()
    ScaledAdamW([{"params": [weight], "scale_rate": 0.1}], **OPTIONS | {"lr": 0.0}).step()
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64) * torch.exp(torch.tensor(-sign * 0.1, dtype=torch.float64))
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-6, atol=0)


def test_it_goes_on_from_its_state():
    whole, broken = weights(), weights()
    one, two = (ScaledAdamW([{"params": params, "scale_rate": 0.05}], **OPTIONS) for params in (whole, broken))
    run(one, whole, 6)
    run(two, broken, 3)
    resumed = ScaledAdamW([{"params": broken, "scale_rate": 0.05}], **OPTIONS)
    resumed.load_state_dict(copy.deepcopy(two.state_dict()))
    run(resumed, broken, 3, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, broken, strict=True))
