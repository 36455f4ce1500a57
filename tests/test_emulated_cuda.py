"""The CUDA kernels' sources, run on the CPU by an emulator: the same numbers as the CPU's kernels, in any layout."""

import math
import shutil
import warnings
from itertools import product

import pytest
import test_exactness as exactness
import torch
from emulator import build

import torchloss

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]

OURS = torch.ops.torchloss
# Of 16 bits a rounding of the result, which both sides round once; else 450 eps, for both sum thousands of terms in
# other orders, some of which cancel.
EXACT = {torch.float64: 1e-13, torch.float32: 5e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
DTYPES = tuple(EXACT)
NONE, MEAN, SUM, MEAN_OR_ZERO = range(4)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    assert torchloss  # has loaded its library
    torch.ops.load_library(str(build(tmp_path_factory.mktemp("emulated"))))
    return torch.ops.torchloss_emulated


def same(got, expected, dtype, what):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype, what
        a, b = a.double(), b.double()
        scale = b.nan_to_num(0, 0, 0).abs().max().item() if b.numel() else 0
        torch.testing.assert_close(
            a,
            b,
            rtol=EXACT[dtype],
            atol=EXACT[dtype] * (scale / 5 + 0.02),
            equal_nan=True,
            msg=lambda m: f"{what}\n{m}",
        )


def call(ops, name, values):
    """Calls the op with the values that it takes, by name; what is missing is None or the option's default."""
    op = getattr(ops, name).default
    given = (values.get(a.name, a.default_value) for a in op._schema.arguments)
    result = op(*given)
    return result if isinstance(result, tuple) else (result,)


def check(emulated, name, values, dtype, only=slice(None)):
    """Both libraries give the same; returns what the CPU's does."""
    ours, theirs = call(OURS, name, values), call(emulated, name, values)
    what = name, {k: tuple(v.stride()) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    same(theirs[only], ours[only], dtype, what)
    return ours


def layouts(x):
    """The tensor contiguous, with classes that are not adjacent, with misaligned rows, and of every second class."""
    yield x
    yield x.t().contiguous().t()
    wide = torch.zeros(x.shape[0], x.shape[1] + 3, dtype=x.dtype)
    wide[:, 1:-2] = x
    yield wide[:, 1:-2]
    steps = torch.zeros(x.shape[0], 2 * x.shape[1], dtype=x.dtype)
    steps[:, ::2] = x
    yield steps[:, ::2]


def copy(x):
    """A copy of the same strides."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).copy_(x)


SHAPES = ((1, 1), (3, 2), (70, 10), (5, 33), (4, 100), (6, 257), (3, 1000), (2, 4099), (3, 2048))
SCALED = {"z_loss": 0.02, "logit_scale": 0.7}
CAPPED = {"z_loss": 0.02, "logit_scale": 1.3, "softcap": 3.0}


def row_calls(x, dtype):
    """Losses, and what they take."""
    rows, classes = x.shape
    index, w = torch.randint(classes, (rows,)), torch.rand(classes).to(dtype) + 0.1
    if rows > 3:
        index[::3] = -100
    q, z = torch.rand(rows, classes).softmax(1).to(dtype), torch.randn(rows, classes).to(dtype) * 4
    base = {"input": x, "dim": 1, "ignore_index": -100}
    for weight, smoothing in product((None, w), (0.0, 0.1)):
        options = {"target": index, "weight": weight, "label_smoothing": smoothing}
        yield "cross_entropy", base | options
        yield "cross_entropy", base | options | (SCALED if weight is None else CAPPED)
    yield "nll_loss", base | {"target": index, "weight": w}
    yield "logit_stats", base | {"target": index}
    for options in ({}, {"weight": w, "label_smoothing": 0.1}, SCALED, CAPPED):
        yield "cross_entropy_probs", base | {"target": q} | options
    yield "entropy", base | {"input": x.float().softmax(1).to(dtype), "base": 2.0}
    for options in ({}, SCALED, CAPPED):
        yield "softmax_entropy", base | options
        yield "kl_div_with_logits", base | {"target": z, "temperature": 1.5} | options
        yield "logit_stats", base | {"target": index} | {k: v for k, v in options.items() if k != "z_loss"}


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_of_rows(shape, dtype, emulated):
    torch.manual_seed(0)
    for x in layouts((torch.randn(shape) * 4).to(dtype)):
        for name, values in row_calls(x, dtype):
            check_row_loss(emulated, name, values, dtype)


def check_row_loss(emulated, name, values, dtype, reductions=(NONE, MEAN, SUM, MEAN_OR_ZERO)):
    several = name == "logit_stats"
    for reduction in (NONE,) if several else reductions:
        loss, saved, _ = check(emulated, name, values | {"reduction": reduction}, dtype, slice(0, 3, 2))
        if reduction in (MEAN, MEAN_OR_ZERO):
            continue  # derivatives know no mean
        values = values | {"saved": saved, "grad": torch.randn(loss.shape, dtype=saved.dtype)}
        target = values.get("target")
        differentiable = target is not None and target.is_floating_point()
        for target_grad in {False, differentiable}:
            check(emulated, name + "_backward", values | {"target_grad": target_grad}, dtype)
        if dtype.itemsize > 2 and not values.get("softcap"):  # of two bytes the sums cancel to other roundings
            h = torch.randn(values["input"].shape).to(dtype)
            k = torch.randn(target.shape).to(dtype) if differentiable else None
            check(emulated, name + "_double_backward", values | {"h": h, "k": k}, dtype)


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_in_forward(shape, dtype, emulated):
    """In memory of its own, over the input, and for another gradient from above afterwards."""
    torch.manual_seed(0)
    for x in layouts((torch.randn(shape) * 4).to(dtype)):
        for name, values in row_calls(x, dtype):
            if hasattr(OURS, name + "_with_gradient"):
                for row_weight in (None, weights_of_rows(shape[0], dtype)):
                    check_gradient_in_forward(emulated, name, values | {"row_weight": row_weight}, dtype)


def weights_of_rows(rows, dtype):
    w = torch.rand(rows, dtype=torch.promote_types(dtype, torch.float32)) * 3
    w[1::4] = 0
    return w


def check_gradient_in_forward(emulated, name, values, dtype):
    x, wide = values["input"], torch.promote_types(dtype, torch.float32)
    reductions = {
        MEAN: None,
        SUM: None,
        MEAN_OR_ZERO: None,
        "int": torch.tensor(7),
        "double": torch.tensor(0.3).double(),
    }
    for reduction, normalizer in reductions.items():
        config = values | {"reduction": reduction if normalizer is None else MEAN, "normalizer": normalizer}
        loss, saved, total, gradient = check(emulated, name + "_with_gradient", config, dtype, slice(0, 4, 2))
        got = call(emulated, name + "_with_gradient", config)[3]
        same((got,), (gradient,), dtype, (name, "gradient", config))
        over = config | {"input": copy(x)}
        loss_, _, total_ = call(emulated, name + "_with_gradient_", over)
        same((loss_, total_, over["input"]), (loss, total, gradient), dtype, (name, "over the input", config))
        divisor = None if reduction == SUM else total
        for into in (gradient.clone(), copy(x)):
            after = values | {"saved": saved, "total": divisor, "grad": torch.tensor(0.7, dtype=wide)}
            after |= {"grad_input": into, "input": x if into is not x else into}
            call(emulated, name + "_backward_into", after | {"holds_gradient": True})
            same((into,), ((gradient.double() * 0.7).to(dtype),), dtype, (name, "into", config))
        over = values | {"saved": saved, "total": divisor, "grad": torch.tensor(1.0, dtype=wide)}
        over["input"] = over["grad_input"] = copy(x)
        call(emulated, name + "_backward_into", over)
        same((over["input"],), (gradient,), dtype, (name, "into the input", config))
        call(emulated, name + "_backward_into", over | {"holds_gradient": True})
        same((over["input"],), (gradient,), dtype, (name, "unless the gradient is 1", config))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("classes", (16384, 20003))
def test_rows_that_shared_memory_does_not_hold(classes, dtype, emulated, monkeypatch):
    """Their second reading comes from memory again, some of which has been overwritten."""
    monkeypatch.setenv("EMULATED_SHARED_MEMORY", str(17 << 10))
    torch.manual_seed(0)
    x = (torch.randn(2, classes) * 4).to(dtype)
    for name, values in row_calls(x, dtype):
        check_row_loss(emulated, name, values, dtype, (NONE,))
        if hasattr(OURS, name + "_with_gradient"):
            check_gradient_in_forward(emulated, name, values | {"row_weight": weights_of_rows(2, dtype)}, dtype)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float16), ids=str)
@pytest.mark.parametrize("rows", (0, 1, 100, 33_000))
def test_totals_of_many_rows(rows, dtype, emulated):
    """By the rows' own launch, by another, by two others."""
    torch.manual_seed(0)
    target, w = torch.randint(3, (rows,)), torch.rand(3).to(dtype) + 0.5
    target[::5] = -100
    values = {"input": torch.randn(rows, 3).to(dtype), "target": target, "dim": 1, "ignore_index": -100}
    for weight, row_weight in product((None, w), (None, weights_of_rows(rows, dtype))):
        given = values | {"weight": weight, "row_weight": row_weight}
        for reduction in (MEAN, SUM, MEAN_OR_ZERO):
            for name in ("cross_entropy", "cross_entropy_with_gradient"):
                check(emulated, name, given | {"reduction": reduction}, dtype, slice(0, None, 2))


@each_dtype
def test_nothing_to_divide_by(dtype, emulated):
    """No class, no row that counts: what a mean gives, and a mean that is 0 of nothing."""
    for classes, reduction in product((0, 4), range(4)):
        values = {"input": torch.ones(3, classes, dtype=dtype), "target": torch.full((3,), -100)}
        values |= {"dim": 1, "ignore_index": -100, "reduction": reduction}
        numbers = slice(0, 3, 2)  # an ignored row's saved numbers nobody reads
        check(emulated, "cross_entropy", values, dtype, numbers)
        if reduction != NONE:
            check(emulated, "cross_entropy_with_gradient", values, dtype, numbers)
            check(emulated, "cross_entropy_with_gradient", values, dtype, slice(3, None))
        values["target"] = torch.ones(3, classes, dtype=dtype)
        check(emulated, "cross_entropy_probs", values, dtype, numbers)


@each_dtype
@pytest.mark.parametrize("kind", (*DTYPES, torch.int64, torch.int32), ids=str)
def test_normalizers(kind, dtype, emulated):
    values = {"input": torch.randn(3, 5).to(dtype), "target": torch.tensor([0, 1, 2]), "dim": 1, "ignore_index": -100}
    n = torch.tensor(100).to(kind)
    total = call(emulated, "cross_entropy_with_gradient", values | {"reduction": MEAN, "normalizer": n})[2]
    assert total.double().item() == n.double().item()


def test_a_sum_beyond_the_largest_number(emulated):
    """It may have a mean, and a quotient by a normalizer."""
    x = torch.zeros(2, 2)
    x[:, 0] = 3e38
    values = {"input": x, "target": torch.ones(2, dtype=torch.int64), "dim": 1, "ignore_index": -100}
    values |= {"reduction": MEAN}
    for n in (None, torch.tensor(4.0)):
        loss = call(emulated, "cross_entropy_with_gradient", values | {"normalizer": n})[0]
        torch.testing.assert_close(loss.item(), 3e38 if n is None else 1.5e38, rtol=1e-6, atol=0)


@each_dtype
@pytest.mark.parametrize("bad", (-1, 10, 2**40))
def test_bad_targets(bad, dtype, emulated):
    """Nobody waits for the GPU to learn of them: their rows, and what is formed of all rows, are NaN."""
    x, target = torch.randn(4, 10).to(dtype), torch.tensor([1, bad, -100, 4])
    for name in ("cross_entropy", "nll_loss", "logit_stats"):
        values = {"input": x, "target": target, "dim": 1, "ignore_index": -100, "reduction": NONE, "softcap": 0.0}
        loss, saved, total = call(emulated, name, values)
        nan = [False, True, False, False]
        assert loss.isnan().view(-1, 4).any(0).tolist() == nan and total.isnan()
        backward = values | {"saved": saved, "grad": torch.ones_like(loss)}
        assert call(emulated, name + "_backward", backward)[0].isnan().any(1).tolist() == nan
    over = values | {"input": x.clone(), "reduction": MEAN, "softcap": 2.0}
    assert call(emulated, "cross_entropy_with_gradient_", over)[0].isnan()
    assert over["input"].isnan().all(1).tolist() == [True, True, False, True]  # divided by the total


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ("softmax", "log_softmax"))
def test_maps_of_rows(name, shape, dtype, emulated):
    torch.manual_seed(0)
    for x in layouts((torch.randn(shape) * 4).to(dtype)):
        (y,) = check(emulated, name, {"input": x, "dim": 1}, dtype)
        values = {"output": y, "grad": torch.randn(shape).to(dtype), "h": torch.randn(shape).to(dtype), "dim": 1}
        check(emulated, name + "_backward", values, dtype)
        if dtype.itemsize > 2:
            check(emulated, name + "_double_backward", values, dtype)


@each_dtype
def test_images(dtype, emulated):
    torch.manual_seed(0)
    for shape in ((2, 5, 3, 7), (2, 21, 16, 16), (2, 5, 3, 4, 3)):
        x, y = torch.randn(shape).to(dtype), torch.randint(shape[1], (shape[0], *shape[2:]))
        if len(shape) > 4:  # every second place: nothing of its layout merges
            x = torch.randn(2, 5, 5, 8, 3).to(dtype)[:, :, 1:4, ::2]
        values = {"input": x, "target": y, "dim": 1, "ignore_index": -100}
        for name, options in product(("cross_entropy", "logit_stats"), ({}, {"softcap": 2.0})):
            check_row_loss(emulated, name, values | options, dtype, (NONE, MEAN))
        row_weight = weights_of_rows(y.numel(), dtype).view(y.shape)
        check_gradient_in_forward(emulated, "cross_entropy", values | {"row_weight": row_weight}, dtype)


POINTWISE = {
    "l1_loss": {},
    "mse_loss": {},
    "huber_loss": {"delta": 0.3},
    "smooth_l1_loss": {"beta": 0.3},
    "kl_div": {},
    "kl_div_log_target": {},
    "binary_cross_entropy": {},
    "binary_cross_entropy_with_logits": {},
}


@each_dtype
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name, dtype, emulated):
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    for size, first, reduction in product((0, 1, 7, 1000, 70001), (0, 1), (NONE, MEAN, SUM, MEAN_OR_ZERO)):
        if size > 1000 and reduction in (SUM, MEAN_OR_ZERO):
            continue
        x, t, w = ((torch.rand(size + 1) * 0.98 + 0.01).to(dtype)[first : size + first] for _ in range(3))
        for weight in (None, w):
            values = POINTWISE[name] | {"input": x, "target": t, "weight": weight, "reduction": reduction}
            check(emulated, name, values, dtype)
            grad = torch.randn(size).to(dtype) if reduction == NONE else torch.randn((), dtype=wide)
            check_derivatives(emulated, name, values | {"grad": grad}, dtype)


