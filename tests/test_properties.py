"""What must hold for any input, tried on generated ones. HYPOTHESIS_PROFILE=long tries many more, drawn at random."""

import math
import os
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchloss import functional as L

# Health checks measure time, of a machine that may be busy.
EITHER = {
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("fast", derandomize=True, max_examples=50, **EITHER)
settings.register_profile("long", max_examples=1000, **EITHER)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

INF, NAN = math.inf, math.nan
SPECIAL = (INF, -INF, NAN, 0.0, -0.0, 5e-324, 1e-310, 1e-40, 65504.0, 1e30, -1e30)
EPS = torch.finfo(torch.float64).eps
REDUCTIONS = st.sampled_from(("none", "mean", "sum"))
SMOOTHING = st.sampled_from((0.0, 0.1, 1.0))

tame = st.floats(-20, 20, allow_subnormal=False)
wild = st.one_of(tame, st.sampled_from(SPECIAL))
unit = st.floats(0.01, 0.99)


def drawn(draw, numbers, shape) -> Tensor:
    """Half the time without special numbers, beside which nothing else is seen."""
    numbers = draw(st.sampled_from((tame, wild))) if numbers is wild else numbers
    n = math.prod(shape)
    return torch.tensor(draw(st.lists(numbers, min_size=n, max_size=n)), dtype=torch.float64).reshape(shape)


@st.composite
def tensors(draw, numbers=tame, rows=(0, 5), classes=(1, 6)) -> Tensor:
    return drawn(draw, numbers, (draw(st.integers(*rows)), draw(st.integers(*classes))))


@st.composite
def labelled(draw, numbers=tame, rows=(0, 5), ignored=True) -> tuple[Tensor, Tensor, dict]:
    """Logits, targets and options of cross_entropy; ignore_index may be a class."""
    x = draw(tensors(numbers, rows))
    b, c = x.shape
    ignore = draw(st.sampled_from((-100, -1, 0, c - 1, c, 255)))
    targets = st.integers(0, c - 1) if not ignored else st.one_of(st.integers(0, c - 1), st.just(ignore))
    y = torch.tensor(draw(st.lists(targets, min_size=b, max_size=b)), dtype=torch.long)
    options = {"ignore_index": ignore if ignored else -100, "label_smoothing": draw(SMOOTHING)}
    if draw(st.booleans()):
        weights = st.sampled_from((0.0, 0.25, 1.0, 3.0))
        options["weight"] = torch.tensor(draw(st.lists(weights, min_size=c, max_size=c)), dtype=torch.float64)
    return x, y, options


@st.composite
def pairs(draw, left=tame, right=None, rows=(0, 5)) -> tuple[Tensor, Tensor]:
    x = draw(tensors(left, rows))
    return x, drawn(draw, left if right is None else right, x.shape)


def value_and_grads(loss, *inputs: Tensor) -> list[Tensor]:
    """The loss, and the gradients of its sum."""
    leaves = [a.detach().clone().requires_grad_() for a in inputs]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="reduction: 'mean' divides")
        value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


def close(a: Tensor, b: Tensor, scale: float = 1.0, terms: int = 100) -> None:
    """Up to so many roundings of numbers of the size `scale`; NaN and infinities in the same places."""
    torch.testing.assert_close(a, b, rtol=terms * EPS, atol=terms * EPS * scale, equal_nan=True)


def size(*tensors: Tensor) -> float:
    """The largest finite magnitude there is, at least 1."""
    return max([1.0, *(float(v) for t in tensors for v in t.detach().abs().reshape(-1) if v.isfinite())])


# As torch in float64


@pytest.mark.failure(5)
@given(labelled(wild), REDUCTIONS)
def test_cross_entropy_is_torchs(case, reduction):
    x, y, options = case
    ours = value_and_grads(lambda x: L.cross_entropy(x, y, reduction=reduction, **options), x)
    theirs = value_and_grads(lambda x: F.cross_entropy(x, y, reduction=reduction, **options), x)
    live = y != options["ignore_index"]
    assert (ours[1][~live] == 0).all()  # where torch has NaN if the row is not finite
    if reduction == "mean" and not live_weight(y, options):  # inf, or NaN in torch's two terms
        assert not ours[0].isfinite() and not theirs[0].isfinite()
        return
    close(ours[0], theirs[0], size(x))
    close(ours[1][live], theirs[1][live])


@given(labelled(wild), REDUCTIONS)
def test_nll_loss_is_torchs(case, reduction):
    x, y, options = case
    del options["label_smoothing"]
    ours = value_and_grads(lambda x: L.nll_loss(x, y, reduction=reduction, **options), x)
    theirs = value_and_grads(lambda x: F.nll_loss(x, y, reduction=reduction, **options), x)
    close(ours[0], theirs[0], size(x))
    close(ours[1], theirs[1])


@given(pairs(tame, unit), REDUCTIONS, SMOOTHING)
def test_cross_entropy_of_probabilities_is_torchs(case, reduction, smoothing):
    def at(library):
        return lambda x, t: library.cross_entropy(x, t, reduction=reduction, label_smoothing=smoothing)

    for ours, theirs in zip(value_and_grads(at(L), *case), value_and_grads(at(F), *case), strict=True):
        close(ours, theirs, size(case[0]))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(x=tensors(wild))
