"""What is summed or divided is rounded once: loss, gradients and theirs, of 16-bit numbers, batched by vmap or not."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vjp, vmap

import torchloss.functional as T
from torchloss.testing.checks.precision import one_rounding
from torchloss.testing.losses import EVERY, function

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
each_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
each_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
of_elements_or_rows = pytest.mark.parametrize("loss", [loss for loss in EVERY if loss.family != "map"], ids=str)
REGRESSION = [("l1_loss", {}), ("mse_loss", {}), ("huber_loss", {"delta": 0.7}), ("smooth_l1_loss", {"beta": 0.7})]
CANCELLED = 2**-20  # float32's roundings of terms of the size of 1, of which a sum may be small
BINARY = ["binary_cross_entropy", "binary_cross_entropy_with_logits"]


def numbers(kind, shape, seed, dtype=torch.float64):
    """Numbers that bfloat16 and float16 have both."""
    a = kind(shape, generator=torch.Generator().manual_seed(seed))
    return ((a * 0.9 + 0.05).bfloat16().half() if kind is torch.rand else a.bfloat16().half()).to(dtype)


def normal(*shape, dtype):
    return numbers(torch.randn, shape, len(shape), dtype).requires_grad_()


def unit(*shape, dtype):
    return numbers(torch.rand, shape, len(shape), dtype).requires_grad_()


def derivatives(f, args):
    """The value, the gradients, and the gradients of each of these: in the tensors, and in the gradient from above."""
    y = f(*args)
    leaves = [a for a in args if a.requires_grad]
    above = numbers(torch.rand, y.shape, 5, y.dtype).requires_grad_()
    grads = torch.autograd.grad(y, leaves, above, create_graph=True)
    found = [y, *grads]
    for g in grads:
        if g.requires_grad:
            v = numbers(torch.randn, g.shape, 7, g.dtype)
            found += torch.autograd.grad(g, [*leaves, above], v, retain_graph=True, allow_unused=True)
    return found


def check_one_rounding(ours, reference, *args, results=derivatives):
    exact = [a.detach().double().requires_grad_(a.requires_grad) if a.is_floating_point() else a for a in args]
    found, right = results(ours, args), results(reference, exact)
    for i, (a, b) in enumerate(zip(found, right, strict=True)):
        if a is None or b is None:
            assert not any(g is not None and g.any() for g in (a, b))
            continue
        off = (a.double() - b).abs() > one_rounding(a, b) + CANCELLED
        assert not off.any(), f"result {i}: {a[off]}, exactly {b[off]}"


def tangents(f, args):
    """Of the value and of its gradients, with a tangent of every leaf and of the gradient from above."""
    leaves = [a.detach() for a in args if a.requires_grad]

    def of_leaves(*some):
        some = iter(some)
        return f(*(next(some) if a.requires_grad else a for a in args))

    def both(above, *some):
        y, pull = vjp(of_leaves, *some)
        return y, *pull(above)

    y = f(*args)
    along = [numbers(torch.randn, a.shape, i, a.dtype) for i, a in enumerate((y, *leaves))]
    return jvp(both, (numbers(torch.rand, y.shape, 5, y.dtype), *leaves), tuple(along))[1]


def huber(x, t, reduction, delta=1.0):
    return delta * F.smooth_l1_loss(x, t, reduction=reduction, beta=delta)


def reference_of(loss):
    """torch's, with a gradient of the weight, and of Huber's loss in forward mode over reverse mode."""
    if loss.name not in (*BINARY, "huber_loss"):
        return loss.reference
    each = getattr(F, loss.name) if loss.name in BINARY else huber

    def weighted(x, t, reduction, weight=1, normalizer=None, **options):
        terms = each(x, t, reduction="none", **options) * weight
        if normalizer is not None:
            return terms.sum() / normalizer
        return terms if reduction == "none" else getattr(terms, reduction)()

    return weighted


WEIGHTS_WITHOUT_GRADIENT = ("nll_loss", "cross_entropy")  # of classes, for an index


def options_of(loss, shape, reduction, dtype):
    """The tensors among a loss's options, as leaves where they have a gradient, and the others."""
    options = loss.options(shape, reduction, dtype)
    if "normalizer" in options:
        options["normalizer"] = torch.tensor(options["normalizer"], dtype=dtype)
    tensors = {k: v for k, v in options.items() if torch.is_tensor(v)}
    for k, v in tensors.items():
        v.requires_grad_(k != "pos_weight" and (k != "weight" or loss.op not in WEIGHTS_WITHOUT_GRADIENT))
    return tensors, {k: v for k, v in options.items() if k not in tensors}


