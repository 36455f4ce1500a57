"""The gradient of cross_entropy that is taken in the forward pass: the same as in the backward pass."""

import pytest
import torch
import torch.nn.functional as F

import torchloss
import torchloss.functional as T
from torchloss.autograd import CrossEntropyFunction
from torchloss.autograd.early import may_be_given

SMALL, Y = (6, 7), torch.tensor([0, 3, 6, 1, 5, 2])
OPTIONS = ({}, {"weight": torch.linspace(0.5, 2, 7)}, {"label_smoothing": 0.2}, {"ignore_index": 3})
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.skipif(CrossEntropyFunction.early is None, reason="needs names that are private to torch")


def logits(dtype=torch.float32):
    return torch.randn(SMALL, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture
def calls(monkeypatch):
    """How often the early Function ran, and how often it left the gradient to the usual Function."""
    made, counts = CrossEntropyFunction.early, {"forward": 0, "late": 0}
    apply, run_next = made.apply, CrossEntropyFunction.run_next

    def forward(*args):
        counts["forward"] += 1
        return apply(*args)

    def late(*args):
        counts["late"] += 1
        return run_next(*args)

    monkeypatch.setattr(made, "apply", forward)
    monkeypatch.setattr(CrossEntropyFunction, "run_next", staticmethod(late))
    return counts


@pytest.fixture(autouse=True)
def default_again():
    yield
    torchloss.set_early_gradient()


def never(step):
    """Takes it with the early gradient switched off."""
    torchloss.set_early_gradient(0)
    result = step()
    torchloss.set_early_gradient()
    return result


def gradient(x, times=None, **options):
    x = x.clone().requires_grad_()
    loss = T.cross_entropy(x, Y, **options)
    loss.backward(None if times is None else torch.tensor(times, dtype=x.dtype))
    return loss.detach(), x.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum"))
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
@pytest.mark.parametrize("times", (None, 0.3, -1.0, 0.0))
def test_the_same_bits(times, options, reduction, dtype, calls):
    options = {k: v.to(dtype) if k == "weight" else v for k, v in options.items()}
    x = logits(dtype)
    got = gradient(x, times, reduction=reduction, **options)
    assert calls == {"forward": 1, "late": 0}
    expected = never(lambda: gradient(x, times, reduction=reduction, **options))
    assert calls == {"forward": 1, "late": 1}
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


ROWS, CLASSES = 20, 5003  # five chunks of the widest vectors and a tail
LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.t().contiguous().t(),
    "a slice": lambda x: torch.cat((x, x), 1)[:, ::2],
    "an image": lambda x: x.reshape(4, 5, CLASSES).movedim(2, 1).contiguous(),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_long_rows_whose_maximum_rises(layout, options, dtype):
    """The exponentials of the first chunks are seen from another maximum than the last ones."""
    rise = (
        torch.linspace(0, 12, CLASSES, dtype=torch.float64) * torch.linspace(-1, 1, ROWS, dtype=torch.float64)[:, None]
    )
    noise = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = layout(rise + noise).to(dtype)
    y = torch.arange(ROWS) * 250
    options = {k: torch.linspace(0.5, 2, CLASSES).to(dtype) if k == "weight" else v for k, v in options.items()}
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
def test_the_gradient_is_handed_on_without_a_copy(times, calls):
    x = logits().requires_grad_()
    loss = T.cross_entropy(x, Y) * times
    early = loss.grad_fn.next_functions[0][0].saved_tensors[-1]
    place = early.data_ptr()
    del early
    loss.backward()
    assert x.grad.data_ptr() == place
    torch.testing.assert_close(x.grad, never(lambda: gradient(logits(), times)[1]), rtol=0, atol=0)


def test_a_kept_graph_gives_a_fresh_gradient_each_time(calls):
    x = logits().requires_grad_()
    loss = T.cross_entropy(x, Y)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    first.mul_(5)
    (third,) = torch.autograd.grad(loss, x)
    assert calls == {"forward": 1, "late": 2}
    assert torch.equal(second, third) and first.data_ptr() != second.data_ptr() != third.data_ptr()


def test_the_second_derivative(calls):
    x = logits(torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: T.cross_entropy(x, Y, label_smoothing=0.1), x)
    assert calls["forward"] and calls["late"]


def test_a_batch_of_gradients(calls):
    x = logits(torch.float64).requires_grad_()
    g = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    (got,) = torch.autograd.grad(T.cross_entropy(x, Y), x, g, is_grads_batched=True)
    (one,) = torch.autograd.grad(F.cross_entropy(x, Y), x)
    torch.testing.assert_close(got, g[:, None, None] * one)


def test_logits_that_change_before_backward_are_noticed():
    x = logits().requires_grad_()
    z = x * 1
    loss = T.cross_entropy(z, Y)
    with torch.no_grad():
        z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_checkpointed(calls):
    x = logits().requires_grad_()
    torch.utils.checkpoint.checkpoint(lambda x: T.cross_entropy(x * 2, Y), x, use_reentrant=False).backward()
    expected = x.detach().clone().requires_grad_()
    F.cross_entropy(expected * 2, Y).backward()
    torch.testing.assert_close(x.grad, expected.grad)
    assert calls["forward"] == 2


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


@pytest.mark.parametrize("most, error", ((-1, ValueError), (1e6, TypeError), (True, TypeError), ("all", TypeError)))
def test_a_wrong_setting_changes_nothing(most, error, calls):
    with pytest.raises(error, match="set_early_gradient: expected a number of logits"):
        torchloss.set_early_gradient(most)
    T.cross_entropy(logits().requires_grad_(), Y)
    assert calls["forward"] == 1


def test_compiled_autograd():
    x = logits().requires_grad_()
    loss = T.cross_entropy(x, Y)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    expected = x.detach().clone().requires_grad_()
    F.cross_entropy(expected, Y).backward()
    torch.testing.assert_close(x.grad, expected.grad)


def test_a_one_that_is_not_a_plain_tensor_is_not_looked_at():
    assert not may_be_given(torch.nn.Parameter(torch.ones(())))


def test_a_bad_target_raises_and_leaves_no_gradient():
    x = logits().requires_grad_()
    with pytest.raises(IndexError, match=r"Target 7 is out of bounds"):
        T.cross_entropy(x, torch.tensor([0, 3, 7, 1, 5, 2]))
    assert x.grad is None


OP = torch.ops.torchloss.cross_entropy_and_gradient.default
RIGHT = {a.name: v for a, v in zip(OP._schema.arguments, (logits(), Y, None, 1, 1, -100, 0.1), strict=True)}
SPOILED = {
    "a class out of range": {"target": torch.tensor([0, 3, 7, 1, 5, 2])},
    "too few targets": {"target": Y[:5]},
    "no targets": {"target": None},
    "targets of another dtype": {"target": Y.int()},
    "a weight of another size": {"weight": torch.ones(6)},
    "another dimension": {"dim": 2},
    "an unknown reduction": {"reduction": 3},
    "integers": {"input": torch.zeros(6, 7, dtype=torch.long)},
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
def test_a_bad_call_of_the_op(spoiled):
    with pytest.raises(RuntimeError):
        OP(**RIGHT | spoiled)


@pytest.mark.parametrize("reduction", (0, 1, 2))
def test_what_the_op_declares(reduction):
    for x in (logits(), logits().t().contiguous().t(), torch.zeros(0, 7), torch.zeros(6, 0)):
        y = Y[: len(x)] if x.shape[1] else torch.full((6,), -100)
        args = tuple((RIGHT | {"input": x, "target": y, "reduction": reduction}).values())
        torch.library.opcheck(OP, args, test_utils=("test_schema", "test_faketensor"))
