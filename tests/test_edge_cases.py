"""The table of edge_cases.py, put to torch, so that a change there is seen, and to torchloss; and exactness.

Exact means: right to rounding, however far one class leads. The truth is mpmath's, to 60 digits.
"""

import math
import warnings

import mpmath
import pytest
import torch
import torch.nn.functional
from torch.testing import assert_close

import torchloss.functional as T
from torchloss.testing.edge_cases import CASES
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
    """Expected: a tensor, a number, or lists of numbers, in which None stands for anything."""
    if isinstance(expected, list) and None in expected:
        for mine, right in zip(ours, expected, strict=True):
            if right is not None:
                equal(mine, right)
        return
    expected = torch.as_tensor(expected, device=ours.device).to(ours.dtype).reshape(ours.shape)
    assert_close(ours, expected, equal_nan=True)
    assert (ours[expected == 0] == 0).all(), ours


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


MARGINS = (0, 1, 10, 17, 30, 80)
mp = mpmath.mp.clone()
mp.dps = 60


def log_p(x):
    log_sum = mp.log(mp.fsum(mp.exp(v) for v in x))
    return [v - log_sum for v in x]


def cross_entropy(x, a):
    """sum a l and A p - a."""
    log_ps, mass = log_p(x), mp.fsum(a)
    return mp.fsum(-w * z for w, z in zip(a, log_ps, strict=True)), [
        mass * mp.exp(z) - w for w, z in zip(a, log_ps, strict=True)
    ]


def one_hot(n, y):
    return [mp.mpf(j == y) for j in range(n)]


def of_class(y, smoothing=0.0):
    def truth(x):
        n, eps = len(x), mp.mpf(smoothing)
        return cross_entropy(x, [(1 - eps) * q + eps / n for q in one_hot(n, y)])

    call = lambda x: T.cross_entropy(x, torch.tensor([y], device=x.device), label_smoothing=smoothing)  # noqa: E731
    return call, truth


def of_probabilities(*q):
    def call(x):
        t = torch.zeros_like(x)
        t[0, : len(q)] = torch.tensor(q)
        return T.cross_entropy(x, t)

    return call, lambda x: cross_entropy(x, [mp.mpf(v) for v in q] + [mp.mpf(0)] * (len(x) - len(q)))


def log_likelihood(y):
    def truth(x):
        value, grad = cross_entropy(x, one_hot(len(x), y))
        return -value, [-g for g in grad]

    return lambda x: T.log_softmax(x, 1)[0, y], truth


def entropy(x):
    log_ps = log_p(x)
    h = mp.fsum(-mp.exp(z) * z for z in log_ps)
    return h, [-mp.exp(z) * (z + h) for z in log_ps]


def divergence(target_margin):
    """Of logits that lead by the margin from ones that lead by another."""

    def truth(x):
        log_q, log_t = log_p(x), log_p([mp.mpf(target_margin)] + [mp.mpf(0)] * (len(x) - 1))
        pairs = list(zip(log_t, log_q, strict=True))
        return mp.fsum(mp.exp(p) * (p - q) for p, q in pairs), [mp.exp(q) - mp.exp(p) for p, q in pairs]

    def call(x):
        t = torch.zeros_like(x)
        t[0, 0] = target_margin
        return T.kl_div_with_logits(x, t)

    return call, truth


EXACT = {
    "right class": of_class(0),
    "wrong class": of_class(1),
    "smoothed": of_class(0, 0.25),
    "probability 1": of_probabilities(1.0),
    "probabilities": of_probabilities(0.75, 0.25),
    "log likelihood": log_likelihood(0),
    "log likelihood of another": log_likelihood(1),
    "entropy": (T.softmax_entropy, entropy),
    "divergence from 0": divergence(0),
    "divergence from 5": divergence(5),
    "divergence from 40": divergence(40),
}


def check_exact(name, x, eps, margin, shift=0.0):
    call, truth = EXACT[name]
    x.requires_grad_()
    value = call(x)
    value.backward()
    exact, exact_grad = truth([mp.mpf(v) for v in (x.detach().double() - shift)[0].tolist()])
    if name.startswith("divergence"):  # it rounds the logarithms of two probabilities
        margin = margin + int(name.split()[-1]) + 2 * math.log(x.shape[1])
    tolerance = eps * (8 + margin)
    largest = max(abs(g) for g in exact_grad)
    # The loss and the leader's gradient in relation to themselves; another's, a difference, to the largest.
    for mine, right, scale in (
        (value, exact, abs(exact)),
        (x.grad[0, 0], exact_grad[0], abs(exact_grad[0])),
        (x.grad[0, 1], exact_grad[1], largest),
    ):
        rounding = scale if scale > 1e-40 else 1  # of a 0 that is a difference of numbers near 1
        assert abs(mp.mpf(mine.item()) - right) <= tolerance * rounding, (mine, right)


@each_device
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("classes", [2, 33, 257])
@pytest.mark.parametrize("name", EXACT)
def test_exact(name, classes, margin, device):
    for dtype, shift in ((torch.float64, 0), (torch.float32, 0), (torch.float32, 1e6)):
        x = torch.full((1, classes), float(shift), dtype=dtype, device=device)
        x[0, 0] += margin
        check_exact(name, x, torch.finfo(dtype).eps, margin, shift)


@each_device
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(
    "name", [n for n in EXACT if not n.startswith("log")]
)  # it saves what it has rounded, as torch
def test_exact_in_bfloat16(name, margin, device):
    x = torch.zeros(1, 33, dtype=torch.bfloat16, device=device)
    x[0, 0] = margin
    check_exact(name, x, 2**-11, 0)


def softplus(x):
    return mp.log1p(mp.exp(x))


@each_device
@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_exact_binary(target, weight, device):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.tensor([float(s * m) for m in MARGINS for s in (1, -1)], dtype=dtype, device=device).requires_grad_()
        p = torch.tensor(weight, dtype=dtype, device=device)
        loss = T.binary_cross_entropy_with_logits(x, torch.full_like(x, target), pos_weight=p, reduction="none")
        loss.sum().backward()
        for v, mine, grad in zip(x.tolist(), loss.tolist(), x.grad.tolist(), strict=True):
            likely, unlikely = weight * target, 1 - target
            exact = unlikely * softplus(v) + likely * softplus(-v)
            slope = (unlikely - likely * mp.exp(-v)) / (1 + mp.exp(-v))
            tolerance = 2**-8 if dtype == torch.bfloat16 else torch.finfo(dtype).eps * (8 + abs(v))
            assert abs(mine - exact) <= tolerance * exact
            assert abs(grad - slope) <= tolerance * abs(slope)


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
