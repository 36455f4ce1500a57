"""The registered operators themselves, called raw: each is a security boundary and trusts no argument."""

import pytest
import torch
from op_calls import OVER_INPUTS, all_calls, arguments, of, ops, registered, written
from op_rules import SIZES
from torch.library import opcheck

from torchloss.testing.losses import DEVICES, DTYPES, EVERY

WITH_GRADIENT = ("cross_entropy", "cross_entropy_probs", "softmax_entropy", "kl_div_with_logits")


def test_every_op_has_a_row():
    expected = {loss.op + s for loss in EVERY for s in ("", "_backward", "_double_backward")}
    expected |= {name + s for name in WITH_GRADIENT for s in OVER_INPUTS}
    assert registered() == expected | {name + "_sizes" for name in SIZES}


def test_sizes():
    assert {name: of(name, "_sizes")() for name in SIZES} == SIZES


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.failure(61, 79)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", EVERY, ids=str)
@pytest.mark.filterwarnings("ignore")  # of torch's own tracing
def test_opcheck(loss, device):
    for reduction in loss.reductions:
        for op, args in all_calls(loss, device=device, reduction=reduction):
            in_python = op._opname.endswith("_double_backward") and "softcap" in loss.params
            opcheck(op, args, test_utils=CHECKS[in_python:])  # of torch's own x.to(dtype), too, it wants a copy
        # Where gradients are wanted too; the last op of a chain refuses to be differentiated.
        for op, args in all_calls(loss, device=device, reduction=reduction, requires_grad=True)[:2]:
            opcheck(op, args, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
            out = op(*args)
            out = out if torch.is_tensor(out) else out[0]
            assert out.requires_grad, f"{op} silently lost its gradient"


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_aot_dispatch_of_the_loss(loss):
    op, args = all_calls(loss, requires_grad=True)[0]
    opcheck(op, args, test_utils="test_aot_dispatch_dynamic")


@pytest.mark.failure(79)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", EVERY, ids=str)
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


def refuses(op, args, otherwise, match=None):
    """An error, and nothing written."""
    before = [args[i].clone() for i in written(op)]
    with pytest.raises(RuntimeError, match=match):
        op(*args)
        pytest.fail(otherwise)
    assert all(torch.equal(args[i], a) for i, a in zip(written(op), before, strict=True))


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
@pytest.mark.parametrize("loss", EVERY, ids=str)
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
                if names[i] == "normalizer" and bad.dtype is torch.int32:
                    continue
                refuses(op, (*args[:i], bad, *args[i + 1 :]), f"{op}: {what} was accepted")


@pytest.mark.parametrize("loss", EVERY, ids=str)
def test_bad_numbers_raise(loss):
    for op, args in all_calls(loss):
        reductions = (-1, 4, 2**40, *[0] * ("_with_gradient" in op._opname))
        for i, argument in enumerate(op._schema.arguments):
            for bad in {"dim": (-1, 2, 10**12), "reduction": reductions}.get(argument.name, ()):
                refuses(op, (*args[:i], bad, *args[i + 1 :]), f"{op}: {argument.name} {bad}", argument.name)


@pytest.mark.failure(2, 3)
@pytest.mark.parametrize("bad", [5, -1, 2**31, 2**63 - 1, -(2**63), -101])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "logit_stats"])
def test_bad_targets_raise(name, bad):
    """In every op of the chain, not only in the first: a backward op can be called with another target."""
    for loss in (row for row in EVERY if row.op == name):
        for op, args in all_calls(loss):
            i = [a.name for a in op._schema.arguments].index("target")
            target = args[i].clone()
            target[2] = bad
            args = (*args[:i], target, *args[i + 1 :])
            refuses(op, args, f"{op}: {bad} was accepted", f"Target {bad} is out of bounds")


@pytest.mark.parametrize("suffix", ["", "_backward", "_double_backward", *OVER_INPUTS])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "logit_stats"])
def test_bad_targets_raise_where_there_are_no_classes(name, suffix):
    op, (saved, values) = of(name, suffix), SIZES[name]
    have = {"input": torch.zeros(3, 0), "target": torch.tensor([-100, 0, -100]), "dim": 1, "ignore_index": -100}
    have |= {"reduction": 1, "saved": torch.zeros(saved, 3), "grad": torch.zeros((values, 3)[values == 1 :])}
    if op is not None:
        have["grad_input"] = have["input"].clone()
        refuses(op, arguments(op, have), f"{op} accepted it", "Target 0 is out of bounds")


