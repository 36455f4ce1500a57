"""Small problems of cross_entropy, whose gradient is taken in the forward pass: the same as in the backward pass."""

import pytest
import torch
import torch.nn.functional as F

import torchloss.functional as T
from torchloss.autograd import CrossEntropyFunction
from torchloss.autograd.early import LARGEST, is_final

SMALL, Y = (6, 7), torch.tensor([0, 3, 6, 1, 5, 2])
OPTIONS = ({}, {"weight": torch.linspace(0.5, 2, 7)}, {"label_smoothing": 0.2}, {"ignore_index": 3})
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.skipif(CrossEntropyFunction.early is None, reason="needs names that are private to torch")


def logits(dtype=torch.float32):
    return torch.randn(SMALL, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture
def calls(monkeypatch):
    """How often the early Function ran, and how often it had to compute the gradient after all."""
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


@pytest.fixture
def never(monkeypatch):
    """Switches it off while called."""

    def call(step):
        with monkeypatch.context() as patch:
            patch.setattr(CrossEntropyFunction, "early", None)
            return step()

    return call


def gradient(x, times=None, **options):
    x = x.clone().requires_grad_()
    loss = T.cross_entropy(x, Y, **options)
    loss.backward(None if times is None else torch.tensor(times, dtype=x.dtype))
    return loss.detach(), x.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ("mean", "sum"))
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
@pytest.mark.parametrize("times", (None, 0.3, -1.0, 0.0))
def test_the_same_bits(times, options, reduction, dtype, calls, never):
    options = {k: v.to(dtype) if k == "weight" else v for k, v in options.items()}
    x = logits(dtype)
    got = gradient(x, times, reduction=reduction, **options)
    assert calls == {"forward": 1, "late": times is not None}
    expected = never(lambda: gradient(x, times, reduction=reduction, **options))
    assert calls["forward"] == 1
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_the_gradient_is_handed_on_without_a_copy(calls):
    x = logits().requires_grad_()
    loss = T.cross_entropy(x, Y)
    early = loss.grad_fn.saved_tensors[-1]
    place = early.data_ptr()
    del early
    loss.backward()
    assert x.grad.data_ptr() == place


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


def test_only_where_a_backward_pass_of_a_small_problem_may_follow(calls):
    x = logits().requires_grad_()
    T.cross_entropy(x.detach(), Y)
    T.cross_entropy(x, Y, reduction="none")
    with torch.no_grad():
        T.cross_entropy(x, Y)
    torch.func.grad(T.cross_entropy)(x, Y)
    T.cross_entropy(torch.zeros(LARGEST // 256 + 1, 256, requires_grad=True), torch.zeros(LARGEST // 256 + 1).long())
    assert calls["forward"] == 0
    T.cross_entropy(torch.nn.Parameter(x), Y)
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
    assert not is_final(torch.nn.Parameter(torch.ones(())))


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
