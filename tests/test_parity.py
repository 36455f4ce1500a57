"""Every loss against torch in float64: the value and the gradients, rounded once to the dtype."""

import pytest
import torch
from torch.testing import assert_close

from torchloss.testing.losses import DEVICES, DTYPES, LOSSES, Loss, leaves

# Rows of one class; shorter and longer than a vector; several blocks; rows that are not contiguous; none at all.
SHAPES = [(7, 1), (5, 3), (7, 33), (3, 1000), (2, 70001), (12,), (4, 10, 6), (2, 67, 3, 5), (2, 21, 40, 33), (0, 5)]


def gradients(loss: Loss, call, x, t, reduction, grad):
    value = call(x, t, reduction)
    value.backward(grad.to(value.dtype))
    return value, x.grad, t.grad if loss.target_grad else None


def map_gradient(loss: Loss, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """softmax and log_softmax save their output, as torch does: the gradient belongs to the rounded output."""
    return y * (g - (y * g).sum(-1, keepdim=True)) if loss.name == "softmax" else g - y.exp() * g.sum(-1, keepdim=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_equals_torch(loss, device, dtype):
    for seed, shape in enumerate(SHAPES):
        for reduction in loss.reductions:
            x, t = leaves(loss, *loss.sample(shape, seed), dtype, device)
            exact_x, exact_t = (None if a is None else a.detach().double() for a in (x, t))
            exact = leaves(loss, exact_x, t if t is not None and not t.is_floating_point() else exact_t)
            shape_of_grad = loss.oracle(exact_x, exact[1], reduction).shape
            grad = torch.randn(shape_of_grad, dtype=torch.float64).to(device, dtype)  # not ones: none may be ignored
            value, gx, gt = gradients(loss, loss.ours, x, t, reduction, grad)
            value_, gx_, gt_ = gradients(loss, loss.oracle, *exact, reduction, grad)
            if loss.family == "map":
                gx_ = map_gradient(loss, value.detach().double(), grad.double())
            for ours, theirs, name in ((value, value_, "value"), (gx, gx_, "input"), (gt, gt_, "target")):
                if theirs is not None:
                    where = f"{loss} {dtype} {shape} {reduction} {name}"
                    assert ours.dtype == dtype, where
                    assert_close(ours, theirs.to(dtype), equal_nan=True, msg=lambda m, w=where: f"{w}: {m}")
