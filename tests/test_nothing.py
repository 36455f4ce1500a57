"""Nothing: no batch, no rows, no classes, no elements, no samples of a vmap. docs/failures.md says what comes of it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacrev, vmap

import torchloss.functional as T
from torchloss.testing.losses import DEVICES, EVERY, NEW, class_dim, function

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]
each_device = pytest.mark.parametrize("device", DEVICES)
each_loss = pytest.mark.parametrize("loss", EVERY, ids=str)
SHAPES = [(0,), (0, 5), (4, 0), (0, 0), (2, 0, 3), (2, 5, 0)]


def rows_dim(loss, shape):
    """Which dimension of a loss of rows has the classes."""
    return len(shape) - 1 if loss.family == "map" or loss.name in NEW else class_dim(shape)


def output_shape(loss, shape, reduction):
    if reduction != "none":
        return ()
    if loss.family != "rowwise":
        return shape
    dim = rows_dim(loss, shape)
    values = (3,) if loss.name == "logit_stats" else ()
    return (*shape[:dim], *shape[dim + 1 :], *values)


def nothing_to_average(loss, shape, t):
    """No elements, no rows, or none that count. A row without classes counts, and its loss is 0."""
    if loss.family == "pointwise":
        return 0 in shape
    if t is not None and not t.is_floating_point():
        return not (t != -100).any()
    dim = rows_dim(loss, shape)
    return 0 in (*shape[:dim], *shape[dim + 1 :])


def sample(loss, shape, device="cpu"):
    x, t = loss.sample(shape)
    if t is not None and not t.is_floating_point() and shape[rows_dim(loss, shape)] == 0:
        t = torch.full_like(t, -100)  # there is no class to name
    return x.to(device), t if t is None else t.to(device)


def leaves_of(loss, x, t, reduction, options):
    """Input, target, weights and normalizer, where the loss has a gradient of them; and the call's options."""
    options = loss.options(x.shape, reduction, x.dtype, x.device) | options
    if "normalizer" in options:
        options["normalizer"] = torch.tensor(options["normalizer"], dtype=x.dtype, device=x.device)
    leaves = [x.requires_grad_(), *([t.requires_grad_()] if loss.target_grad else [])]
    for name in ("weight", "row_weight", "normalizer"):
        if name in options and (name != "weight" or loss.op not in ("nll_loss", "cross_entropy")):
            leaves.append(options[name].requires_grad_())
    return leaves, options


def all_derivatives(f, leaves):
    """The value, and all derivatives of first and second order that there are."""
    y = f()
    above = torch.ones_like(y).requires_grad_()
    first = torch.autograd.grad(y, leaves, above, create_graph=True)
    second = []
    for g in first:
        if g.requires_grad:
            second += torch.autograd.grad(g, [*leaves, above], torch.ones_like(g), retain_graph=True, allow_unused=True)
    return y, first, [g for g in second if g is not None]


def calls(loss, reduction):
    """The options that say what is divided by, and what of nothing comes of that."""
    yield {}, "nan" if reduction == "mean" and "normalizer" not in loss.params else "zero"
    if reduction == "mean" and "normalizer" not in loss.params:
        yield {"empty": "zero"}, "zero"
        yield {"normalizer": 2.0}, "zero"


def divides_by_weights(loss, t):
    """Whether a mean of nothing is 0 over a sum of weights, of which 0 / 0 is the derivative, too: as torch's."""
    by_weights = "row_weight" in loss.weights or (loss.name in ("l1_loss", "mse_loss") and loss.weights)
    return by_weights or (t is not None and not t.is_floating_point() and t.numel())


@pytest.mark.failure(97)
@each_device
@each_loss
def test_alone(loss, device):
    """The mean of nothing is NaN, and 0 if that is asked for; sums of nothing are 0, and so are derivatives."""
    f = function(T, loss.name)
    for shape, reduction in itertools.product(SHAPES, loss.reductions):
        for more, mean in calls(loss, reduction):
            x, t = sample(loss, shape, device)
            leaves, options = leaves_of(loss, x, t, reduction, more)
            args = [a for a in (x, t) if a is not None]
            y, first, second = all_derivatives(lambda: f(*args, **options), leaves)  # noqa: B023
            where = f"{shape}, {reduction}, {more}"
            assert y.shape == output_shape(loss, shape, reduction), where
            if mean == "nan" and nothing_to_average(loss, shape, t):
                assert y.isnan(), where
            else:
                assert not y.any(), where
            assert [g.shape for g in first] == [a.shape for a in leaves], where
            if mean == "nan" and divides_by_weights(loss, t):
                continue
            assert not any(g.any() for g in (*first, *second)), where


