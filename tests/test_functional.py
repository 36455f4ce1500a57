"""Good calls: the value, dtype, shape and warnings of torch.nn.functional, for every way of calling that it has."""

import copy
import inspect
import io
import math
import pathlib
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import torchloss
import torchloss.functional as T

X = torch.linspace(-2, 2, 12).reshape(3, 4)
P = torch.linspace(0.05, 0.95, 12).reshape(3, 4)
R = P.flip(0, 1)
Q = X.softmax(1)
Y = torch.tensor([0, 3, 2])
W = torch.tensor([0.5, 1.0, 2.0, 0.25])
V = torch.linspace(0.1, 2, 12).reshape(3, 4)
N3, N4, N5 = (torch.linspace(-1, 1, math.prod(s)).sin().reshape(s) for s in ((3, 4, 5), (3, 4, 5, 2), (2, 4, 3, 2, 2)))

SHARED = [name for name in T.__all__ if hasattr(F, name)]
REGRESSION = ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss")
BCE, BCEL, CE, NLL = "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "nll_loss"
LOSSES = (*REGRESSION, "kl_div", BCE, BCEL, CE, NLL)
HALVES = (torch.bfloat16, torch.float16)


def target_of(name: str) -> torch.Tensor:
    return Y if name in (CE, NLL) else R


def classes(size: torch.Size) -> torch.Tensor:
    rows = (*size[:1], *size[2:])
    return torch.arange(math.prod(rows)).reshape(rows) % size[1]


def label(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return str(value)


def identity(call) -> str:
    name, args, options = call
    return "-".join([name, *map(label, args), *(f"{k}={label(v)}" for k, v in options.items())])


def observed(module, name: str, args: tuple, options: dict):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        return getattr(module, name)(*args, **options), seen


ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def close(ours: torch.Tensor, theirs: torch.Tensor, *args) -> None:
    """Equal up to the rounding of the result, or of an argument: of mixed dtypes torch may compute in the narrower."""
    dtypes = [a.dtype for a in (theirs, *args) if isinstance(a, torch.Tensor)]
    rounding = max(ROUNDING.get(dtype, 0) for dtype in dtypes)
    torch.testing.assert_close(ours, theirs, rtol=rounding, atol=rounding, equal_nan=True)


CALLS = []


def good(name: str, *args, **options) -> None:
    CALLS.append((name, args, options))


for name in LOSSES:
    target, x = target_of(name), P
    for reduction in ("none", "mean", "sum", "elementwise_mean"):
        good(name, x, target, reduction=reduction)
    for dtype in (torch.float64, *HALVES):
        good(name, x.to(dtype), target.to(dtype) if target.is_floating_point() else target, reduction="sum")
    if name != "huber_loss":
        for size_average in (None, True, False):
            for reduce in (None, True, False):
                if (size_average, reduce) != (None, None):
                    good(name, x, target, size_average=size_average, reduce=reduce, reduction="ignored")
        none = [None] if name in (BCE, BCEL) else []
        if name in (CE, NLL):
            good(name, x, target, None, False, -100, True)
        else:
            good(name, x, target, *none, False, True)
for name in (*REGRESSION, "kl_div", BCE, BCEL):
    good(name, P[0, 0], R[0, 0], reduction="sum")
    for reduction in ("none", "mean", "sum"):
        good(name, P[:0], R[:0], reduction=reduction)
    good(name, P.t(), R.t(), reduction="none")
    good(name, P[:1].expand(3, 4), R, reduction="sum")
for name in REGRESSION:
    for pair in ((P, R[0]), (P[0], R), (P[:, :1], R[:, 0]), (P, R[0, 0])):
        good(name, *pair)
    good(name, P, R.long())
for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "kl_div"):
    for a, b in ((torch.float32, torch.float64), (torch.float64, torch.float32), HALVES, (torch.half, torch.float32)):
        good(name, P.to(a), R.to(b), reduction="sum")
for name in ("l1_loss", "mse_loss", "smooth_l1_loss"):
    good(name, P.long(), R)
