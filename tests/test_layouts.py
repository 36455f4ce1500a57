"""Where the numbers lie in memory changes nothing, and the caller's tensors stay as they are."""

import pytest
import torch
from calls import class_dim, compute, same_bits, sample
from torch.testing import assert_close

from torchloss.testing.losses import DEVICES, LOSSES

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.mark.failure(20, 21)
@each_device
@each_loss
def test_empty(loss, device):
    """As torch, also in that the mean of nothing is NaN."""
    no_rows = [(0, 5), (0, 5, 3), (2, 0, 5) if class_dim(loss, 3) == 2 else (2, 5, 0)]
    for shape in [*no_rows, *([(0,), (3, 0)] if loss.family == "pointwise" else [])]:
        for reduction in loss.reductions:
            ours = compute(loss, *sample(loss, shape, device), reduction)
            assert_close(ours[0], loss.oracle(*sample(loss, shape, device), reduction), equal_nan=True)
            assert all(g.shape == shape and not g.any() for g in ours[1:])


@each_device
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.family == "pointwise"], ids=str)
def test_one_number(loss, device):
    x, t = (a.reshape(()) for a in sample(loss, (1,), device))
    for reduction in loss.reductions:
        ours, one = compute(loss, x, t, reduction), compute(loss, x.reshape(1), t.reshape(1), reduction)
        for a, b in zip(ours, one, strict=True):
            assert a.shape == ()
            assert_close(a, b.reshape(()))


@pytest.mark.failure(51, 61)
@each_device
@each_loss
def test_inputs_are_untouched_and_not_returned(loss, device):
    for shape in ((5, 7), (3, 200), (2, 5, 4)):
        x, t = sample(loss, shape, device)
        for reduction in loss.reductions:
            grad = torch.ones_like(loss.ours(x, t, reduction))
            x, t = x.detach().clone().requires_grad_(), t if t is None else t.detach().clone()
            if loss.target_grad:
                t.requires_grad_()
            given = [a for a in (x, t, grad) if a is not None]
            before = [(a.detach().clone(), a._version) for a in given]
            value = loss.ours(x, t, reduction)
            leaves = [a for a in (x, t) if a is not None and a.requires_grad]
            grads = torch.autograd.grad(value, leaves, grad, create_graph=True)
            twice = torch.autograd.grad(
                [g.sum() for g in grads if g.requires_grad] or [value], leaves, allow_unused=True
            )
            for a, (copy, version) in zip(given, before, strict=True):
                assert a._version == version and same_bits([a.detach()], [copy])
            results = [a for a in (value, *grads, *twice) if a is not None]
            places = [a.untyped_storage().data_ptr() for a in (*given, *results)]
            assert len(set(places)) == len(places), "two of them share their memory"


def rows_of(loss, shape, element):
    """A mask of what a number may influence: its row, or itself if the loss knows no rows."""
    mask, where, dim = torch.zeros(shape, dtype=torch.bool), list(element), class_dim(loss, len(shape))
    if loss.family != "pointwise":
        where[dim] = slice(None)
    mask[tuple(where)] = True
    return mask, dim


@each_device
@each_loss
def test_nan_stays_where_it_is(loss, device):
    for element, shape in {(2, 3): (9, 5), (3, 299): (6, 300), (2, 3, 4): (4, 6, 10)}.items():
        x, t = sample(loss, shape, device)
        good = compute(loss, x, t)
        x = x.clone()
        x[element] = torch.nan
        if loss.name == "binary_cross_entropy" and device == "cpu":  # whose input must lie in [0, 1]
            with pytest.raises(RuntimeError, match="between 0 and 1"):
                compute(loss, x, t)
            continue
        bad = compute(loss, x, t)
        assert bad[0].isnan().any() or loss.name == "nll_loss"  # which reads one number of a row
        mask, dim = rows_of(loss, shape, element)
        for clean, dirty in zip(good, bad, strict=True):
            elsewhere = ~(mask if clean.shape == shape else mask.any(dim)).to(device)
            assert torch.equal(clean[elsewhere], dirty[elsewhere])


@each_device
@each_loss
def test_what_backward_needs_may_not_change(loss, device):
    """Silently wrong gradients otherwise: these losses keep their inputs, softmax and log_softmax their output."""
    x, t = sample(loss, (3, 4), device)
    for changed in ("input", *["target"] * (t is not None), *["output"] * (loss.family == "map")):
        x_ = x.clone().requires_grad_() * 1
        t_ = None if t is None else t.clone()
        value = loss.ours(x_, t_, loss.reductions[-1])
        with torch.no_grad():
            {"input": x_, "target": t_, "output": value}[changed].mul_(1)
        if loss.family == "map" and changed == "input":
            value.sum().backward()
            continue
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.sum().backward()