def check_derivatives(emulated, name, values, dtype):
    x = values["input"]
    for target_grad, count in ((False, 7.0), (True, 1.0)):
        check(emulated, name + "_backward", values | {"target_grad": target_grad, "count": count}, dtype)
    if dtype.itemsize > 2 and x.numel() < 5000:
        h, k = (torch.randn(x.shape).to(dtype) for _ in range(2))
        for cotangents in ({"h": h}, {"k": k}, {"h": h, "k": k}):
            check(emulated, name + "_double_backward", values | cotangents, dtype)


@each_dtype
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_in_another_order(name, dtype, emulated):
    """Tensors whose dimensions do not merge, and one number that stands for many."""
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def numbers(*shape):
        return (torch.rand(shape) * 0.98 + 0.01).to(dtype)

    x = numbers(3, 5, 4, 12)[:, ::2, :, ::2].transpose(0, 2)
    for t in (numbers(4, 3, 3, 6), numbers(3, 1, 6).expand(4, 3, 3, 6)):
        values = POINTWISE[name] | {"input": x, "target": t, "weight": numbers(6, 3, 3, 4).transpose(0, 3)}
        for reduction in (NONE, MEAN):
            grad = torch.randn(()).to(wide) if reduction else torch.randn(6, 3, 4, 3).to(dtype).permute(2, 1, 3, 0)
            check(emulated, name, values | {"reduction": reduction}, dtype)
            check_derivatives(emulated, name, values | {"grad": grad}, dtype)


