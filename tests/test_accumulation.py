"""A batch in pieces: the sums of the pieces over what counts in all of them are the mean of the whole."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from torchloss.testing.losses import LOSSES

# Weights of the elements are another tensor for each piece; those of the classes are the same for all.
MEANS = [loss for loss in LOSSES if loss.family == "rowwise" or (loss.family == "pointwise" and not loss.weights)]
INDICES = [loss for loss in MEANS if loss.name in ("nll_loss", "cross_entropy") and not loss.target_grad]
PIECES = (1, 13, 6, 12)  # rows


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5)).double()


def distribution(loss, y):
    """What the loss takes, of any numbers."""
    return y.softmax(-1) if loss.name in ("entropy", "binary_cross_entropy") else y


def check_same(actual, expected):
    """In float64: a wrong count shows in the first digits, another order of the sums in the last ones."""
    for a, b in zip(actual.parameters(), expected.parameters(), strict=True):
        assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9 * b.grad.abs().max().item())


@pytest.mark.failure(18, 90, 91)
@pytest.mark.capability("gradient accumulation")
@pytest.mark.parametrize("loss", MEANS, ids=str)
def test_sums_over_the_count(loss):
    x, t = loss.sample((32, 5))
    actual, expected = model(), model()
    mean = loss.oracle(distribution(loss, expected(x)), t, "mean")
    mean.backward()
    whole = loss.oracle(distribution(loss, expected(x)), t, "sum")
    count = whole.detach() / mean.detach()  # of elements, or rows, or weights of the rows that are not ignored
    values = []
    for rows in torch.arange(32).split(PIECES):
        y = distribution(loss, actual(x[rows]))
        value = loss.ours(y, None if t is None else t[rows], "sum") / count
        value.backward()
        values.append(value.detach())
    assert_close(sum(values), mean.detach())
    check_same(actual, expected)


@pytest.mark.failure(90)
@pytest.mark.capability("gradient accumulation")
@pytest.mark.parametrize("loss", INDICES, ids=str)
def test_means_of_pieces_are_another_thing(loss):
    """As in torch: a mean of means weighs the rows of a piece with few valid targets more."""
    x, t = loss.sample((32, 5))
    pieces = [(x[rows], t[rows]) for rows in torch.arange(32).split((2, 30))]
    means = torch.stack([loss.ours(a, b, "mean") for a, b in pieces])
    assert_close(means, torch.stack([loss.oracle(a, b, "mean") for a, b in pieces]))
    assert (means.mean() - loss.oracle(x, t, "mean")).abs() > 1e-3


@pytest.mark.capability("masks")
@pytest.mark.parametrize("loss", MEANS, ids=str)
def test_mask_after_the_loss(loss):
    """The masked loss of finite numbers is that of the elements, or rows, that are left."""
    x, t = loss.sample((8, 5))
    x_, t_ = x[2:].clone().requires_grad_(), None if t is None else t[2:]
    x.requires_grad_()
    y = loss.ours(x, t, "none")
    mask = torch.ones_like(y)
    mask[:2] = 0
    (y * mask).sum().backward()
    loss.oracle(x_, t_, "sum").backward()
    assert not x.grad[:2].any()
    assert_close(x.grad[2:], x_.grad)


@pytest.mark.failure(40)
@pytest.mark.capability("masks")
@pytest.mark.parametrize("loss", INDICES, ids=str)
def test_ignored_rows_may_hold_anything(loss):
    """Where a mask would make 0 * inf, an ignored row counts as 0, in value and gradient."""
    x, t = loss.sample((10, 5))
    x[0], x[5] = torch.inf, torch.nan  # the ignored ones
    kept = t != -100
    assert kept.tolist() == [i not in (0, 5) for i in range(10)]
    x_ = x[kept].requires_grad_()
    x.requires_grad_()
    y, y_ = loss.ours(x, t, "mean"), loss.oracle(x_, t[kept], "mean")
    y.backward()
    y_.backward()
    assert_close(y, y_)
    assert not x.grad[~kept].any()
    assert_close(x.grad[kept], x_.grad)


@pytest.mark.capability("a skipped step of GradScaler")
@pytest.mark.parametrize("loss", MEANS, ids=str)
def test_grad_scaler_skips_a_step_with_an_infinite_gradient(loss):
    x, t = loss.sample((8, 5))
    net = model()
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def step(factor):
        """Whether the weights changed, and the scale after it."""
        before = net[0].weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale(loss.ours(distribution(loss, net(x)), t, "mean") * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return not torch.equal(net[0].weight, before), scaler.get_scale()

    assert step(1.0) == (True, 2.0**10)
    assert step(torch.inf) == (False, 2.0**9)
    assert step(1.0) == (True, 2.0**9)
    assert all(p.isfinite().all() for p in net.parameters())