good("mse_loss", P, R > 0.5)
for name in ("l1_loss", "mse_loss", "huber_loss"):
    for reduction in ("none", "mean", "sum"):
        good(name, P, R, weight=V, reduction=reduction)
        good(name, P, R[0], weight=V, reduction=reduction)
        good(name, P[0], R, weight=V[0], reduction=reduction)
        good(name, P[:0], R[:0], weight=V[:0], reduction=reduction)
    for dtype in (torch.float64, torch.half, torch.long):
        good(name, P, R, weight=V.to(dtype))
    good(name, P.half(), R.half(), weight=V.half())
for delta in (0.1, 1, 2.5, True, math.inf, torch.tensor(0.3)):
    good("huber_loss", X, R, "sum", delta)
for beta in (0, 0.0, 0.1, 1, 2.5, True, math.inf, torch.tensor(0.3)):
    good("smooth_l1_loss", X, R, None, None, "sum", beta)

for log_target in (False, True):
    for reduction in ("none", "mean", "sum", "batchmean"):
        good("kl_div", X, X if log_target else Q, reduction=reduction, log_target=log_target)
        good("kl_div", N3, N3 if log_target else N3.softmax(1), reduction=reduction, log_target=log_target)
good("kl_div", X, Q, size_average=False, reduction="batchmean")
good("kl_div", X[0, 0], Q[0, 0], reduction="batchmean")
good("kl_div", X[:0], Q[:0], reduction="batchmean")

for name in (BCE, BCEL):
    for weight in (V, V[0], V[:, :1], torch.tensor(2.0), V.double(), V.half(), W.long()):
        good(name, P, R, weight=weight)
        good(name, P, R, weight=weight, reduction="none")
for pos_weight in (V, W, torch.tensor(3.0), W.double(), W.half(), W.long()):
    good(BCEL, X, R, pos_weight=pos_weight)
    good(BCEL, X, R, weight=V, pos_weight=pos_weight, reduction="none")
good(BCEL, X, R.double())

for name in (CE, NLL):
    for x in (X, N3, N4, N5):
        y = classes(x.shape)
        for reduction in ("none", "mean", "sum"):
            good(name, x, y, reduction=reduction)
            good(name, x, y, W, ignore_index=1, reduction=reduction)
            good(name, x, y - 100 * (y == 2).long(), weight=W, ignore_index=-98, reduction=reduction)
    for reduction in ("none", "mean", "sum"):
        good(name, X[0], Y[1], reduction=reduction)
        good(name, X[0], Y[1:2], reduction=reduction)
        good(name, X[:0], Y[:0], reduction=reduction)
        good(name, X[:, :0][:0], Y[:0], reduction=reduction)
        good(name, N3[:0], classes(N3.shape)[:0], reduction=reduction)
        good(name, X, torch.full((3,), -100), reduction=reduction)
    good(name, X, Y.byte())
    good(name, X[0], Y[0].byte())
    good(name, X, Y, ignore_index=torch.tensor(3))
    good(name, torch.ones(3, 5, 4).transpose(1, 2), torch.ones(5, 3, dtype=torch.long).t())
    good(name, X.t(), torch.tensor([0, 1, 2, 0]))
    good(name, X[:1].expand(3, 4), Y[:1].expand(3))
for reduction in ("none", "mean", "sum"):
    for smoothing in (0.1, 1, 1.0, True, torch.tensor(0.25)):
        for weight in (None, W):
            good(CE, X, Y, weight, label_smoothing=smoothing, reduction=reduction)
            good(CE, X, Q, weight, label_smoothing=smoothing, reduction=reduction)
    good(CE, N4, classes(N4.shape), W, label_smoothing=0.2, ignore_index=2, reduction=reduction)
    for x in (X[0], X, N3, N4, X[:0], X[:0, :0]):
        good(CE, x, x.softmax(-1), reduction=reduction)
for a, b in ((torch.float32, torch.float64), (torch.float64, torch.float32), (torch.half, torch.float32)):
    good(CE, X.to(a), Q.to(b))
for dtype in (torch.float64, torch.half, torch.long):
    good(CE, X, Q, W.to(dtype))
good(CE, X, Q, ignore_index=-1)

