"""The gradient of a loss of rows that is taken in the forward pass: the same as in the backward pass."""

import pytest
import torch
import torch.nn.functional as F

import torchloss
import torchloss.functional as T
from torchloss import autograd
from torchloss.autograd.in_forward import may_be_given
from torchloss.testing.losses import DTYPES, EVERY, leaves

FUNCTIONS = {f.op._opname: f for f in vars(autograd).values() if getattr(f, "in_forward", None) is not None}
OVER = [loss for loss in EVERY if loss.op in FUNCTIONS]
ONE_OF_EACH = list({loss.op: loss for loss in reversed(OVER)}.values())  # without options
SMALL, Y = (6, 7), torch.tensor([0, 3, 6, 1, 5, 2])

pytestmark = pytest.mark.skipif(not FUNCTIONS, reason="needs names that are private to torch")
of_every_loss = pytest.mark.parametrize("loss", OVER, ids=str)
of_every_op = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=str)


def logits(dtype=torch.float32):
    return torch.randn(SMALL, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def sample(loss, dtype=torch.float32, shape=SMALL):
    """Logits that are a leaf, and a target that needs no gradient."""
    x, t = leaves(loss, *loss.sample(shape), dtype)
    return x, None if t is None else t.detach()


@pytest.fixture
def calls(monkeypatch):
    """How often the gradient was taken in the forward pass, and how often by the usual Function."""
    counts = {"forward": 0, "backward": 0}

    def counting(key, f):
        def call(*args):
            result = f(*args)
            counts[key] += 1
            return result

        return call

    for function in FUNCTIONS.values():
        monkeypatch.setattr(function.in_forward, "apply", counting("forward", function.in_forward.apply))
        monkeypatch.setattr(function, "run_next", staticmethod(counting("backward", function.run_next)))
    return counts


@pytest.fixture(autouse=True)
def default_again():
    yield
    torchloss.set_early_gradient()


def never(step):
    """Takes it with no gradient in the forward pass."""
    torchloss.set_early_gradient(0)
    result = step()
    torchloss.set_early_gradient()
    return result


def gradient(loss, dtype=torch.float32, times=None, reduction="mean"):
    x, t = sample(loss, dtype)
    y = loss.ours(x, t, reduction)
    y.backward(None if times is None else torch.tensor(times, dtype=y.dtype))
    return y.detach(), x.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum"))
@of_every_loss
def test_the_same_bits(loss, reduction, dtype, calls):
    """With weights of the rows, which torch's operators multiply and sum otherwise, to rounding."""
    exact = "row_weight" not in loss.weights
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 8 * torch.finfo(dtype).eps, "atol": 1e-7}
    for n, times in enumerate((None, 0.3, -1.0, 0.0), 1):
        got = gradient(loss, dtype, times, reduction)
        assert calls == {"forward": n, "backward": n - 1}
        right = never(lambda times=times: gradient(loss, dtype, times, reduction))
        assert calls == {"forward": n, "backward": n}
        for a, b in zip(got, right, strict=True):
            torch.testing.assert_close(a, b, **tolerance)


OPTIONS = {
    "plain": {},
    "weight": {"weight": torch.linspace(0.5, 2, 5003)},
    "smoothed": {"label_smoothing": 0.2},
    "ignored": {"ignore_index": 750},
    "scaled": {"logit_scale": 0.7, "z_loss": 1e-3},
    "capped": {"softcap": 30.0},
}
ROWS, CLASSES = 20, 5003  # five chunks of the widest vectors and a tail
LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.t().contiguous().t(),
    "a slice": lambda x: torch.cat((x, x), 1)[:, ::2],
    "an image": lambda x: x.reshape(4, 5, CLASSES).movedim(2, 1).contiguous(),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_long_rows_whose_maximum_rises(layout, options, dtype):
    """Where the exponentials are kept: those of the first chunks are seen from another maximum than the last ones."""
    rise = (
        torch.linspace(0, 12, CLASSES, dtype=torch.float64) * torch.linspace(-1, 1, ROWS, dtype=torch.float64)[:, None]
    )
    noise = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = layout(rise + noise).to(dtype)
    y = torch.arange(ROWS) * 250
    options = {k: v.to(dtype) if k == "weight" else v for k, v in options.items()}
    if "ignore_index" in options:
        y[::3] = options["ignore_index"]
    y = y.reshape(x.shape[0], *x.shape[2:])

    def step():
        leaf = x.detach().requires_grad_()
        T.cross_entropy(leaf, y, reduction="sum", **options).backward()
        return leaf.grad

    # |d| <= 40, so that x - max is off by 2 u of it; smoothing takes a difference, where it is small of
    # two terms near smoothing / C, which are as exact as that.
    eps = torch.finfo(dtype).eps
    bound = (
        {"rtol": eps, "atol": torch.finfo(dtype).tiny * eps} if dtype.itemsize == 2 else {"rtol": 40 * eps, "atol": 0}
    )
    if "label_smoothing" in options:
        bound["atol"] = max(bound["atol"], bound["rtol"] * options["label_smoothing"] / CLASSES)
    torch.testing.assert_close(step(), never(step), **bound)


def test_rows_too_long_to_keep():
    x, y = torch.randn(2, 300_001), torch.tensor([5, 300_000])

    def step():
        leaf = x.clone().requires_grad_()
        T.cross_entropy(leaf, y).backward()
        return leaf.grad

    assert torch.equal(step(), never(step))


@pytest.mark.parametrize("times", (1, 0.3))
@of_every_loss
def test_the_gradient_is_handed_on_without_a_copy(loss, times):
    x, t = sample(loss)
    y = loss.ours(x, t)
    place = y.grad_fn.gradient.data_ptr()
    (y * times).backward()
    assert x.grad.data_ptr() == place


