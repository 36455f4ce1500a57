"""The formulas that one learns about losses, each held to what torchloss computes.

x are logits, y_hat = softmax(x), y or P the truth, Q a prediction; everything is in float64.
"""

import math

import pytest
import torch
from torch.func import grad, jacfwd, jacrev
from torch.testing import assert_close

import torchloss.functional as F
from torchloss.testing.losses import DEVICES

pytestmark = pytest.mark.parametrize("device", DEVICES)


def softmax(x):
    return F.softmax(x, dim=-1)


@pytest.fixture
def numbers(device):
    """numbers(*size): some numbers, always the same."""
    generator = torch.Generator().manual_seed(0)
    return lambda *size: torch.randn(size, generator=generator, dtype=torch.float64).to(device)


# Softmax


def test_softmax_is_a_distribution(numbers):
    """y_hat_i > 0 and sum_i y_hat_i = 1"""
    y_hat = softmax(10 * numbers(5, 7))
    assert (y_hat > 0).all()
    assert_close(y_hat.sum(-1), torch.ones_like(y_hat[:, 0]))


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
def test_softmax_jacobian(jacobian, numbers):
    """J = diag(y_hat) - y_hat y_hat^T"""
    x = numbers(6)
    y_hat = softmax(x)
    assert_close(jacobian(softmax)(x), y_hat.diag() - y_hat.outer(y_hat))


def test_softmax_derivatives_case_by_case(numbers):
    """d y_hat_i / d x_i = y_hat_i (1 - y_hat_i),  d y_hat_i / d x_j = -y_hat_i y_hat_j"""
    x = numbers(4)
    y_hat, J = softmax(x), jacrev(softmax)(x)
    for i in range(4):
        for j in range(4):
            assert_close(J[i, j], y_hat[i] * (1 - y_hat[i]) if i == j else -y_hat[i] * y_hat[j])


def test_softmax_jacobian_vanishes(numbers):
    """J -> 0 when one logit dominates: y_hat -> [1, 0, ..., 0]"""
    x = numbers(5).sort(descending=True).values + torch.tensor([1.0, 0, 0, 0, 0]).to(numbers(1))
    sizes = [jacrev(softmax)(k * x).abs().max() for k in (1, 10, 100, 1000)]
    assert all(later < sooner for sooner, later in zip(sizes[:2], sizes[1:3], strict=True))
    assert sizes[-1] < 1e-100


def test_cross_entropy_gradient_does_not_vanish(numbers, device):
    """softmax saturates, but a wrong answer's gradient y_hat - y does not: -1 at the right class, 1 at the chosen"""
    x = 1000 * torch.tensor([1.0, 0.0, 0.5]).to(numbers(1))
    y = torch.tensor(1, device=device)
    assert jacrev(softmax)(x).abs().max() < 1e-100
    assert_close(grad(F.cross_entropy)(x, y), torch.tensor([1.0, -1.0, 0.0]).to(x))


# Cross entropy, entropy, divergence


def test_cross_entropy_gradient(numbers, device):
    """The gradient of cross entropy after softmax is y_hat - y."""
    x, y = numbers(5), torch.tensor(3, device=device)
    one_hot = torch.eye(5, device=device)[3].to(x)
    assert_close(grad(F.cross_entropy)(x, y), softmax(x) - one_hot)
    soft = softmax(numbers(5))
    assert_close(grad(F.cross_entropy)(x, soft), softmax(x) - soft)


def test_cross_entropy_gradient_by_the_chain_rule(numbers):
    """dL/dx_j = sum_i (-y_i / y_hat_i) y_hat_i (delta_ij - y_hat_j)"""
    x, y = numbers(5), softmax(numbers(5))
    steps = (-y / softmax(x)) @ jacrev(softmax)(x)
    assert_close(grad(F.cross_entropy)(x, y), steps)


def test_entropy_in_bits(device):
    """H of 2^k equally likely symbols is k bits."""
    for k in range(11):
        p = torch.full((2**k,), 2.0**-k, dtype=torch.float64, device=device)
        assert_close(F.entropy(p, base=2).item(), float(k), atol=1e-14, rtol=1e-14)
        assert_close(F.entropy(p).item(), k * math.log(2), atol=1e-14, rtol=1e-14)


def test_information_of_what_is_certain_is_0(device):
    """H = 0 if one symbol has probability 1: nothing surprises."""
    assert F.entropy(torch.tensor([0.0, 1.0, 0.0], device=device)) == 0


def test_entropy_is_expected_surprise(numbers):
    """H(P) = sum_i p_i (-log2 p_i), and the same from logits."""
    x = numbers(3, 6)
    p = softmax(x)
    H = (p * -p.log2()).sum(-1)
    assert_close(F.entropy(p, base=2, reduction="none"), H)
    assert_close(F.softmax_entropy(x, reduction="none"), H * math.log(2))