for name in ("softmax", "log_softmax"):
    for dim in (0, 1, -1, -2):
        good(name, X, dim)
    for size in ((), (2,), (2, 3), (2, 3, 2), (2, 1, 2, 2)):
        good(name, torch.ones(size).cumsum(-1) if size else torch.tensor(2.0))
    for dtype in (torch.float64, torch.float32, *HALVES):
        good(name, X, 1, dtype=dtype)
        good(name, X.to(dtype), 1)
        good(name, X.long(), 1, dtype=dtype)
        good(name, (X > 0), 0, 3, dtype)
    good(name, torch.tensor(1.0), 0)
    good(name, torch.tensor(1.0), -1)
    good(name, X[:0], 0)
    good(name, X[:, :0], 1)
    good(name, N4.transpose(1, 3), 2)
    good(name, X.to(torch.float8_e4m3fn), 1, dtype=torch.float32)


@pytest.mark.parametrize("call", CALLS, ids=map(identity, CALLS))
def test_as_torch(call):
    name, args, options = call
    theirs, their_warnings = observed(F, name, args, options)
    ours, our_warnings = observed(T, name, args, options)
    assert ours.dtype is theirs.dtype
    assert ours.shape == theirs.shape
    close(ours, theirs, *args, *options.values())
    assert [w.category for w in our_warnings] == [w.category for w in their_warnings]
    for mine, its in zip(our_warnings, their_warnings, strict=True):
        assert str(mine.message).startswith(str(its.message))
        if "elementwise_mean" not in str(its.message):  # torch's points into torch
            assert mine.filename == __file__, "a warning names the line that called"


@pytest.mark.parametrize("name", SHARED)
def test_signature(name):
    theirs, ours = (list(inspect.signature(getattr(m, name)).parameters.values()) for m in (F, T))
    ours, more = ours[: len(theirs)], ours[len(theirs) :]
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    assert all(p.kind == p.KEYWORD_ONLY and p.default is not p.empty for p in more)  # only to be asked for


def test_every_function_says_what_it_is():
    for name in T.__all__:
        text = inspect.getdoc(getattr(T, name))
        for part in (".. math::", "Args:", "Example::", ">>> ", "Source: "):
            assert part in text, f"{name} lacks {part}"
        assert "Raises:" in text or "raises" in text


@pytest.mark.parametrize("name", T.__all__)
def test_example(name):
    """The examples of the docstrings, as doctest would run them."""
    import doctest

    function = getattr(T, name)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(function), {"torch": torch, **vars(T)}, name, None, 0)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0


# Where torchloss does better


@pytest.mark.parametrize("name", ["huber_loss", BCEL])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)], ids=str)
def test_mixed_dtypes_are_promoted(name, dtypes):
    """torch keeps the dtype of one of the two, and then huber_loss cannot go backward."""
    x, t = (a.to(dtype).clone().requires_grad_() for a, dtype in zip((P, R), dtypes, strict=True))
    loss = getattr(T, name)(x, t)
    close(loss, getattr(F, name)(x.double(), t.double()))
    assert loss.dtype is torch.float64
    loss.backward()
    assert x.grad.dtype is x.dtype and t.grad.dtype is t.dtype


@pytest.mark.failure(11)
@pytest.mark.parametrize("name", [CE, NLL])
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("x", [X, N3, N4, N5], ids=label)
def test_narrow_class_indices(name, dtype, x):
    y = classes(x.shape)
    torch.testing.assert_close(getattr(T, name)(x, y.to(dtype)), getattr(T, name)(x, y), rtol=0, atol=0)


def test_one_target_for_one_row_with_smoothing():
    """torch raises, as its own reshaping gets in its way."""
    one = T.cross_entropy(X[0], Y[1:2], label_smoothing=0.1, reduction="none")
    assert one.shape == ()
    torch.testing.assert_close(one, T.cross_entropy(X[0], Y[1], label_smoothing=0.1))


def test_weighted_mean_does_not_overflow():
    x = torch.full((1000,), 16.0, dtype=torch.float16)
    t, w = torch.zeros_like(x), torch.full_like(x, 10.0)
    assert T.mse_loss(x, t, weight=w) == 256.0
    assert T.l1_loss(x, t, weight=w) == 16.0