@of_every_loss
def test_a_kept_graph_gives_a_fresh_gradient_each_time(loss, calls):
    x, t = sample(loss)
    y = loss.ours(x, t)
    first, second = (torch.autograd.grad(y, x, retain_graph=True)[0] for _ in range(2))
    right = first.clone()
    first.mul_(5)
    (third,) = torch.autograd.grad(y, x)
    assert calls == {"forward": 1, "backward": 2}
    assert torch.equal(second, right) and first.data_ptr() != second.data_ptr() != third.data_ptr()
    torch.testing.assert_close(third, right, rtol=1e-5, atol=1e-7)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.backward()


@of_every_loss
def test_the_second_derivative(loss, calls):
    x, t = sample(loss, torch.float64, (3, 4))
    assert torch.autograd.gradgradcheck(lambda x: loss.ours(x, t), x)
    assert calls["forward"] and calls["backward"]


@of_every_loss
def test_a_batch_of_gradients(loss):
    x, t = sample(loss, torch.float64)
    g = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    (got,) = torch.autograd.grad(loss.ours(x, t), x, g, is_grads_batched=True)
    torch.testing.assert_close(got, g[:, None, None] * gradient(loss, torch.float64)[1])


@pytest.mark.parametrize("times", (1.0, 0.3))
@of_every_loss
def test_what_changes_before_backward_does_no_harm(loss, times):
    """The gradient is that of the numbers the loss was computed from, or it is refused."""
    x, t = sample(loss)
    options = loss.options(SMALL, "mean", torch.float32)
    if "normalizer" in options:
        options["normalizer"] = torch.tensor(options["normalizer"])
    tensors = {"input": x, "target": t, **options}
    right = gradient(loss, times=times)[1]
    for changed in (k for k, v in tensors.items() if torch.is_tensor(v)):
        leaf = x.detach().clone().requires_grad_()
        here = {k: v.clone() if torch.is_tensor(v) else v for k, v in tensors.items()} | {"input": leaf * 1}
        args = [a for a in (here.pop("input"), here.pop("target")) if a is not None]
        here |= dict(zip(("input", "target"), args, strict=False))
        y = getattr(T, loss.name)(*args, **{k: here[k] for k in options})
        with torch.no_grad():
            here[changed].zero_()
        try:
            y.backward(torch.tensor(times))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error), changed
        else:
            torch.testing.assert_close(leaf.grad, right, msg=changed)


@of_every_op
def test_checkpointed(loss, calls):
    """Nothing of the size of the logits is held: the gradient is taken again, or in the backward pass."""
    x, t = sample(loss)
    torch.utils.checkpoint.checkpoint(lambda x: loss.ours(x * 2, t), x, use_reentrant=False).backward()
    right = x.detach().clone().requires_grad_()
    loss.oracle(right * 2, t).backward()
    torch.testing.assert_close(x.grad, right.grad)
    assert calls["forward"] != 1


@of_every_op
def test_compiled_autograd(loss):
    x, t = sample(loss)
    y = loss.ours(x, t)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        y.backward()
    torch.testing.assert_close(x.grad, gradient(loss)[1])


def test_only_where_a_backward_pass_may_follow(calls):
    x = logits().requires_grad_()
    T.cross_entropy(x.detach(), Y)
    T.cross_entropy(x, Y, reduction="none")
    with torch.no_grad():
        T.cross_entropy(x, Y)
    torch.func.grad(T.cross_entropy)(x, Y)
    torchloss.set_early_gradient(x.numel() - 1)
    T.cross_entropy(x, Y)
    assert calls["forward"] == 0
    torchloss.set_early_gradient(x.numel())
    T.cross_entropy(torch.nn.Parameter(x), Y)
    assert calls["forward"] == 1


def test_only_where_the_logits_alone_need_a_gradient(calls):
    x, q = logits().requires_grad_(), logits().softmax(1)
    weight, count = torch.ones(6), torch.tensor(6.0)
    for other, options in (
        (q, {"target": q}),
        (weight, {"target": Y, "row_weight": weight}),
        (count, {"target": Y, "normalizer": count}),
    ):
        T.cross_entropy(x, **options).backward()
        assert calls["forward"] == 1 and x.grad is not None
        other.requires_grad_()
        T.cross_entropy(x, **options).backward()
        assert calls["forward"] == 1 and other.grad is not None
        calls["forward"] = 0


@pytest.mark.parametrize("most, error", ((-1, ValueError), (1e6, TypeError), (True, TypeError), ("all", TypeError)))
def test_a_wrong_setting_changes_nothing(most, error, calls):
    with pytest.raises(error, match="set_early_gradient: expected a number of logits"):
        torchloss.set_early_gradient(most)
    T.cross_entropy(logits().requires_grad_(), Y)
    assert calls["forward"] == 1


def test_a_one_that_is_not_a_plain_tensor_is_not_looked_at():
    assert not may_be_given(torch.nn.Parameter(torch.ones(())))


def test_a_bad_target_raises_and_leaves_no_gradient():
    x = logits().requires_grad_()
    with pytest.raises(IndexError, match=r"Target 7 is out of bounds"):
        T.cross_entropy(x, torch.tensor([0, 3, 7, 1, 5, 2]))
    assert x.grad is None
    F.cross_entropy(x, Y).backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", (torch.int64, torch.int32, torch.uint8, torch.float16, torch.float64), ids=str)
def test_a_count_of_any_dtype(dtype, calls):
    x = logits().requires_grad_()
    T.cross_entropy(x, Y, normalizer=torch.tensor(4, dtype=dtype)).backward()
    right = never(lambda: torch.autograd.grad(T.cross_entropy(x, Y, normalizer=4.0), x)[0])
    assert torch.equal(x.grad, right) and calls["forward"] == 1