def call(f, names, options, has_target, *args):
    n = 1 + has_target
    return f(*args[:n], **dict(zip(names, args[n:], strict=True)), **options)


def one_by_one(f, dims, *args):
    """vmap as a loop."""
    n = next(len(a) for a, d in zip(args, dims, strict=True) if d == 0)
    return torch.stack([f(*(a if d is None else a[i] for a, d in zip(args, dims, strict=True))) for i in range(n)])


@pytest.mark.failure(96)
@pytest.mark.parametrize("shared", [None, "nothing", "input", "target"])
@of_elements_or_rows
def test_derivatives(loss, shared):
    """By themselves, and under a vmap that shares the weights, or the input or the target: their gradients are sums."""
    shape, dtype = (3, 11), torch.float16 if shared == "nothing" else torch.bfloat16
    samples = [loss.sample(shape, seed) for seed in range(5)]
    x, t = (None if a[0] is None else torch.stack(a) for a in zip(*samples, strict=True))
    if t is None and shared in ("input", "target"):
        pytest.skip("has no target")
    x = x.to(dtype)
    t = t if t is None else t.to(dtype if t.is_floating_point() else t.dtype)
    x, t = x[0] if shared in (None, "input") else x, t[0] if t is not None and shared in (None, "target") else t
    x.requires_grad_()
    if loss.target_grad:
        t.requires_grad_()
    for reduction in loss.reductions[:2] if shared else loss.reductions:
        tensors, options = options_of(loss, shape, reduction, dtype)
        args = [a for a in (x, t) if a is not None]
        dims = [None if shared == "input" else 0, None if shared == "target" else 0][: len(args)] + [None] * len(
            tensors
        )
        ours, reference = (
            functools.partial(call, f, list(tensors), options, t is not None)
            for f in (function(T, loss.name), reference_of(loss))
        )
        if shared:
            ours, reference = vmap(ours, tuple(dims)), functools.partial(one_by_one, reference, dims)
        check_one_rounding(ours, reference, *args, *tensors.values())


@pytest.mark.failure(96)
@of_elements_or_rows
def test_forward_mode(loss):
    """Forward mode, over reverse mode, too: the terms that make a tangent are added before they are rounded."""
    shape, dtype = (3, 11), torch.bfloat16
    x, t = loss.sample(shape)
    args = [a for a in (x.to(dtype).requires_grad_(), t) if a is not None]
    if loss.target_grad:
        args[1] = t.to(dtype).requires_grad_()
    for reduction in loss.reductions:
        tensors, options = options_of(loss, shape, reduction, dtype)
        two = (
            functools.partial(call, f, list(tensors), options, t is not None)
            for f in (function(T, loss.name), reference_of(loss))
        )
        check_one_rounding(*two, *args, *tensors.values(), results=tangents)


@pytest.mark.failure(96)
@each_dtype
@each_reduction
@pytest.mark.parametrize("name, options", [*REGRESSION, ("kl_div", {})])
def test_what_is_broadcast(name, options, reduction, dtype):
    """Its gradient is a sum along what it was expanded over: of unrounded numbers."""
    ours, reference = (functools.partial(getattr(f, name), reduction=reduction, **options) for f in (T, F))
    target = unit if name == "kl_div" else normal
    check_one_rounding(ours, reference, normal(30, 20, dtype=dtype), target(20, dtype=dtype))
    check_one_rounding(ours, reference, normal(20, dtype=dtype), target(30, 20, dtype=dtype))
    if name in ("l1_loss", "mse_loss", "huber_loss"):
        ours, reference = (lambda x, t, w, f=f: f(x, t, weight=w) for f in (ours, reference))
        check_one_rounding(ours, reference, normal(20, dtype=dtype), normal(30, 20, dtype=dtype), unit(20, dtype=dtype))


