"""The registered operators themselves, called raw: each is a security boundary and trusts no argument."""

import pytest
import torch
from op_calls import all_calls, ops, registered
from torch.library import opcheck

from torchloss.testing.losses import DEVICES, DTYPES, LOSSES


def test_every_op_has_a_row():
    expected = {loss.op + s for loss in LOSSES for s in ("", "_backward", "_double_backward")}
    assert registered() == expected | {
        "cross_entropy_backward_",
        "cross_entropy_backward_into",
        "cross_entropy_and_gradient",
    }


@pytest.mark.failure(61, 79)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.filterwarnings("ignore")  # of torch's own tracing
def test_opcheck(loss, device):
    for reduction in loss.reductions:
        for op, args in all_calls(loss, device=device, reduction=reduction):
            opcheck(op, args)
        # Where gradients are wanted too; the last op of a chain refuses to be differentiated.
        for op, args in all_calls(loss, device=device, reduction=reduction, requires_grad=True)[:2]:
            opcheck(op, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
            out = op(*args)
            out = out if torch.is_tensor(out) else out[0]
            assert out.requires_grad, f"{op} silently lost its gradient"


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_aot_dispatch_of_the_loss(loss):
    op, args = all_calls(loss, requires_grad=True)[0]
    opcheck(op, args, test_utils="test_aot_dispatch_dynamic")


@pytest.mark.failure(79)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_fake_kernels_agree(loss, dtype):
    """Sizes, dtypes and strides for inputs that are not contiguous, channels-last and expanded."""
    for shape in ((4, 5, 3), (2, 5, 3, 4)):
        for op, args in all_calls(loss, dtype, shape=shape, reduction="none"):
            for change in (
                lambda a: a,
                lambda a: a.transpose(0, -1).contiguous().transpose(0, -1),
                lambda a: a[..., :1],
            ):
                changed = tuple(change(a) if torch.is_tensor(a) and a.shape == shape else a for a in args)
                if change(torch.empty(shape)).shape == shape:
                    opcheck(op, changed, test_utils="test_faketensor")


def broken(value, what):
    """Other tensors in place of a right one."""
    yield what + " of another dtype", value.to(torch.int32)
    yield what + " of complex dtype", value.to(torch.complex64)
    yield what + " of one more dimension", value.unsqueeze(0)
    if value.numel():
        yield what + " empty", value.new_empty(0)
        yield what + " with more rows", torch.cat([value.reshape(value.shape or (1,))] * 2)
    if value.dim():
        yield what + " as one number", value.new_zeros(())
        yield what + " with fewer rows", value[:-1]


@pytest.mark.failure(63)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bad_tensors_raise(loss):
    """One wrong tensor at a time, in every place of every op: an error, never a result, never a crash."""
    for op, args in all_calls(loss):
        names = [a.name for a in op._schema.arguments]
        alone = sum(torch.is_tensor(a) for a in args) == 1  # any floating-point input is right
        for i, value in enumerate(args):
            if not torch.is_tensor(value) or value.shape == (0, 4):
                continue
            for what, bad in broken(value, names[i]):
                if alone and bad.is_floating_point():
                    continue
                with pytest.raises(RuntimeError):
                    op(*args[:i], bad, *args[i + 1 :])
                    pytest.fail(f"{op}: {what} was accepted")


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bad_numbers_raise(loss):
    for op, args in all_calls(loss):
        for i, argument in enumerate(op._schema.arguments):
            for bad in {"dim": (-1, 2, 10**12), "reduction": (-1, 3, 2**40)}.get(argument.name, ()):
                with pytest.raises(RuntimeError, match=argument.name):
                    op(*args[:i], bad, *args[i + 1 :])


@pytest.mark.failure(2, 3)
@pytest.mark.parametrize("bad", [5, -1, 2**31, 2**63 - 1, -(2**63), -101])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_bad_targets_raise(name, bad):
    """In every op of the chain, not only in the first: a backward op can be called with another target."""
    for loss in (row for row in LOSSES if row.op == name):
        for op, args in all_calls(loss):
            i = [a.name for a in op._schema.arguments].index("target")
            target = args[i].clone()
            target[2] = bad
            with pytest.raises(RuntimeError, match=f"Target {bad} is out of bounds"):
                op(*args[:i], target, *args[i + 1 :])


def test_meta():
    x = torch.randn(3, 4)
    y = ops.mse_loss(x.to("meta"), x.to("meta"), None, None, 1, 0.0)
    assert y.device.type == "meta" and y.shape == ()