def test_maps_are_torchs(name, x):
    ours, theirs = (value_and_grads(lambda x, lib=lib: getattr(lib, name)(x, -1), x) for lib in (L, F))
    close(ours[0], theirs[0], size(x))
    close(ours[1], theirs[1])


DISTANCES = ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss")


@pytest.mark.parametrize("name", DISTANCES)
@given(case=pairs(wild), reduction=REDUCTIONS)
def test_distances_are_torchs(name, case, reduction):
    ours, theirs = (
        value_and_grads(lambda x, t, lib=lib: getattr(lib, name)(x, t, reduction=reduction), *case) for lib in (L, F)
    )
    if name == "l1_loss":  # torch's gradient is 0 where its loss is NaN
        for grad in theirs[1:]:
            grad[(case[0] - case[1]).isnan()] = NAN
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, size(*case))


@pytest.mark.failure(41)
@pytest.mark.parametrize("log_target", [False, True])
@given(case=pairs(wild), reduction=REDUCTIONS)
def test_kl_div_is_torchs(log_target, case, reduction):
    x, t = case
    t = t.clamp(max=20 if log_target else 1e30)  # exp of more overflows, and no probability is infinite
    ours, theirs = (
        value_and_grads(lambda x, t, lib=lib: lib.kl_div(x, t, reduction=reduction, log_target=log_target), x, t)
        for lib in (L, F)
    )
    if not log_target:  # torch's gradient to the target is NaN at 0, and loses the 1 at subnormal numbers
        theirs[2] = (t.log() + 1 - x) / (x.numel() if reduction == "mean" else 1)
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, size(x, t) * size(t.exp() if log_target else t))


@given(pairs(tame, unit), REDUCTIONS)
def test_binary_cross_entropies_are_torchs(case, reduction):
    x, t = case
    for name, input in (("binary_cross_entropy_with_logits", x), ("binary_cross_entropy", x.sigmoid())):
        ours, theirs = (
            value_and_grads(lambda x, t, lib=lib, name=name: getattr(lib, name)(x, t, reduction=reduction), input, t)
            for lib in (L, F)
        )
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, size(*theirs))


# Symmetries


@given(labelled(), st.floats(-100, 100))
def test_a_shift_of_the_logits_changes_nothing(case, shift):
    x, y, options = case
    a = value_and_grads(lambda x: L.cross_entropy(x, y, reduction="sum", **options), x)
    b = value_and_grads(lambda x: L.cross_entropy(x + shift, y, reduction="sum", **options), x)
    for one, other in zip(a, b, strict=True):
        close(one, other, size(x) + abs(shift))
    for entropy in (L.softmax_entropy, lambda x, **o: L.kl_div_with_logits(x, x.flip(-1), **o)):
        close(entropy(x, reduction="none"), entropy(x + shift, reduction="none"), size(x) + abs(shift))


@given(labelled(), REDUCTIONS)
def test_a_rows_gradient_sums_to_0(case, reduction):
    x, y, options = case
    losses = [
        lambda x: L.cross_entropy(x, y, reduction=reduction, **options),
        lambda x: L.cross_entropy(x, x.detach().flip(-1).softmax(-1), reduction=reduction),
        lambda x: L.softmax_entropy(x, reduction=reduction),
        lambda x: L.kl_div_with_logits(x, x.detach().flip(-1), reduction=reduction),
    ]
    for loss in losses:
        grad = value_and_grads(loss, x)[1]
        assume(grad.isfinite().all())  # a mean over weights of 0
        close(grad.sum(-1), torch.zeros(len(x), dtype=x.dtype), size(grad, x))


@given(labelled(), st.randoms(use_true_random=False), REDUCTIONS)
def test_the_order_of_the_classes_does_not_matter(case, random, reduction):
    x, y, options = case
    order = torch.tensor(random.sample(range(x.shape[1]), x.shape[1]))
    place = order.argsort()
    assume(not 0 <= options["ignore_index"] < x.shape[1])
    y2 = y.clone()
    live = y != options["ignore_index"]
    y2[live] = place[y[live]]
    options2 = options | ({"weight": options["weight"][order]} if "weight" in options else {})
    a = value_and_grads(lambda x: L.cross_entropy(x, y, reduction=reduction, **options), x)
    b = value_and_grads(lambda x: L.cross_entropy(x, y2, reduction=reduction, **options2), x[:, order])
    close(a[0], b[0], size(x))
    close(a[1][:, order], b[1])


# Batches


def live_weight(y: Tensor, options: dict) -> Tensor:
    live = y[y != options["ignore_index"]]
    return options["weight"][live].sum() if "weight" in options else torch.tensor(float(len(live)))


@given(labelled())
def test_sum_is_mean_times_count(case):
    x, y, options = case
    total = live_weight(y, options)
    assume(total > 0)
    sums, means = (
        value_and_grads(lambda x, r=r: L.cross_entropy(x, y, reduction=r, **options), x) for r in ("sum", "mean")
    )
    for a, b in zip(sums, means, strict=True):
        close(a, b * total, size(x) * 10)
    for name in DISTANCES:
        f = getattr(L, name)
        close(f(x, -x, reduction="sum"), f(x, -x) * x.numel(), size(x) ** 2 * 30)