@pytest.mark.failure(97)
@pytest.mark.parametrize("loss", {(loss.op, *loss.weights): loss for loss in EVERY}.values(), ids=str)
def test_of_a_vmap(loss):
    """No samples give none, whatever is asked of them; samples of nothing give what each gives alone."""
    f = function(T, loss.name)
    for (batch, shape), reduction in itertools.product([(0, (3, 4)), (2, (0, 4)), (2, (3, 0))], loss.reductions):
        x, t = sample(loss, shape)
        options = loss.options(shape, reduction)
        one = [a for a in (x, t) if a is not None]
        g = lambda *a: f(*a, **options)  # noqa: E731, B023
        total = lambda *a: g(*a).sum()  # noqa: E731, B023
        alone = g(*one)
        many = [a.expand(batch, *a.shape) for a in one]
        for dims in ([0, 0], [0, None], [None, 0]) if batch == 0 else ([0, 0],):
            dims = tuple(dims[: len(one)])
            if 0 in dims:
                y = vmap(g, dims)(*(a if d is None else b for a, b, d in zip(one, many, dims, strict=True)))
                assert torch.equal(y.nan_to_num(7), alone.expand(batch, *alone.shape).nan_to_num(7)), (shape, dims)
        for derivative in (hessian(total), jacrev(jacrev(total))) if reduction == loss.reductions[-1] else ():
            found = vmap(derivative)(*many)
            assert found.shape == (batch, *shape, *shape), (shape, reduction)
            assert not found.any()
        for gradient in (vmap(grad(total)), grad(lambda *a: vmap(g)(*a).sum())):  # noqa: B023
            found = gradient(*many)
            assert found.shape == (batch, *shape) and not found.any()


def test_of_vmaps_in_one_another():
    x, t = torch.empty(2, 0, 3, 4), torch.zeros(2, 0, 3, dtype=torch.int64)
    for f, y in ((T.mse_loss, x), (T.cross_entropy, t)):
        for derivative, shape in ((f, ()), (grad(f), (3, 4)), (hessian(f), (3, 4, 3, 4))):
            assert vmap(vmap(derivative))(x, y).shape == (2, 0, *shape)
            assert vmap(vmap(derivative), in_dims=1)(x, y).shape == (0, 2, *shape)


@pytest.mark.failure(97)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_weights_of_classes_for_no_samples(reduction):
    """They are another tensor for each sample, of which there is none."""
    x, w = torch.empty(0, 3, 5), torch.empty(0, 5)
    for t in (torch.empty(0, 3, dtype=torch.int64), torch.empty(0, 3, 5)):
        f = lambda x, t, w: T.cross_entropy(x, t, w, reduction=reduction)  # noqa: E731
        assert vmap(f)(x, t, w).shape == ((0,) if reduction == "mean" else (0, 3))
        assert vmap(f, in_dims=(None, None, 0))(torch.randn(3, 5), t.new_zeros(t.shape[1:]), w).shape[0] == 0
        assert vmap(hessian(lambda x, *rest: f(x, *rest).sum()))(x, t, w).shape == (0, 3, 5, 3, 5)  # noqa: B023
    assert vmap(grad(lambda w, x, t: f(x, t, w).sum()))(w, x, t).shape == (0, 5)


@pytest.mark.failure(97)
def test_ignored_rows_without_classes():
    """A weight for each of no classes, and no row that would ask for one."""
    x, t, w = torch.empty(2, 3, 0), torch.full((2, 3), -100), torch.empty(0)
    for f in (T.cross_entropy, T.nll_loss):
        assert f(x[0], t[0], w).isnan() and vmap(f, in_dims=(0, 0, None))(x, t, w).isnan().all()
        assert f(x[0], t[0], w, row_weight=torch.ones(3), reduction="sum") == 0
        assert f(x[0], t[0], w, row_weight=torch.ones(3)).isnan()
    assert T.count_targets(t, weight=w) == 0


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss"])
def test_weights_of_no_terms(name):
    """Broadcasting with nothing leaves none, but weights whose sum the mean divides by: 0, as in torch."""
    ours, theirs = (
        all_derivatives(lambda f=f, a=a: getattr(f, name)(*a[:2], weight=a[2]), a)
        for f, a in ((f, [torch.ones(n, 3, requires_grad=True) for n in (1, 0, 1)]) for f in (T, F))
    )
    assert ours[0] == theirs[0] == 0
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_weight_expanded_to_nothing(name, reduction):
    x, w = torch.empty(0, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    y, first, second = all_derivatives(
        lambda: getattr(T, name)(x, torch.empty(0, 3), weight=w, reduction=reduction), [x, w]
    )
    assert [g.shape for g in first] == [(0, 3), (3,)]
    assert not any(g.any() for g in (*first, *second))