@pytest.mark.failure(96)
@each_dtype
@each_reduction
@pytest.mark.parametrize("of_weight", [None, torch.float32], ids=["same", "float32"])
@pytest.mark.parametrize("name", BINARY)
def test_weights_that_are_expanded_or_wider(name, of_weight, reduction, dtype):
    """A weight for each class is a parameter like any other, and often in float32."""
    of_weight = of_weight or dtype
    each = getattr(F, name)

    def reference(x, t, w, **pos_weight):
        terms = each(x, t, reduction="none", **pos_weight) * w
        return terms if reduction == "none" else getattr(terms, reduction)()

    def ours(x, t, w, **pos_weight):
        return getattr(T, name)(x, t, weight=w, reduction=reduction, **pos_weight)

    x, t = (unit if name == BINARY[0] else normal)(30, 20, dtype=dtype), unit(30, 20, dtype=dtype)
    for size in ((20,), (30, 1), (30, 20)):
        check_one_rounding(ours, reference, x, t, unit(*size, dtype=of_weight))
    if name == BINARY[1]:
        p = torch.linspace(0.1, 3, 20, dtype=of_weight)
        positive = lambda x, t, w, f: f(x, t, w, pos_weight=p.to(w.dtype if f is reference else p.dtype))  # noqa: E731
        two = (functools.partial(positive, f=f) for f in (ours, reference))
        check_one_rounding(*two, x, t, unit(20, dtype=of_weight))


@pytest.mark.failure(96)
@each_dtype
@pytest.mark.parametrize("legacy", [(None, None), (True, None), (True, False), (False, None)])
def test_batchmean(legacy, dtype):
    """Also of the reduction that the deprecated arguments ask for, as torch divides it, too."""
    ours, reference = (lambda x, t, f=f: f(x, t, *legacy, reduction="batchmean") for f in (T.kl_div, F.kl_div))
    check_one_rounding(ours, reference, normal(7, 20, dtype=dtype), unit(7, 20, dtype=dtype))
    loss = T.kl_div(torch.full((8192, 1), -12.0).half(), torch.ones(8192, 1).half(), *legacy, reduction="batchmean")
    assert legacy != (None, None) or loss == 12  # whose sum is no float16


@pytest.mark.failure(96)
@pytest.mark.parametrize("f", [T.mse_loss, vmap(T.mse_loss)], ids=["alone", "vmap"])
def test_a_sum_beyond_float16(f):
    x = torch.full((1, 1000), 100.0).half()
    assert f(x, torch.zeros_like(x)).item() == 10000


@pytest.mark.failure(96)
def test_a_count_beyond_float16():
    x = torch.full((1, 2**21), 100.0).half()
    g = vmap(grad(T.mse_loss))(x, torch.zeros_like(x))
    assert (g == torch.tensor(200 / 2**21).half()).all() and g.any()


@pytest.mark.failure(96)
def test_the_gradient_of_a_weight_of_many():
    """200 / n, of which neither n nor 1 / n is a float16."""
    n = 3_000_000
    x, w = torch.full((n,), 200.0).half(), torch.ones(n).half().requires_grad_()
    T.binary_cross_entropy_with_logits(x, torch.zeros_like(x), weight=w).backward()
    assert (w.grad == torch.tensor(200 / n).half()).all()


@pytest.mark.failure(96)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", ["grad", "no_grad", "vmap"])
def test_a_sum_beyond_float32(mode, weighted):
    """The mean of losses of rows of 3e38 is 3e38."""
    x, t = torch.tensor([[0.0, 3e38]]).expand(4, 2).clone(), torch.zeros(4, dtype=torch.int64)
    r = torch.ones(4) if weighted else None
    f = lambda x, t: T.cross_entropy(x, t, row_weight=r)  # noqa: E731
    with torch.set_grad_enabled(mode == "grad"):
        loss = vmap(f)(x[None], t[None]) if mode == "vmap" else f(x.requires_grad_(mode == "grad"), t)
    assert loss.item() == x[0, 1]