@pytest.mark.failure(19)
@given(labelled(wild), REDUCTIONS)
def test_to_ignore_a_row_is_to_delete_it(case, reduction):
    x, y, options = case
    live = y != options["ignore_index"]
    a = value_and_grads(lambda x: L.cross_entropy(x, y, reduction=reduction, **options), x)
    b = value_and_grads(lambda x: L.cross_entropy(x, y[live], reduction=reduction, **options), x[live])
    close(a[0][live] if reduction == "none" else a[0], b[0], size(x))
    close(a[1][live], b[1])
    assert not a[1][~live].any() and (reduction != "none" or not a[0][~live].any())


@given(labelled(rows=(1, 5)))
def test_the_batch_twice_halves_each_rows_gradient(case):
    x, y, options = case
    assume(live_weight(y, options) > 0)
    a = value_and_grads(lambda x: L.cross_entropy(x, y, **options), x)
    b = value_and_grads(lambda x: L.cross_entropy(x, y.repeat(2), **options), x.repeat(2, 1))
    close(a[0], b[0], size(x))
    close(a[1] / 2, b[1][: len(x)])


@given(labelled(wild, rows=(1, 5)))
def test_each_row_alone_is_as_in_the_batch(case):
    x, y, options = case
    a = value_and_grads(lambda x: L.cross_entropy(x, y, reduction="none", **options), x)
    for i in range(len(x)):
        b = value_and_grads(lambda x, y=y[i]: L.cross_entropy(x, y, reduction="none", **options), x[i])
        close(a[0][i], b[0], size(x))
        close(a[1][i], b[1])


@pytest.mark.failure(67)
@given(labelled(wild), REDUCTIONS)
def test_the_value_does_not_depend_on_requires_grad(case, reduction):
    x, y, options = case
    a = L.cross_entropy(x, y, reduction=reduction, **options)
    b = value_and_grads(lambda x: L.cross_entropy(x, y, reduction=reduction, **options), x)[0]
    assert torch.equal(a.view(-1).view(torch.int64), b.view(-1).view(torch.int64))


# Between the losses


@given(labelled(rows=(1, 5)), st.floats(0, 1))
def test_smoothing_is_linear(case, eps):
    x, y, options = case
    del options["label_smoothing"]
    at = [
        value_and_grads(lambda x, e=e: L.cross_entropy(x, y, reduction="sum", label_smoothing=e, **options), x)
        for e in (0.0, eps, 1.0)
    ]
    for zero, between, one in zip(*at, strict=True):
        close(between, (1 - eps) * zero + eps * one, size(x) * 100)


@given(pairs())
def test_kl_is_cross_entropy_less_entropy(case):
    x, t = case
    kl = L.kl_div_with_logits(x, t, reduction="none")
    assert (kl >= -8 * EPS * size(x, t)).all()
    ce, h = L.cross_entropy(x, t.softmax(-1), reduction="none"), L.softmax_entropy(t, reduction="none")
    close(kl, ce - h, size(x, t))
    close(h, L.entropy(t.softmax(-1), reduction="none"), size(t))
    p = t.softmax(-1)
    close(kl, L.kl_div(x.log_softmax(-1), p, reduction="none").sum(-1), size(x, t))
    assert (L.kl_div_with_logits(x, x, reduction="none").abs() <= 8 * EPS * size(x)).all()


@given(pairs(), REDUCTIONS)
def test_the_limits_of_huber(case, reduction):
    def loss(name, factor=1.0, **options):
        values = value_and_grads(lambda x, t: getattr(L, name)(x, t, reduction=reduction, **options), *case)
        return [v * factor for v in values]

    scale = size(*case) ** 2
    near = 2.0**-40
    for a, b, slack in (
        (loss("huber_loss", delta=1e3), loss("mse_loss", 0.5), 0),
        (loss("huber_loss", 1 / near, delta=near), loss("l1_loss"), near),
        (loss("smooth_l1_loss", delta := 3.0, beta=delta), loss("huber_loss", delta=delta), 0),
        (loss("smooth_l1_loss", beta=0.0), loss("l1_loss"), 0),
    ):
        distance = (case[0] - case[1]).abs()
        assume(slack == 0 or ((distance > near) | (distance == 0)).all())
        for one, other in zip(a, b, strict=True):
            atol = 100 * EPS * scale + slack * max(case[0].numel(), 1)
            torch.testing.assert_close(one, other, rtol=100 * EPS, atol=atol, equal_nan=True)


@given(tensors(classes=(2, 2), rows=(1, 5)), st.data())
def test_two_classes_are_binary_cross_entropy(x, data):
    y = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=len(x), max_size=len(x))))
    ce = L.cross_entropy(x, y, reduction="none")
    close(ce, L.binary_cross_entropy_with_logits(x[:, 1] - x[:, 0], y.double(), reduction="none"), size(x))
