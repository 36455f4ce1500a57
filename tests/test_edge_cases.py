"""The table of edge_cases.py, put to torch, so that a change there is seen, and to torchloss."""

import warnings

import pytest
import torch
import torch.nn.functional
from torch.testing import assert_close

import torchloss.functional as T
from torchloss.testing.edge_cases import CASES, matches
from torchloss.testing.losses import DEVICES, LOSSES, TEXTS_OF_TORCH

each_device = pytest.mark.parametrize("device", DEVICES)


def outcome(case, functional, device):
    leaves = [
        a.detach().to(device, copy=True).requires_grad_(wanted and a.is_floating_point())
        for a, wanted in ((case.input, True), (case.target, case.target_grad is not None))
        if a is not None
    ]
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in case.options.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = getattr(functional, case.function)(*leaves, **options)
        if value.requires_grad:
            value.sum().backward()
    return value, [x.grad for x in leaves], [str(w.message) for w in caught]


def equal(ours, expected):
    """In torch's tolerance; 0 exactly."""
    right = matches(ours, expected)
    assert_close(ours, right, equal_nan=True)
    assert (ours[right == 0] == 0).all(), ours


@pytest.mark.failure(39, 62)
@each_device
@pytest.mark.parametrize("whose", ["torch", "torchloss"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, whose, device):
    if whose == "torch" and not TEXTS_OF_TORCH:
        pytest.skip("the table is that of torch 2.13")
    case, functional = (case.of_torch(), torch.nn.functional) if whose == "torch" else (case, T)
    if case.error is not None:
        if device == "cuda" and (case.error[0] is IndexError or "between 0 and 1" in case.error[1]):
            pytest.skip("CUDA does not look at the data: torch asserts on the device, torchloss gives NaN")
        with pytest.raises(case.error[0]) as caught:
            outcome(case, functional, device)
        assert str(caught.value).startswith(case.error[1]), str(caught.value)
        return
    value, grads, messages = outcome(case, functional, device)
    assert case.dtype is None or value.dtype == case.dtype
    for mine, right in ((value, case.value), *zip(grads, (case.grad, case.target_grad), strict=False)):
        if right is not None:
            equal(mine, right)
    assert len(messages) == (case.warns is not None), messages
    assert case.warns is None or messages[0].startswith(case.warns)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if hasattr(torch.nn.functional, loss.name)], ids=str)
def test_autocast_as_torch(loss):
    x, t = loss.sample((3, 4))
    x, t = x.bfloat16(), t.bfloat16() if t is not None and t.is_floating_point() else t
    with torch.autocast("cpu", torch.bfloat16):
        theirs = loss.oracle(x, t, "none")
        ours = loss.ours(x, t, "none")
    assert ours.dtype == (torch.bfloat16 if loss.family == "map" else torch.float32)
    if str(loss) not in ("l1_loss-weight", "mse_loss-weight"):  # which torch puts together from operators in bfloat16
        assert ours.dtype == theirs.dtype


@pytest.mark.failure(34)
@each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.family != "map"], ids=str)
def test_sums_of_16_bit_numbers(loss, dtype, device):
    """A sum in 16 bits stops growing, or overflows; here only the result is rounded."""
    x, t = loss.sample((4096, 100), seed=2)
    x, t = x.to(dtype), t.to(dtype) if t is not None and t.is_floating_point() else t
    wide = [a if a is None or not a.is_floating_point() else a.double() for a in (x, t)]
    ours, exact = loss.ours(*(a if a is None else a.to(device) for a in (x, t))), loss.oracle(*wide)
    if not exact.isinf() and not loss.weights:  # the weights are rounded as well
        assert abs(ours.double().cpu() - exact) <= abs(exact) * torch.finfo(dtype).eps * 0.502, (ours, exact)


@each_device
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_rows_without_classes(reduction, device):
    """A sum over no class is 0, as it is in torch's compositions."""
    x = torch.empty(2, 0, device=device, requires_grad=True)
    for loss in (
        T.softmax_entropy(x, reduction=reduction),
        T.entropy(x, reduction=reduction),
        T.kl_div_with_logits(x, x.detach(), reduction=reduction),
        T.cross_entropy(x, x.detach(), reduction=reduction),
    ):
        assert (loss == 0).all() and loss.shape == ((2,) if reduction == "none" else ())
        loss.sum().backward()
        assert x.grad.shape == (2, 0)
