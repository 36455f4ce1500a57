"""The CUDA kernels' sources, run on the CPU by an emulator: the same numbers as the CPU's kernels, in any layout."""

import math
import shutil
import warnings
from itertools import product

import pytest
import test_exactness as exactness
import torch
from emulator import build

from torchloss.autograd import CrossEntropyFunction

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]

OURS = torch.ops.torchloss
# Of 16 bits a rounding of the result, which both sides round once; else 450 eps, for both sum thousands of terms in
# other orders, some of which cancel.
EXACT = {torch.float64: 1e-13, torch.float32: 5e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
DTYPES = tuple(EXACT)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    torch.ops.load_library(str(build(tmp_path_factory.mktemp("emulated"))))
    return torch.ops.torchloss_emulated


def same(got, expected, dtype, what):
    for a, b in zip(got, expected, strict=True):
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


SHAPES = ((1, 1), (3, 2), (70, 10), (5, 33), (4, 100), (6, 257), (3, 1000), (2, 4099), (3, 2048))


def row_calls(x, dtype):
    rows, classes = x.shape
    index, w = torch.randint(classes, (rows,)), torch.rand(classes).to(dtype) + 0.1
    if rows > 3:
        index[::3] = -100
    q, z = torch.rand(rows, classes).softmax(1).to(dtype), torch.randn(rows, classes).to(dtype) * 4
    for weight, smoothing in product((None, w), (0.0, 0.1)):
        yield "cross_entropy", x, index, weight, smoothing
    yield "nll_loss", x, index, w, 0.0
    yield "cross_entropy_probs", x, q, None, 0.0
    yield "cross_entropy_probs", x, q, w, 0.1
    yield "softmax_entropy", x, None, None, 0.0
    yield "entropy", x.float().softmax(1).to(dtype), None, None, math.e
    yield "kl_div_with_logits", x, z, None, 1.5


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_of_rows(shape, dtype, emulated):
    torch.manual_seed(0)
    for x in layouts((torch.randn(shape) * 4).to(dtype)):
        for (name, *tensors, parameter), reduction in product(row_calls(x, dtype), (0, 1, 2)):
            check_row_loss(emulated, name, tensors, reduction, parameter, dtype)


def check_row_loss(emulated, name, tensors, reduction, parameter, dtype):
    what, config = (name, tuple(tensors[0].stride()), reduction, parameter), (1, reduction, -100, parameter)
    loss, stats, total = getattr(OURS, name)(*tensors, *config)
    got = getattr(emulated, name)(*tensors, *config)
    same((got[0], got[2]), (loss, total), dtype, what)
    x, target = tensors[:2]
    grad = torch.randn(loss.shape).to(dtype)
    differentiable = target is not None and target.is_floating_point()
    backward = [grad, *tensors, stats, total, *config]
    for target_grad in {False, differentiable}:
        ours, theirs = (getattr(ops, name + "_backward")(*backward, target_grad) for ops in (OURS, emulated))
        same(theirs, ours, dtype, what)
    h = torch.randn(x.shape).to(dtype)
    k = torch.randn(x.shape).to(dtype) if differentiable else None
    if dtype.itemsize > 2:  # of two bytes the sums cancel to other roundings
        ours, theirs = (getattr(ops, name + "_double_backward")(h, k, *backward) for ops in (OURS, emulated))
        same(theirs, ours, dtype, what)


@each_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ("softmax", "log_softmax"))
def test_maps_of_rows(name, shape, dtype, emulated):
    torch.manual_seed(0)
    for x in layouts((torch.randn(shape) * 4).to(dtype)):
        y, got = getattr(OURS, name)(x, 1), getattr(emulated, name)(x, 1)
        same((got,), (y,), dtype, name)
        g = torch.randn(shape).to(dtype)
        ours, theirs = (getattr(ops, name + "_backward")(g, y, 1) for ops in (OURS, emulated))
        same((theirs,), (ours,), dtype, name)


@each_dtype
def test_images(dtype, emulated):
    torch.manual_seed(0)
    for shape in ((2, 5, 3, 7), (2, 21, 16, 16)):
        x, y = torch.randn(shape).to(dtype), torch.randint(shape[1], (shape[0], *shape[2:]))
        for reduction in (0, 1):
            check_row_loss(emulated, "cross_entropy", (x, y, None), reduction, 0.0, dtype)


POINTWISE = {"l1_loss": 0.0, "mse_loss": 0.0, "huber_loss": 0.3, "smooth_l1_loss": 0.3, "kl_div": 0.0}
POINTWISE |= {"binary_cross_entropy": 0.0, "binary_cross_entropy_with_logits": 0.0}


@each_dtype
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(name, dtype, emulated):
    torch.manual_seed(0)
    parameter = POINTWISE[name]
    for size, first, reduction in product((0, 1, 7, 1000, 70001), (0, 1), (0, 1, 2)):
        x, t, w = ((torch.rand(size + 1) * 0.98 + 0.01).to(dtype)[first : size + first] for _ in range(3))
        for weight in (None, w):
            what, args = (name, size, first, reduction), (x, t, weight, None, reduction, parameter)
            loss = getattr(OURS, name)(*args)
            same((getattr(emulated, name)(*args),), (loss,), dtype, what)
            grad = torch.randn(loss.shape).to(dtype)
            for target_grad in (False, True):
                ours, theirs = (getattr(ops, name + "_backward")(grad, *args, target_grad) for ops in (OURS, emulated))
                same(theirs, ours, dtype, what)


@pytest.fixture
def instead(emulated, monkeypatch):
    """The emulated ops stand in for the CPU's."""
    library, space = torch.library.Library("torchloss", "IMPL"), emulated.name
    monkeypatch.setattr(CrossEntropyFunction, "early", None)
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
