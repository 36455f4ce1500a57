"""Jagged nested tensors: what torch computes is computed, and the rest says what to pass."""

import pytest
import torch
import torch.nn.functional as F

import torchloss
from torchloss.testing.losses import LOSSES

L = torchloss.functional
pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
POINTWISE = [loss for loss in LOSSES if loss.family == "pointwise"]
OF_ROWS = ("cross_entropy", "nll_loss", "entropy", "softmax_entropy", "kl_div_with_logits", "logit_stats")


def jagged(values, lengths=(2, 0, 4)):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def like(nested, values):
    return torch.nested.nested_tensor_from_jagged(values, nested.offsets())


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dim", [-1, 2])
def test_maps(name, dim):
    """The size is torch's, the values and the gradient are those of the values."""
    x = torch.randn(6, 3, requires_grad=True)
    nested = jagged(x)
    y, expected = getattr(L, name)(nested, dim), getattr(F, name)(x, -1)
    assert y.shape == nested.shape == getattr(F, name)(nested, dim).shape
    torch.testing.assert_close(y.values(), expected)
    grads = [torch.autograd.grad(a[:, 0].square().sum(), x)[0] for a in (y.values(), expected)]
    torch.testing.assert_close(*grads)


def test_maps_of_a_transposed_one():
    nested = jagged(torch.randn(6, 3)).transpose(1, 2)
    y = L.softmax(nested, 1)
    assert y.shape == nested.shape
    torch.testing.assert_close(y.values(), nested.values().softmax(0))


@pytest.mark.parametrize("dim", [None, 0, 1, -2, -3])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_maps_over_the_samples_say_what_to_pass(name, dim):
    with pytest.raises(NotImplementedError, match=rf"^{name} of a nested tensor .* pass input.to_padded_tensor"):
        getattr(L, name)(jagged(torch.randn(6, 3)), dim)


@pytest.mark.parametrize("loss", POINTWISE, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_of_elements(loss, reduction):
    """As of the values; those of each element are nested again."""
    x, t = (a.float() for a in loss.sample((6, 3)))
    x.requires_grad_()
    options = loss.options((6, 3), reduction, torch.float32)
    inputs = jagged(x)
    wrapped = {k: like(inputs, v) if torch.is_tensor(v) else v for k, v in options.items()}
    y, expected = getattr(L, loss.name)(inputs, like(inputs, t), **wrapped), getattr(L, loss.name)(x, t, **options)
    assert reduction != "none" or y.shape == inputs.shape
    y = y.values() if y.is_nested else y
    assert torch.equal(y, expected)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0])


@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_batchmean_is_over_the_samples(empty):
    x, t = torch.rand(6, 3).log(), torch.rand(6, 3)
    inputs = jagged(x)
    loss = L.kl_div(inputs, like(inputs, t), reduction="batchmean", empty=empty)
    torch.testing.assert_close(loss, L.kl_div(x, t, reduction="sum") / 3)


@pytest.mark.parametrize("name", OF_ROWS)
def test_losses_of_rows_say_what_to_pass(name):
    inputs = jagged(torch.randn(6, 3))
    args = (inputs,) if "entropy" in name and name != "cross_entropy" else (inputs, inputs)
    with pytest.raises(NotImplementedError, match=rf"^{name} does not take nested tensors: pass .*input.values\(\)"):
        getattr(L, name)(*args)


@pytest.mark.parametrize("name", sorted({loss.name for loss in POINTWISE}))
def test_nested_beside_others_says_what_to_pass(name):
    inputs = jagged(torch.rand(6, 3))
    with pytest.raises(ValueError, match="must both be nested, or neither"):
        getattr(L, name)(inputs, torch.rand(6, 3))
    with pytest.raises(ValueError, match="same size and offsets"):
        getattr(L, name)(inputs, jagged(torch.rand(6, 3)))


def test_a_mode_sees_the_call_first():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **kwargs or {})

    nested = jagged(torch.randn(6, 3))
    with Mode():
        L.softmax(nested, -1)
    assert seen[0] is L.softmax