def test_divergence_is_the_excess_of_cross_entropy(numbers):
    """KL(P, Q) = CE(P, Q) - H(P)"""
    x, p = numbers(4, 6), softmax(numbers(4, 6))
    divergence = F.kl_div(F.log_softmax(x, dim=-1), p, reduction="none").sum(-1)
    excess = F.cross_entropy(x, p, reduction="none") - F.entropy(p, reduction="none")
    assert_close(divergence, excess)
    assert_close(F.kl_div_with_logits(x, p.log(), reduction="none"), excess)


def test_entropy_is_the_least_cross_entropy(numbers):
    """CE(P, Q) >= H(P), with equality at Q = P, where the gradient is 0."""
    p = softmax(numbers(6))
    H = F.entropy(p)
    for _ in range(20):
        assert F.cross_entropy(numbers(6), p) > H
    assert_close(F.cross_entropy(p.log(), p), H)
    assert grad(F.cross_entropy)(p.log(), p).abs().max() < 1e-15
    assert F.kl_div_with_logits(p.log(), p.log()) == 0


def test_likelihood(numbers, device):
    """Cross entropy against the data's classes is the negative log-likelihood: the least is the most likely."""
    x, y = numbers(8, 3), torch.arange(8, device=device) % 3
    likelihood = softmax(x)[torch.arange(8, device=device), y].prod()
    assert_close(F.cross_entropy(x, y, reduction="sum"), -likelihood.log())


# Means, and gradients that add up


def gradient_size(reduction, x):
    """The size of the gradient of a linear model's weights, over the samples x."""
    weights = torch.ones(3, dtype=torch.float64, device=x.device, requires_grad=True)
    F.mse_loss(x @ weights, torch.zeros_like(x[:, 0]), reduction=reduction).backward()
    return weights.grad.norm()


def test_the_mean_keeps_the_size_of_the_gradient(numbers):
    """mean = sum / n: under the mean the gradient does not grow with the batch, under the sum it does."""
    samples = numbers(64, 3)
    twice, ten_times = samples.repeat(2, 1), samples.repeat(10, 1)
    assert_close(gradient_size("sum", samples) / 64, gradient_size("mean", samples))
    assert_close(gradient_size("mean", twice), gradient_size("mean", samples))
    assert_close(gradient_size("mean", ten_times), gradient_size("mean", samples))
    assert_close(gradient_size("sum", twice), 2 * gradient_size("sum", samples))
    assert_close(gradient_size("sum", ten_times), 10 * gradient_size("sum", samples))


def test_gradients_add_up_until_they_are_zeroed(numbers):
    """A second backward() adds its gradient to the first."""
    x, t = numbers(5).requires_grad_(), numbers(5)
    F.huber_loss(x, t).backward()
    once = x.grad.clone()
    F.huber_loss(x, t).backward()
    assert_close(x.grad, 2 * once)
    x.grad = None
    F.huber_loss(x, t).backward()
    assert_close(x.grad, once)


# Squared, absolute and Huber's error of a number r


@pytest.mark.failure(45)
def test_how_far_errors_pull(device):
    """L2' = 2 r grows, L1' = sign(r) does not, Huber' = clamp(r, -delta, delta) is both."""
    r = torch.tensor([-1000.0, -3.0, -0.5, 0.5, 3.0, 1000.0], dtype=torch.float64, device=device)
    zero = torch.zeros_like(r)

    def slope(loss, **options):
        return grad(lambda r: loss(r, zero, reduction="sum", **options))(r)

    assert_close(slope(F.mse_loss), 2 * r)
    assert_close(slope(F.l1_loss), r.sign())
    assert_close(slope(F.huber_loss, delta=2.0), r.clamp(-2, 2))
    assert slope(F.huber_loss, delta=2.0).abs().max() == 2


def test_huber_between_its_relatives(numbers):
    """Huber = L2 / 2 for a large delta, and = delta (L1 - delta / 2) for a small one."""
    x, t = numbers(50), numbers(50)
    l1, l2 = (loss(x, t, reduction="none") for loss in (F.l1_loss, F.mse_loss))
    assert_close(F.huber_loss(x, t, "none", delta=100.0), l2 / 2)
    delta = l1.min().item() / 2
    assert_close(F.huber_loss(x, t, "none", delta=delta), delta * (l1 - delta / 2))


def test_huber_is_smooth_where_absolute_error_is_not(numbers):
    """At r = 0 the slope of L1 jumps from -1 to 1; Huber's passes through 0."""
    r = torch.tensor([-1e-9, 0.0, 1e-9]).to(numbers(1))
    slopes = [grad(lambda r, f=f: f(r, torch.zeros_like(r), reduction="sum"))(r) for f in (F.l1_loss, F.huber_loss)]
    assert slopes[0].tolist() == [-1, 0, 1]
    assert slopes[1].abs().max() <= 1e-9