@pytest.mark.failure(44)
def test_kl_div_warns_when_it_broadcasts():
    """torch does not."""
    with pytest.warns(
        UserWarning, match=re.escape("kl_div broadcasts tensors of different sizes. The input is [3, 4]")
    ):
        loss = T.kl_div(X, Q[0], reduction="batchmean")
    torch.testing.assert_close(loss, F.kl_div(X, Q[0], reduction="batchmean"))


@pytest.mark.failure(62)
def test_pairs_are_named_in_the_warning():
    with pytest.warns(UserWarning, match=r"every input meets every target: pass input.squeeze\(-1\)"):
        T.mse_loss(P[:, :1], R[:, 0])
    with pytest.warns(UserWarning, match=r"every input meets every target: pass target.squeeze\(-1\)"):
        T.mse_loss(P[:, 0], R[:, :1])


# Gradients of what is not the input


@pytest.mark.parametrize("name", ["l1_loss", "mse_loss", "huber_loss"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("target", [R, R[0]], ids=label)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_gradient_of_weight_and_target(name, reduction, target):
    grads = []
    for module in (F, T):
        leaves = [a.double().clone().requires_grad_() for a in (X, target, V)]
        loss = getattr(module, name)(leaves[0], leaves[1], weight=leaves[2], reduction=reduction)
        grads.append(torch.autograd.grad((loss * loss.detach().cos()).sum(), leaves))
    for theirs, ours in zip(*grads, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("x", [X[0], X, N3], ids=label)
def test_gradient_of_class_weight_with_probabilities(reduction, smoothing, x):
    grads = []
    for module in (F, T):
        leaves = [a.double().clone().requires_grad_() for a in (x, x.softmax(min(1, x.dim() - 1)), W)]
        loss = module.cross_entropy(*leaves, reduction=reduction, label_smoothing=smoothing)
        grads.append(torch.autograd.grad((loss * loss.detach().cos()).sum(), leaves))
    for theirs, ours in zip(*grads, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("name", [BCE, BCEL])
@pytest.mark.parametrize("weight", [V, V[0]], ids=label)
def test_gradient_of_binary_weight(name, weight):
    """torch refuses; the loss is linear in its weight."""
    w = weight.double().requires_grad_()
    p, r = P.double(), R.double()
    (ours,) = torch.autograd.grad(getattr(T, name)(p, r, weight=w), w)
    (theirs,) = torch.autograd.grad((getattr(F, name)(p, r, reduction="none") * w).mean(), w)
    close(ours, theirs)


def test_weight_that_requires_grad_is_fine_without_grad():
    w = W.clone().requires_grad_()
    with torch.no_grad():
        torch.testing.assert_close(T.cross_entropy(X, Y, w), F.cross_entropy(X, Y, w))
        torch.testing.assert_close(
            T.binary_cross_entropy_with_logits(X, R, pos_weight=w),
            F.binary_cross_entropy_with_logits(X, R, pos_weight=w),
        )


# Autocast


@pytest.mark.failure(78)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("pair", ["same", "float32", "float64"])
@pytest.mark.parametrize("name", (*LOSSES, "probabilities", "softmax", "log_softmax"))
def test_autocast(name, pair, dtype):
    low = P.to(dtype)
    other = {"same": R.to(dtype), "float32": R, "float64": R.double()}[pair]
    name, other = (CE, other) if name == "probabilities" else (name, Y if name in (CE, NLL) else other)
    if (name, pair) == (BCE, "float64"):
        pytest.skip("an error, in torch and here")
    args, options = ((low, 1), {}) if "softmax" in name else ((low, other), {"reduction": "sum"})
    if "softmax" in name and pair != "same":
        args = (R if pair == "float32" else R.double(), 1)
    with torch.autocast("cpu", dtype):
        theirs, ours = (getattr(m, name)(*args, **options) for m in (F, T))
    if (name, pair) != ("huber_loss", "float64"):  # which torch does not promote
        assert ours.dtype is theirs.dtype
    close(ours.to(theirs.dtype), theirs, *(a.float() for a in args if isinstance(a, torch.Tensor)))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_autocast_of_weights(dtype):
    with torch.autocast("cpu", dtype):
        for x, w in ((X.to(dtype), W), (X, W.to(dtype)), (X.to(dtype), W.to(dtype))):
            for name in (CE, NLL):
                theirs, ours = (getattr(m, name)(x, Y, w) for m in (F, T))
                assert ours.dtype is theirs.dtype is torch.float32
                close(ours, theirs)
        for weighted in (T.l1_loss, T.mse_loss, T.huber_loss):
            low = weighted(P.to(dtype), R.to(dtype), weight=V.to(dtype))
            assert low.dtype is torch.float32  # where torch, on the CPU, computes in 16 bits
            close(low, weighted(*(a.to(dtype).float() for a in (P, R)), weight=V.to(dtype).float()))
        pos = T.binary_cross_entropy_with_logits(X.to(dtype), R.to(dtype), pos_weight=W.to(dtype))
        assert pos.dtype is torch.float32
        assert T.kl_div_with_logits(X.to(dtype), R.to(dtype)).dtype is torch.float32
        assert T.softmax_entropy(X.to(dtype)).dtype is torch.float32
        assert T.entropy(Q.to(dtype)).dtype is torch.float32
        assert T.softmax(X, 1, dtype=dtype).dtype is dtype


def test_without_autocast_sixteen_bits_stay():
    for dtype in HALVES:
        for loss in (T.mse_loss(P.to(dtype), R.to(dtype)), T.cross_entropy(X.to(dtype), Y), T.entropy(Q.to(dtype))):
            assert loss.dtype is dtype


# What torch lacks


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dim", [0, 1, -1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_new_losses(reduction, dim, dtype):
    x, t = N3.to(dtype), N3.cos().to(dtype)
    p = x.double().softmax(dim)
    reduce = {"none": lambda a: a, "mean": torch.mean, "sum": torch.sum}[reduction]
    options = {"dim": dim, "reduction": reduction}
    h = torch.special.entr(p).sum(dim)
    close(T.softmax_entropy(x, **options), reduce(h).to(dtype))
    low = p.to(dtype)
    entr = torch.special.entr(low.double()).sum(dim)
    close(T.entropy(low, **options), reduce(entr).to(dtype))
    close(T.entropy(low, base=2, **options), reduce(entr / math.log(2)).to(dtype))
    for temperature in (1, 3.0):
        q, r = ((a.double() / temperature).log_softmax(dim) for a in (x, t))
        want = reduce((r.exp() * (r - q)).sum(dim)).to(dtype)
        close(T.kl_div_with_logits(x, t, temperature, **options), want)


def test_new_losses_of_one_number():
    one = torch.tensor(2.0)
    assert T.softmax_entropy(one) == 0 and T.kl_div_with_logits(one, one + 1) == 0
    close(T.entropy(torch.tensor(0.5), base=2), torch.tensor(0.5))


def test_kl_div_with_logits_promotes():
    assert T.kl_div_with_logits(X, X.double()).dtype is torch.float64


# Overrides and transforms


class Recorded(torch.Tensor):
    pass


@pytest.mark.parametrize("name", [n for n in T.__all__ if n not in ("logit_stats", "count_targets")])
def test_subclass_and_mode(name):
    function = getattr(T, name)
    options = {} if "softmax" == name[-7:] or name in ("entropy", "softmax_entropy") else {"reduction": "sum"}
    args = (P, 1) if name in ("softmax", "log_softmax") else (P,)
    if name not in ("softmax", "log_softmax", "entropy", "softmax_entropy"):
        args = (P, Y if name in (CE, NLL) else R)
    plain = function(*args, **options)

    kept = function(args[0].as_subclass(Recorded), *args[1:], **options)
    assert type(kept) is Recorded
    torch.testing.assert_close(kept.as_subclass(torch.Tensor), plain, rtol=0, atol=0)

    class Mode(TorchFunctionMode):
        def __torch_function__(self, called, types, args=(), kwargs=None):
            calls.append(called)
            return called(*args, **(kwargs or {}))

    calls = []
    with Mode():
        seen = function(*args, **options)
    assert calls[0] is function
    torch.testing.assert_close(seen, plain, rtol=0, atol=0)


def test_override_is_given_every_argument():
    class Mine:
        @classmethod
        def __torch_function__(cls, called, types, args=(), kwargs=None):
            return called, args, kwargs

    mine = Mine()
    for name in T.__all__:
        parameters = inspect.signature(getattr(T, name)).parameters
        required = [p for p in parameters.values() if p.default is p.empty]
        called, args, kwargs = getattr(T, name)(*[mine] * len(required))
        assert called is getattr(T, name)
        assert set(list(parameters)[: len(args)]) | set(kwargs) == set(parameters), name


def test_vmap_and_functional_gradient():
    x, y = N3.double(), torch.arange(15).reshape(3, 5) % 4
    torch.testing.assert_close(
        torch.vmap(T.cross_entropy)(x.transpose(1, 2), y), torch.vmap(F.cross_entropy)(x.transpose(1, 2), y)
    )
    torch.testing.assert_close(
        torch.func.grad(lambda x: T.cross_entropy(x, y, W.double()))(x),
        torch.func.grad(lambda x: F.cross_entropy(x, y, W.double()))(x),
    )
    torch.testing.assert_close(
        torch.func.grad(lambda x: T.mse_loss(x, x.cos(), weight=x.exp()))(x),
        torch.func.grad(lambda x: F.mse_loss(x, x.cos(), weight=x.exp()))(x),
    )


GRAPHS = {
    "cross_entropy": (lambda x: T.cross_entropy(x, Y, W, label_smoothing=0.1)),
    "cross_entropy-1d": (lambda x: T.cross_entropy(x[0], Y[:1])),
    "cross_entropy-int32": (lambda x: T.cross_entropy(x, Y.int())),
    "cross_entropy-probabilities": (lambda x: T.cross_entropy(x, Q.double(), W)),
    "nll_loss": (lambda x: T.nll_loss(x, Y, ignore_index=3, reduction="sum")),
    "l1_loss-legacy": (lambda x: T.l1_loss(x, R, size_average=False)),
    "mse_loss-broadcast": (lambda x: T.mse_loss(x, R[0])),
    "mse_loss-weight": (lambda x: T.mse_loss(x, R, weight=V)),
    "huber_loss": (lambda x: T.huber_loss(x, R, delta=0.5, weight=V)),
    "smooth_l1_loss": (lambda x: T.smooth_l1_loss(x, R, beta=0.5)),
    "kl_div": (lambda x: T.kl_div(x, Q)),
    "kl_div-broadcast": (lambda x: T.kl_div(x, Q[0], reduction="batchmean")),
    "binary_cross_entropy": (lambda x: T.binary_cross_entropy(x.sigmoid(), R, V[0])),
    "binary_cross_entropy_with_logits": (lambda x: T.binary_cross_entropy_with_logits(x, R, pos_weight=W)),
    "softmax": (lambda x: T.softmax(x, -1, dtype=torch.float64)),
    "log_softmax-implicit": (lambda x: T.log_softmax(x)),
    "entropy": (lambda x: T.entropy(x.softmax(1), base=2)),
    "softmax_entropy": (lambda x: T.softmax_entropy(x, dim=0)),
    "kl_div_with_logits": (lambda x: T.kl_div_with_logits(x, R, 2)),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.filterwarnings("ignore")
def test_compiles_to_one_graph(name, dynamic):
    function = GRAPHS[name]
    results = []
    torch._dynamo.reset()
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)):
        x = X.clone().requires_grad_()
        loss = call(x)
        results.append((loss.detach(), *torch.autograd.grad(loss.cos().sum(), x)))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.filterwarnings("ignore")
def test_autocast_compiles():
    def step(x):
        with torch.autocast("cpu", torch.bfloat16):
            return T.cross_entropy(x, Y)

    torch._dynamo.reset()
    loss = torch.compile(step, fullgraph=True, backend="aot_eager")(X.bfloat16())
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, step(X.bfloat16()))


# Modules

MODULES = {
    "L1Loss": [{}, {"reduction": "none"}],
    "MSELoss": [{}, {"reduction": "sum"}],
    "HuberLoss": [{}, {"delta": 0.3, "reduction": "sum"}],
    "SmoothL1Loss": [{}, {"beta": 0.2}],
    "KLDivLoss": [{"reduction": "batchmean"}, {"log_target": True, "reduction": "sum"}],
    "BCELoss": [{}, {"weight": V, "reduction": "sum"}],
    "BCEWithLogitsLoss": [{}, {"weight": V, "pos_weight": W}],
    "NLLLoss": [{}, {"weight": W, "ignore_index": 3}],
    "CrossEntropyLoss": [{}, {"weight": W, "ignore_index": 0, "label_smoothing": 0.1, "reduction": "none"}],
    "Softmax": [{"dim": 1}, {"dim": 0}],
    "LogSoftmax": [{"dim": 1}, {"dim": 0}],
    "Softmax2d": [{}],
}
BUILT = [(name, options) for name, several in MODULES.items() for options in several]


def module_input(name: str) -> tuple[torch.Tensor, ...]:
    if "Softmax" in name:
        return (N4 if name == "Softmax2d" else X,)
    return P, Y if name in ("NLLLoss", "CrossEntropyLoss") else R


@pytest.mark.parametrize("name, options", BUILT, ids=[f"{n}-{'-'.join(o)}" for n, o in BUILT])
def test_module(name, options):
    theirs, ours = (getattr(m, name)(**options) for m in (torch.nn, torchloss))
    assert isinstance(ours, type(theirs)) and type(ours).__name__ == name
    assert repr(ours) == repr(theirs)
    ours_, theirs_ = (list(inspect.signature(type(m)).parameters.values()) for m in (ours, theirs))
    assert [(p.name, p.default) for p in ours_[: len(theirs_)]] == [(p.name, p.default) for p in theirs_]
    assert all(p.kind == p.KEYWORD_ONLY for p in ours_[len(theirs_) :])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    args = module_input(name)
    want = theirs(*args)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for module in (ours, copy.deepcopy(ours), torch.load(file, weights_only=False)):
        close(module(*args), want)


def test_module_warns_as_torch():
    places = []
    for module in (torch.nn, torchloss):
        with pytest.warns(UserWarning, match="please use reduction='sum' instead"):
            assert module.MSELoss(size_average=False).reduction == "sum"
        for name in ("Softmax", "LogSoftmax"):
            with pytest.warns(UserWarning, match="Implicit dimension choice") as seen:
                getattr(module, name)()(X)
            places.append((seen[0].filename, seen[0].lineno))
    assert places[:2] == places[2:]


def test_every_loss_of_the_package_has_a_module():
    losses = {n for n in vars(torchloss) if isinstance(getattr(torchloss, n), type) and n != "check_targets"}
    others = {"check_targets", "count_targets", "functional", "set_early_gradient"}
    assert losses | others == set(torchloss.__all__)
    assert losses == {*MODULES, "Entropy", "SoftmaxEntropy", "KLDivWithLogits"}


def test_new_modules():
    assert repr(torchloss.Entropy()) == "Entropy(base=e, dim=-1, reduction='mean')"
    assert repr(torchloss.Entropy(base=2, dim=0)) == "Entropy(base=2, dim=0, reduction='mean')"
    assert repr(torchloss.SoftmaxEntropy(reduction="sum")) == "SoftmaxEntropy(dim=-1, reduction='sum')"
    assert repr(torchloss.KLDivWithLogits(2.0)) == "KLDivWithLogits(temperature=2.0, dim=-1, reduction='mean')"
    options = {"dim": 0, "reduction": "none"}
    close(torchloss.Entropy(base=2, **options)(Q), T.entropy(Q, base=2, **options))
    close(torchloss.SoftmaxEntropy(**options)(X), T.softmax_entropy(X, **options))
    close(torchloss.KLDivWithLogits(2.0, **options)(X, P), T.kl_div_with_logits(X, P, 2.0, **options))


def test_version_is_the_project_s():
    project = pathlib.Path(__file__).parent.parent / "pyproject.toml"
    assert f'version = "{torchloss.__version__}"' in project.read_text()
