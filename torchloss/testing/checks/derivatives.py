"""Derivatives against finite differences, in float64: first and second, reverse and forward."""

import torch
from torch.autograd import gradcheck, gradgradcheck

from ..kit import check

# Slow mode and tight tolerances: the defaults miss an error of 1 % in one entry of a mean.
TIGHT = {"atol": 1e-8, "rtol": 1e-6, "fast_mode": False}


def in_float64(p):
    return [d for d in p.dtypes if d == torch.float64]


def derivative(shapes, **options):
    return check("derivatives", shapes=shapes, dtypes=in_float64, reference=False, **options)


@derivative([(4, 1), (3, 5), (1, 33), (2, 3, 2)])
def first(f, x, t):
    """The gradient is that of the value."""
    gradcheck(lambda x: f(x, t), (x,), **TIGHT)


@derivative([(3, 4)])
def first_forward(f, x, t):
    """Forward mode is right, not a silent 0; batches of gradients from above work."""
    gradcheck(lambda x: f(x, t), (x,), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)


@derivative([(2, 3), (1, 18)])
def second(f, x, t):
    """The second derivative is that of the gradient, or an error, not a silent 0."""
    gradgradcheck(lambda x: f(x, t), (x,), **TIGHT)


@derivative([(2, 3)])
def second_forward_over_reverse(f, x, t):
    """The second derivative by forward over reverse mode, and in batches."""
    gradgradcheck(lambda x: f(x, t), (x,), check_fwd_over_rev=True, check_batched_grad=True)


def has_target_gradient(loss):
    return loss.target_grad


@derivative([(3, 4)], where=has_target_gradient, target_grad=True)
def first_of_both(f, x, t):
    """The gradients of input and target together, reverse and forward."""
    gradcheck(f, (x, t), **TIGHT)
    gradcheck(f, (x, t), check_forward_ad=True, check_batched_grad=True)


@derivative([(2, 3)], where=has_target_gradient, target_grad=True)
def second_of_both(f, x, t):
    """The second derivatives in input and target."""
    gradgradcheck(f, (x, t), **TIGHT)
    gradgradcheck(f, (x, t), check_fwd_over_rev=True, check_batched_grad=True)
