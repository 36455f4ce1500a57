"""How exact a loss is: in each dtype, and however far one class leads."""

import math
from collections.abc import Iterator

import torch

from ..kit import Problem, check
from ..trial import Trial
from .values import value_and_gradient

UNIT = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def is_reduced(loss):
    return loss.family != "map"


def only(dtype):
    return lambda p: [dtype] if dtype in p.dtypes else []


def one_rounding(mine, exact):
    """One rounding to the dtype, float32's few inside, and its subnormals."""
    scale = exact.abs().nan_to_num(0, 0, 0)
    top = scale.max() if scale.numel() else 0
    if mine.dtype == torch.float32:
        return 32 * UNIT[torch.float32] * (scale + top)
    return (
        1.01 * UNIT[mine.dtype] * scale
        + 32 * UNIT[torch.float32] * top
        + torch.finfo(mine.dtype).smallest_normal * 2**-10
    )


def rounded(dtype):
    return dict(shapes=[(3, 5), (4, 1000), (4, 10, 6), (3, 20000)], dtypes=only(dtype), tolerance=one_rounding)


@check("precision", **rounded(torch.float32))
def float32(f, x, t):
    """float32: value and gradient are those of float64 but for a few roundings."""
    return value_and_gradient(f, x, t)


@check("precision", **rounded(torch.bfloat16))
def bfloat16(f, x, t):
    """bfloat16: the value is that of float64, rounded once."""
    return f(x, t)


@check("precision", **rounded(torch.float16))
def float16(f, x, t):
    """float16: the value is that of float64, rounded once."""
    return f(x, t)


@check("precision", **rounded(torch.bfloat16), where=is_reduced)
def bfloat16_gradient(f, x, t):
    """bfloat16: the gradient is that of float64, rounded once."""
    return value_and_gradient(f, x, t)[1]


@check("precision", **rounded(torch.float16), where=is_reduced)
def float16_gradient(f, x, t):
    """float16: the gradient is that of float64, rounded once."""
    return value_and_gradient(f, x, t)[1]


@check(
    "precision",
    shapes=[(1024, 100)],
    dtypes=lambda p: [d for d in p.dtypes if d.itemsize == 2],
    where=lambda loss: is_reduced(loss) and not loss.weights,
    tolerance=one_rounding,
)
def sums_of_16_bit_numbers(f, x, t):
    """Sums and means of many 16-bit numbers do not stop growing: only the result is rounded."""
    return f(x, t)


# Exactness: one leads the others, which are equal, by a margin. What comes of it is known in closed form.


def leader(n, m):
    """The loss, and its gradient at the leader and at the last class, by name of the loss and class of the target."""
    small = math.exp(-m)
    rest = (n - 1) * small
    s, log_s = 1 + rest, math.log1p(rest)
    return {
        ("cross_entropy", 0): (log_s, -rest / s, small / s),
        ("cross_entropy", 1): (m + log_s, 1 / s, small / s),
        ("softmax_entropy", None): (log_s + m * rest / s, -m * rest / s**2, m * small / s**2),
        ("log_softmax", None): (-log_s, rest / s, -small / s),
        ("binary_cross_entropy_with_logits", 1.0): (math.log1p(small), *[-small / (1 + small)] * 2),
    }


def margins(p: Problem) -> Iterator[Trial]:
    for m in (0, 1, 10, 17, 30, 80):
        for n in (3, 33, 1000):
            for (name, y), expected in leader(n, m).items():
                for dtype in p.dtypes if name == p.like else ():
                    if dtype == torch.float64 or (name == "log_softmax" and dtype.itemsize == 2):
                        continue  # the closed form is rounded itself; the output is saved rounded
                    yield margin_trial(p, name, y, n, m, dtype, expected)


def margin_trial(p, name, y, n, m, dtype, expected):
    def make():
        x = torch.zeros(1, n, dtype=dtype, device=p.device)
        x[0, 0] = m
        t = None if y is None else torch.tensor([y], device=p.device)
        if isinstance(y, float):
            x, t = x[0, :1].contiguous(), t.to(dtype)
        return x.requires_grad_(), t

    def tolerance(mine, exact):
        allowed = UNIT[mine.dtype] * (8 + m if mine.dtype == torch.float32 else 1.01) * exact.abs()
        return allowed + (2**-25 if mine.dtype == torch.float16 else 0)

    program = exact_of_log_softmax if name == "log_softmax" else exact_at_any_margin
    options = {"dim": 1} if name == "log_softmax" else {"reduction": "sum"}
    where = f"{n} classes, margin {m}, target {y}, {dtype}"
    return Trial(
        program, make, options, lambda _: numbers(expected, name), where=where, dtype=dtype, tolerance=tolerance
    )


def numbers(expected, name=""):
    value, first, last = torch.tensor(expected, dtype=torch.float64)
    return value, first, None if name == "softmax_entropy" else last  # there a difference of numbers near each other


def exact_of_log_softmax(f, x, t):
    y = f(x)[0, 0]
    y.backward()
    return y, x.grad.flatten()[0], x.grad.flatten()[-1]


@check("precision", trials=margins)
def exact_at_any_margin(f, x, t):
    """Loss and gradient are right to rounding however far the right class leads, where torch's round to 0."""
    y = f(x, t)
    y.backward()
    return y, x.grad.flatten()[0], x.grad.flatten()[-1]


def offsets(p: Problem) -> Iterator[Trial]:
    for m in (0, 1, 10):
        for n in (3, 1000):
            for (name, y), expected in leader(n, m).items():
                if name == p.like and name != "binary_cross_entropy_with_logits" and torch.float32 in p.dtypes:
                    yield offset_trial(p, name, y, n, m, expected)


def offset_trial(p, name, y, n, m, expected):
    def make():
        x = torch.full((1, n), 1e6, dtype=torch.float32, device=p.device)
        x[0, 0] += m
        return x.requires_grad_(), None if y is None else torch.tensor([y], device=p.device)

    options = {"dim": 1} if name == "log_softmax" else {"reduction": "sum"}
    where = f"{n} classes, margin {m}, target {y}, all logits + 1e6"
    program = exact_of_log_softmax if name == "log_softmax" else common_offset
    tolerance = lambda mine, exact: 2e-6 * (1 + exact.abs())  # noqa: E731  # torch's too
    return Trial(
        program, make, options, lambda _: numbers(expected), where=where, dtype=torch.float32, tolerance=tolerance
    )


@check("precision", trials=offsets)
def common_offset(f, x, t):
    """A million added to every logit changes nothing."""
    y = f(x, t)
    y.backward()
    return y, x.grad.flatten()[0], x.grad.flatten()[-1]
