"""Bad input: torch's exception type and first words, then what was wrong, where, and how to mend it.

The oracle is torch.nn.functional itself: every bad call is made on both.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F

import torchloss
import torchloss.functional as T
from torchloss.testing.losses import TEXTS_OF_TORCH

NAN, INF = float("nan"), float("inf")
X = torch.linspace(-1, 1, 12).reshape(3, 4)
P = torch.linspace(0.1, 0.9, 12).reshape(3, 4)
Q = X.softmax(1)
Y = torch.tensor([0, 1, 2])
W = torch.ones(4)


def zeros(*size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.long)


def grad(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


def raised(module, name: str, args: tuple, options: dict) -> Exception:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = getattr(module, name)(*args, **options)
        except Exception as error:
            return error
    pytest.fail(f"{module.__name__}.{name} raised nothing but returned {result}")


REGRESSION = ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss")
WEIGHTED = ("l1_loss", "mse_loss", "huber_loss")
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
CLASSES = ("nll_loss", "cross_entropy")
BCE, BCEL, CE, NLL = *BINARY, "cross_entropy", "nll_loss"

# (function, arguments, options, words that the fix must contain)
CALLS = []


def bad(name: str, *args, fix: str = "", **options) -> None:
    CALLS.append((name, args, options, fix))


for name in (*REGRESSION, "kl_div", *BINARY, *CLASSES):
    good = Y if name in CLASSES else P
    for reduction in ("avg", None, 1, ["mean"]):
        bad(name, P, good, reduction=reduction, fix="'none', 'mean', 'sum'")
    bad(name, [1.0], good, fix="torch.as_tensor(input)")
    bad(name, P, [1.0], fix="torch.as_tensor(target)")
    bad(name, P, 1.0, fix="as_tensor")
    bad(name, None, good)
for name in (*REGRESSION, *BINARY, *CLASSES):
    bad(name, P, Y if name in CLASSES else P, reduction="batchmean")
for name in (*REGRESSION, *BINARY):
    if name != "l1_loss":  # where torch takes complex numbers
        bad(name, P.to(torch.complex64), P.to(torch.complex64), fix="real")
        bad(name, P.to(torch.complex128), P.to(torch.complex128), fix="real")
        bad(name, P.bool(), P.bool(), fix="input.float()")
        bad(name, P.to(torch.float8_e4m3fn), P.to(torch.float8_e4m3fn), fix="input.float()")
    bad(name, P.long(), P.long(), fix="input.float()")
    bad(name, P.to(torch.int8), P.to(torch.int8), fix="input.float()")
for name in (*REGRESSION, "kl_div"):
    bad(name, P, P[:, 0], fix="[3, 4]")
for name in BINARY:
    bad(name, P, P[0])
    bad(name, P[:, :1], P[:, 0], fix="input.squeeze(-1)")
    bad(name, P[:, 0], P[:, :1], fix="target.squeeze(-1)")
    bad(name, P, P, weight=torch.ones(2, 3, 4), fix="[3, 4]")
    bad(name, P, P, weight=[1.0], fix="as_tensor")
    bad(name, P, P, weight=2.0, fix="as_tensor")
    bad(name, P, P, weight=P.to(torch.complex64), fix="real")
for name in WEIGHTED:
    for weight in (torch.ones(4), torch.ones(3, 1), torch.ones(()), torch.ones(2, 3, 4)):
        bad(name, P, P, weight=weight, fix="expand_as")
    for reduction in ("avg", None, "elementwise_mean", "batchmean"):
        bad(name, P, P, weight=P, reduction=reduction)
    bad(name, P[0], P, weight=P)  # the weight has the input's size, not the target's
    bad(name, P, P, weight=2.0, fix="as_tensor")

for delta in (0, 0.0, -1, -0.5, NAN, -INF, torch.tensor(-1.0)):
    bad("huber_loss", P, P, delta=delta, fix="delta = ")
bad("huber_loss", P[:0], P[:0], delta=-1.0)
for beta in (-1, -0.5, NAN, -INF, torch.tensor(-1.0)):
    bad("smooth_l1_loss", P, P, beta=beta, fix="beta = ")
for value in (None, "a", [1.0]):
    bad("huber_loss", P, P, delta=value)
    bad("smooth_l1_loss", P, P, beta=value)
bad("huber_loss", P, P, delta=torch.ones(2))

for bad_dtype in (torch.long, torch.bool, torch.complex64):
    bad("kl_div", P.to(bad_dtype), P, reduction="sum", fix="floating point")
    bad("kl_div", P, P.to(bad_dtype), reduction="sum", fix="floating point")
bad("kl_div", P, P, log_target=1, reduction="sum")
bad("kl_div", P, P, log_target=None, reduction="sum")

bad(BCE, P + 1, P, fix="input[0, 0] = 1.1")
bad(BCE, torch.where(P == P[2, 1], NAN, P), P, fix="input[2, 1] = nan")
bad(BCE, torch.tensor(-0.5), torch.tensor(0.0), fix="input = -0.5")
bad(BCE, P, P.double(), fix="target.to(input.dtype)")
bad(BCE, P.double(), P, fix="target.to(input.dtype)")
bad(BCE, P, P.long(), fix="target.to(input.dtype)")
bad(BCE, P, P.bool())
bad(BCE, P.long(), P)
bad(BCE, P, P.to(torch.complex64))
bad(BCEL, P, P.long(), fix="target.to(torch.float32)")
bad(BCEL, P, P.bool(), fix="target.to(torch.float32)")
bad(BCEL, P.long(), P)
bad(BCEL, P.bool(), P)
bad(BCEL, P, P, weight=torch.ones(5), fix="weight is [5]")
bad(BCEL, P, P, pos_weight=torch.ones(5), fix="pos_weight is [5]")
bad(BCEL, P, P, pos_weight=torch.ones(2, 3, 4))
bad(BCEL, P, P, pos_weight=2.0, fix="as_tensor")
bad(BCEL, P, P, pos_weight=[1.0])
bad(BCEL, P, P, pos_weight=W.to(torch.complex64))
bad(BCEL, P, P, pos_weight=grad(W), fix="pos_weight.detach()")

for name in CLASSES:
    for dtype in (torch.int16, torch.int8, torch.bool, torch.float32, torch.float64, torch.complex64, torch.uint16):
        bad(name, X, Y.to(dtype), fix="target.long()")
        bad(name, X[0], Y[0].to(dtype), fix="target.long()")
        bad(name, X[..., None, None], Y.to(dtype)[:, None, None], fix="target.long()")
    bad(name, X[0], zeros(2))
    bad(name, X[0], zeros(1, 1))
    bad(name, X, zeros(2), fix="must be [3]")
    bad(name, X, zeros(), fix="must be [3]")
    bad(name, X[:1], zeros(), fix="target.unsqueeze(0)")
    bad(name, X, zeros(3, 1), fix="target.squeeze(-1)")
    bad(name, X, zeros(3, 4))
    bad(name, X, zeros(4, 3))
    bad(name, torch.ones(6, 4), zeros(2, 3), fix="target.flatten()")
    bad(name, torch.ones(3, 5, 4), zeros(3, 5), fix="input.transpose(1, 2)")
    bad(name, torch.ones(3, 4, 5), zeros(3, 4), fix="input.transpose(1, 2)")
    bad(name, torch.ones(3, 4, 5), zeros(3))
    bad(name, torch.ones(3, 4, 5), zeros(2, 5))
    bad(name, torch.ones(3, 4, 5), zeros(3, 1, 5), fix="target.squeeze(1)")
    bad(name, torch.ones(3, 5, 6, 4), zeros(3, 5, 6), fix="input.movedim(-1, 1)")
    bad(name, torch.ones(3, 4, 5, 6), zeros(3, 6, 5))
    bad(name, torch.ones(3, 4, 5, 6), zeros(2, 5, 6))
    bad(name, torch.ones(3, 4, 5, 6), zeros(3, 5))
    bad(name, torch.ones(2, 4, 5, 6, 7), zeros(2, 5, 6, 1))
    bad(name, torch.ones(2, 4, 5, 6, 7), zeros(2, 5, 6))
    bad(name, torch.tensor(1.0), zeros())
    for size in ((3, 4), (4,), (3, 4, 5), (3, 4, 5, 6)):
        target = zeros(*size[:1], *size[2:]) if len(size) > 1 else zeros()
        for dtype in (torch.long, torch.bool, torch.complex64, torch.float8_e4m3fn):
            bad(name, torch.ones(size).to(dtype), target)
        bad(name, torch.ones(size), target, weight=torch.ones(5), fix="must be [4]")
        bad(name, torch.ones(size), target, weight=torch.ones(()), fix="must be [4]")
        bad(name, torch.ones(size), target, weight=W.double(), fix="weight.to(torch.float32)")
        bad(name, torch.ones(size), target, weight=W.half(), fix="weight.to(torch.float32)")
        bad(name, torch.ones(size), target, weight=W.long(), fix="weight.to(torch.float32)")
        bad(name, torch.ones(size), target, weight=[1.0], fix="as_tensor")
        bad(name, torch.ones(size), target, weight=grad(W), fix="weight.detach()")
        for reduction in ("none", "mean", "sum"):
            bad(name, torch.ones(size), target + 4, reduction=reduction, fix="Labels starting at 1?")
            bad(name, torch.ones(size), target - 1, reduction=reduction, fix="ignore_index=-1")
    bad(name, X, torch.tensor([0, 4, 9]), fix="target[1] = 4")
    bad(name, X, torch.tensor([0, 4, 9]), ignore_index=4, fix="target[2] = 9")
    bad(name, X[..., None], torch.tensor([[0], [0], [-1]]), fix="target[2, 0] = -1")
    bad(name, X[0], torch.tensor(7), fix="target = 7")
    bad(name, X[:, :0], Y, fix="C = 0")
    for value in (1.5, None, "a", True):
        bad(name, X, Y, ignore_index=value)
    for value in (2**63, -(2**63) - 1):
        bad(name, X, Y, ignore_index=value, fix="does not fit into int64")

bad(CE, X, Y.repeat(4).reshape(3, 4), fix="target.argmax(1)")
bad(CE, X, Q, ignore_index=1, fix="ignore_index = 1")
bad(CE, X, Q[:2])
bad(CE, X, Q[:, :3])
bad(CE, torch.tensor(1.0), torch.tensor(1.0))
bad(CE, X.long(), Q)
bad(CE, X.to(torch.complex64), Q)
bad(CE, X, Q.to(torch.complex64))
for weight in (torch.ones(5), torch.ones(1, 4), torch.ones(()), torch.ones(1)):
    bad(CE, X, Q, weight=weight, fix="must be [4]")
    bad(CE, X, Y, weight=weight, label_smoothing=0.1, fix="must be [4]")
for target in (Y, Q):
    bad(CE, X, target, label_smoothing=1.5)
    for value in (None, "a", [1.0]):
        bad(CE, X, target, label_smoothing=value)
bad(CE, X, Y, weight=grad(W), label_smoothing=0.1)

for name in ("softmax", "log_softmax"):
    for dim in (2, -3, 1.5, "a", (0, 1), True):
        bad(name, X, dim)
    bad(name, torch.tensor(1.0), 1)
    bad(name, [1.0], 0)
    for dtype in (torch.long, torch.bool, torch.complex64, torch.float8_e4m3fn):
        for dim in (0, 1):
            bad(name, X.to(dtype), dim)
    bad(name, X, 1, dtype=torch.long)
    bad(name, X, 1, dtype="float")


def label(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return str(value)


def identity(call) -> str:
    name, args, options, _ = call
    return "-".join([name, *map(label, args), *(f"{k}={label(v)}" for k, v in options.items())])


@pytest.mark.parametrize("call", CALLS, ids=map(identity, CALLS))
def test_as_torch(call):
    name, args, options, fix = call
    theirs, ours = (raised(m, name, args, options) for m in (F, T))
    assert type(ours) is type(theirs) or not TEXTS_OF_TORCH, f"torch: {theirs!r}\nours: {ours!r}"
    words = str(theirs).splitlines()[0]
    if words.startswith("The size of tensor"):  # which of two sizes is called a is chance
        words = words.split(" (")[0]
    assert str(ours).startswith(words) or not TEXTS_OF_TORCH, f"torch: {theirs}\nours: {ours}"
    assert fix in str(ours)


@pytest.mark.failure(73, 75)
@pytest.mark.parametrize("name", (*REGRESSION, "kl_div", *BINARY, *CLASSES))
@pytest.mark.parametrize("where", ["target", "weight", "pos_weight"])
def test_other_device(name, where):
    target = Y if name in CLASSES else P
    options = {"reduction": "sum"}
    if where == "target":
        target = target.to("meta")
    elif (name in (*WEIGHTED, *CLASSES, *BINARY) and where == "weight") or name == BCEL:
        options[where] = (W if name in CLASSES else P).to("meta")
    else:
        pytest.skip("has no such argument")
    theirs, ours = (raised(m, name, (X if name in CLASSES else P, target), options) for m in (F, T))
    assert type(ours) is type(theirs) is RuntimeError
    assert f"same device, but got {where} is on meta" in str(ours) and f"{where}.to('cpu')" in str(ours)


def test_probabilities_of_a_class_on_other_device():
    with pytest.raises(RuntimeError, match="got target is on meta"):
        T.cross_entropy(X, Q.to("meta"))
    with pytest.raises(RuntimeError, match="got weight is on meta"):
        T.cross_entropy(X, Q, weight=W.to("meta"))


@pytest.mark.failure(1)
def test_full_text_of_a_bad_target():
    target = torch.zeros(4, 20, dtype=torch.long)
    target[3, 17] = 10
    with pytest.raises(IndexError) as caught:
        T.cross_entropy(torch.zeros(4, 10, 20), target)
    assert str(caught.value) == (
        "Target 10 is out of bounds.\n"
        "  target[3, 17] = 10, but input has C = 10 classes (valid 0..9, or ignore_index = -100).\n"
        "  Labels starting at 1? use target - 1.   Padding? pass ignore_index=10."
    )
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_bad_target_under_vmap_is_an_index_error_too():
    with pytest.raises(IndexError, match="Target 9 is out of bounds"):
        torch.vmap(T.cross_entropy)(torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2], [0, 9, 2]]))


def test_other_errors_of_the_op_are_not_swallowed(monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    for called in ("_classes.row_loss", "_binary.finished"):
        monkeypatch.setattr(f"torchloss.{called}", broken)
    for call in (lambda: T.cross_entropy(X, Y, z_loss=0.1), lambda: T.binary_cross_entropy(P, P)):
        with pytest.raises(RuntimeError, match="^something else$"):
            call()


# Where torch computes something else, or nothing sensible, and torchloss raises


@pytest.mark.parametrize("smoothing", [-0.1, NAN])
@pytest.mark.parametrize("target", [Y, Q], ids=["classes", "probabilities"])
def test_label_smoothing_below_zero(smoothing, target):
    """torch takes these for 0."""
    with pytest.raises(RuntimeError, match="^label_smoothing must be between 0.0 and 1.0. Got: "):
        T.cross_entropy(X, target, label_smoothing=smoothing)


def test_complex_l1():
    z = P.to(torch.complex64)
    for pair in ((z, z), (P, z), (z, P)):
        with pytest.raises(TypeError, match=r"(?s)real tensors.*abs\(\)"):
            T.l1_loss(*pair)


def test_complex_labels():
    with pytest.raises(TypeError, match="real labels"):
        T.binary_cross_entropy_with_logits(P, P.to(torch.complex64))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_integer_l1(reduction):
    with pytest.raises(RuntimeError, match=r"(?s)^mean\(\): could not infer output dtype.*input.float\(\)"):
        T.l1_loss(P.long(), P.long(), reduction=reduction)


def test_weight_that_does_not_broadcast():
    theirs, ours = (raised(m, BCE, (P, P), {"weight": torch.ones(5)}) for m in (F, T))
    assert type(ours) is type(theirs)
    assert "weight is [5]: it must expand to the size of the input, [3, 4]" in str(ours)


# What torch lacks


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda: T.entropy(Q, base=0), ValueError, "base must be above 0, finite and not 1"),
        (lambda: T.entropy(Q, base=-2.0), ValueError, "base"),
        (lambda: T.entropy(Q, base=1), ValueError, "base"),
        (lambda: T.entropy(Q, base=NAN), ValueError, "base"),
        (lambda: T.entropy(Q, base=INF), ValueError, "base"),
        (lambda: T.entropy(Q, base="e"), TypeError, "'base' .* must be float, not str"),
        (lambda: T.entropy(Q, dim=2), IndexError, "Dimension out of range"),
        (lambda: T.entropy(Q, dim=0.5), TypeError, "'dim' .* must be int, not float"),
        (lambda: T.entropy(Y), TypeError, r"(?s)probs.*int64.*probs.float\(\)"),
        (lambda: T.entropy(Q.to(torch.complex64)), TypeError, "complex64"),
        (lambda: T.entropy([0.5, 0.5]), TypeError, "must be Tensor, not list"),
        (lambda: T.entropy(Q, reduction="batchmean"), ValueError, "not a valid value for reduction"),
        (lambda: T.softmax_entropy(Y), TypeError, r"logits.float\(\)"),
        (lambda: T.softmax_entropy(X, dim=-3), IndexError, "Dimension out of range"),
        (lambda: T.softmax_entropy(X, reduction="x"), ValueError, "not a valid value for reduction"),
        (lambda: T.softmax_entropy(None), TypeError, "must be Tensor, not NoneType"),
        (lambda: T.kl_div_with_logits(X, X, 0), ValueError, "temperature"),
        (lambda: T.kl_div_with_logits(X, X, NAN), ValueError, "temperature"),
        (lambda: T.kl_div_with_logits(X, X, INF), ValueError, "temperature"),
        (lambda: T.kl_div_with_logits(X, X, "hot"), TypeError, "must be float, not str"),
        (lambda: T.kl_div_with_logits(X, X[0]), ValueError, r"(?s)\[4\].*\[3, 4\].*expand_as"),
        (lambda: T.kl_div_with_logits(X, Y), TypeError, "target_logits"),
        (lambda: T.kl_div_with_logits(1.0, X), TypeError, "input_logits"),
        (lambda: T.kl_div_with_logits(X, X, dim=5), IndexError, "Dimension out of range"),
        (lambda: T.kl_div_with_logits(X, X, reduction="x"), ValueError, "not a valid value for reduction"),
        (lambda: T.kl_div_with_logits(X, X.to("meta")), RuntimeError, "got target_logits is on meta"),
    ],
)
def test_new_losses(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_softmax2d():
    theirs, ours = (pytest.raises(ValueError, m.Softmax2d(), X).value for m in (torch.nn, torchloss))
    assert str(ours).startswith(str(theirs)) and "Softmax(dim)" in str(ours)


# The debug switch


def test_check_targets_switches_and_restores():
    from torchloss import _targets

    before = _targets.checking
    with torchloss.check_targets():
        assert _targets.checking
        with torchloss.check_targets(False):
            assert not _targets.checking
        assert _targets.checking
    assert _targets.checking is before
    torchloss.check_targets(True)
    assert _targets.checking
    torchloss.check_targets(before)
    assert _targets.checking is before


@pytest.mark.failure(1)
def test_check_targets_finds_what_the_op_lets_pass(monkeypatch):
    """As on a GPU: the op itself raises nothing."""

    def passes(*_):
        return (torch.tensor(NAN),)

    monkeypatch.setattr("torchloss._classes.row_loss", passes)
    monkeypatch.setattr("torchloss._binary.finished", passes)
    target = torch.tensor([0, 9, -100])
    with torchloss.check_targets(False):
        T.cross_entropy(X, target)
        T.binary_cross_entropy(P + 1, P)
    with torchloss.check_targets():
        with pytest.raises(IndexError, match=r"target\[1\] = 9"):
            T.cross_entropy(X, target)
        with pytest.raises(IndexError, match=r"target\[1\] = 9"):
            T.nll_loss(X, target)
        with pytest.raises(RuntimeError, match=r"(?s)elements of input.*input\[0, 0\] = 1.1"):
            T.binary_cross_entropy(P + 1, P)
        with pytest.raises(RuntimeError, match=r"(?s)elements of target.*target\[2, 3\] = -0.25"):
            T.binary_cross_entropy(P, torch.where(P == P[2, 3], -0.25, P))
        T.cross_entropy(X, torch.tensor([0, 3, -100]))
        T.binary_cross_entropy(P, P)


def test_environment_switches_checking_on():
    import os
    import subprocess
    import sys

    code = "from torchloss import _targets; print(_targets.checking)"
    for value, want in (("1", "True"), ("0", "False"), ("", "False")):
        env = {**os.environ, "TORCHLOSS_CHECK_TARGETS": value}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == want