# The ops that write over an argument, and those that take the gradient with the loss

OVER = [loss for loss in EVERY if loss.op in WITH_GRADIENT]


def raw(loss, suffix, shape=(4, 5), reduction="mean"):
    """An op, and the arguments of a right call by name."""
    op, args = next(c for c in all_calls(loss, shape=shape, reduction=reduction) if c[0]._opname == loss.op + suffix)
    return op, dict(zip([a.name for a in op._schema.arguments], args, strict=True))


@pytest.mark.parametrize("shape", [(4, 5), (5, 300)], ids=str)
@pytest.mark.parametrize("loss", OVER, ids=str)
def test_they_give_what_the_chain_gives(loss, shape):
    """The loss and its gradient, wherever it goes; and what the last one asks for."""
    for reduction in loss.reductions[-2:]:
        op, have = raw(loss, "_with_gradient", shape, reduction)
        value, saved, total, gradient = op(**have)
        x, t = (a.clone() if torch.is_tensor(a) else a for a in (have["input"], have.get("target")))
        right = loss.ours(x.requires_grad_(), t, reduction)
        right.backward()
        torch.testing.assert_close(value, right.detach())
        torch.testing.assert_close(gradient, x.grad, rtol=2e-5, atol=1e-7)

        op, have = raw(loss, "_with_gradient_", shape, reduction)
        for a, b in zip((*op(**have), have["input"]), (value, saved, total, gradient), strict=True):
            assert torch.equal(a, b)

        op, have = raw(loss, "_backward_into", shape, reduction)
        divides = reduction == "mean" or "normalizer" in loss.params
        have |= {"grad": torch.tensor(0.5), "total": total if divides else None}
        for over in (have["grad_input"], have["input"]):
            op(**have | {"grad_input": over})
            torch.testing.assert_close(over, gradient / 2, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("loss", OVER, ids=str)
def test_a_gradient_that_is_there_already_stays_where_the_one_from_above_is_1(loss):
    for grad, holds in ((1.0, True), (1.0, False), (0.5, True)):
        op, have = raw(loss, "_backward_into")
        before = have["grad_input"].clone()
        op(**have | {"grad": torch.tensor(grad), "holds_gradient": holds})
        assert torch.equal(have["grad_input"], before) == (grad == 1 and holds)


PLACES = {
    "expanded": torch.zeros(1, 5).expand(4, 5),
    "overlapping": torch.zeros(100).as_strided((4, 5), (4, 1)),
}
BOTH = torch.zeros(5, 5)
NORMALIZERS = {
    "of a sum": {"normalizer": torch.ones(()), "reduction": 2},
    "of a mean that may be of nothing": {"normalizer": torch.ones(()), "reduction": 3},
    "of a byte": {"normalizer": torch.ones((), dtype=torch.uint8), "reduction": 1},
}
SPOILED = {
    "_backward_into": {
        **{k: {"grad_input": v} for k, v in PLACES.items()},
        "over a part of the input": {"input": BOTH[:4], "grad_input": BOTH[1:]},
        "over the numbers of the rows": {"input": BOTH[:4], "grad_input": BOTH[:4], "grad": BOTH[0, 0]},
        "a gradient for each row, which is there": {"holds_gradient": True, "grad": torch.ones(4)},
    },
    "_with_gradient_": {**{k: {"input": v} for k, v in PLACES.items()}, **NORMALIZERS},
    "_with_gradient": NORMALIZERS,
}


@pytest.mark.parametrize("suffix, what", [(s, what) for s in SPOILED for what in SPOILED[s]])
@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_a_bad_call_writes_nothing(name, suffix, what):
    op, have = raw(next(loss for loss in OVER if loss.op == name), suffix)
    refuses(op, tuple((have | SPOILED[suffix][what]).values()), f"{op} accepted it")


def test_meta():
    x = torch.randn(3, 4)
    y = ops.mse_loss(x.to("meta"), x.to("meta"), None, 1)
    assert y.device.type == "meta" and y.shape == ()
