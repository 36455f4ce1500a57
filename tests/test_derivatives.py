"""Every loss against finite differences, in float64: first and second derivatives, reverse and forward."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from torchloss.testing.losses import DEVICES, LOSSES, leaves

# Slow mode and tight tolerances: the defaults miss an error of 1 % in one entry of a mean.
TIGHT = {"atol": 1e-8, "rtol": 1e-6, "fast_mode": False}

each_case = pytest.mark.parametrize(
    "loss, reduction", [pytest.param(loss, r, id=f"{loss}-{r}") for loss in LOSSES for r in loss.reductions]
)
each_device = pytest.mark.parametrize("device", DEVICES)


def problem(loss, reduction, shape, device):
    x, t = leaves(loss, *loss.sample(shape, 1), device=device)
    if loss.target_grad:
        return lambda x, t: loss.ours(x, t, reduction), (x, t)
    return lambda x: loss.ours(x, t, reduction), (x,)


@each_case
@each_device
@pytest.mark.parametrize("shape", [(4, 1), (3, 5), (1, 33), (2, 3, 2)], ids=str)
def test_first(loss, reduction, shape, device):
    function, inputs = problem(loss, reduction, shape, device)
    assert gradcheck(function, inputs, **TIGHT)


@each_case
@each_device
def test_first_forward_and_batched(loss, reduction, device):
    function, inputs = problem(loss, reduction, (3, 4), device)
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


@each_case
@each_device
@pytest.mark.parametrize("shape", [(2, 3), (1, 18)], ids=str)
def test_second(loss, reduction, shape, device):
    function, inputs = problem(loss, reduction, shape, device)
    assert gradgradcheck(function, inputs, **TIGHT)


@each_case
@each_device
def test_second_forward_over_reverse(loss, reduction, device):
    function, inputs = problem(loss, reduction, (2, 3), device)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_third_is_refused(loss):
    """A third derivative is an error, not a silent zero."""
    function, (x, *_) = problem(loss, loss.reductions[-1], (2, 3), "cpu")

    def nth(n, x):
        y = function(x, *_).sum()
        for _i in range(n):
            (y,) = torch.autograd.grad((y * torch.ones_like(y)).sum(), x, create_graph=True, allow_unused=True)
            if y is None or not y.requires_grad:
                return y
        return y

    second = nth(2, x)
    if second is not None and second.requires_grad:
        with pytest.raises(NotImplementedError, match="third derivative"):
            torch.autograd.grad((second * torch.ones_like(second)).sum(), x)