@pytest.fixture
def instead(emulated):
    """The emulated ops stand in for the CPU's."""
    library, space = torch.library.Library("torchloss", "IMPL"), emulated.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these ops are there already
        for name in torch._C._dispatch_get_all_op_names():
            if name.startswith(space + "::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU"):
                short = name.removeprefix(space + "::")
                library.impl(short, getattr(emulated, short).default, "CPU", allow_override=True)
    yield
    library._destroy()


@each_dtype
@pytest.mark.parametrize("kind", exactness.KINDS)
@pytest.mark.parametrize("name", exactness.ROWWISE)
def test_rows_are_exact(name, kind, dtype, instead):
    exactness.sweep(name, dtype, exactness.KINDS[kind], "cpu", (2, 33, 1000)).report()


@each_dtype
@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_binary_is_exact(target, weight, dtype, instead):
    exactness.test_binary(target, weight, dtype, "cpu")


CAPS = (0.5, 30.0, 50.0)


@each_dtype
@pytest.mark.parametrize("cap", CAPS)
def test_softcap(cap, dtype, emulated):
    """Against tanh in float64: a logit, capped, is off by a few units of the cap's rounding."""
    x = torch.tensor([0, 1e-3, 0.1, 1, 5, 20, 80, 300, math.inf], dtype=torch.float64)
    x = torch.cat([x, -x]).to(dtype)
    unit = {torch.float64: 2.0**-52, torch.float32: 2.0**-23}.get(dtype, 2.0**-20)
    rows = torch.zeros(len(x), 2, dtype=dtype)
    rows[:, 0] = x
    values = {"input": rows, "target": torch.zeros(len(x), dtype=torch.int64), "dim": 1, "ignore_index": -100}
    value, saved, _ = call(emulated, "logit_stats", values | {"softcap": cap})
    capped = cap * (x.double() / cap).tanh()
    expected = torch.nn.functional.logsigmoid(capped)
    torch.testing.assert_close(value[0].double(), expected, rtol=4 * unit, atol=4 * unit * cap)
    grad = torch.zeros_like(value)
    grad[1] = 1  # of the lse: p_j times the slope
    got = call(emulated, "logit_stats_backward", values | {"softcap": cap, "saved": saved, "grad": grad})[0][:, 0]
    slope = 4 * torch.exp(-2 * x.double().abs() / cap) / (1 + torch.exp(-2 * x.double().abs() / cap)) ** 2
    rounding = max(unit * (8 + 4 * cap), torch.finfo(dtype).eps)
    small = torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(got.double(), slope * capped.sigmoid(), rtol=rounding, atol=small)
