"""The test of the tests: check_loss lets no seeded bug live, and has nothing against the function without them."""

import pytest
import torch
import torch.nn.functional
from mutants.bugs import BUGS, mutant
from mutants.stand_in import cross_entropy
from mutants.stand_in_huber import huber_loss
from test_edge_cases import equal, outcome
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from torchloss.testing import check_loss
from torchloss.testing.edge_cases import CASES
from torchloss.testing.losses import LOSSES, REDUCTIONS, leaves

pytestmark = pytest.mark.usefixtures("one_thread")


class StandIns:
    cross_entropy = staticmethod(cross_entropy)
    huber_loss = staticmethod(huber_loss)


LIKE = [name for name in vars(StandIns) if not name.startswith("_")]
each_like = pytest.mark.parametrize("like", LIKE)
each_loss = pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.name in LIKE], ids=str)
each_bug = pytest.mark.parametrize("bug", BUGS, ids=str)


def stand_in(loss, x, t, reduction):
    return loss._call(getattr(StandIns, loss.name), x, t, reduction)


@each_loss
@pytest.mark.parametrize("shape", [(4, 1), (3, 5), (2, 130), (2, 3, 2)], ids=str)
def test_stand_in_is_right(loss, shape):
    for reduction in REDUCTIONS:
        results = []
        for call in (lambda *args: stand_in(loss, *args), loss.oracle):
            x, t = leaves(loss, *loss.sample(shape))
            value = call(x, t, reduction)
            value.backward(torch.linspace(1, 2, value.numel(), dtype=x.dtype).reshape(value.shape))
            results.append([value.detach(), x.grad, *[t.grad] * loss.target_grad])
        for mine, right in zip(*results, strict=True):
            assert_close(mine, right)


@each_loss
def test_stand_in_is_twice_differentiable(loss):
    x, t = leaves(loss, *loss.sample((2, 3), 1))
    inputs = (x, t) if loss.target_grad else (x,)

    def mean(x, t=t):
        return stand_in(loss, x, t, "mean")

    assert gradcheck(mean, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(mean, inputs, atol=1e-8, rtol=1e-6, check_batched_grad=True)


@each_like
def test_stand_in_at_the_edges(like):
    cases = [case for case in CASES if case.function == like]
    assert cases
    for case in cases:
        if case.error is not None:
            with pytest.raises(case.error[0]) as caught:
                outcome(case, StandIns, "cpu")
            assert str(caught.value).startswith(case.error[1]), case
            continue
        value, grads, _ = outcome(case, StandIns, "cpu")
        for mine, right in ((value, case.value), *zip(grads, (case.grad, case.target_grad), strict=False)):
            if right is not None:
                equal(mine, right)


def test_stand_in_is_exact():
    """At any margin, with large logits, and in bfloat16."""
    for dtype, shift, eps in ((torch.float32, 0, 1e-6), (torch.float32, 2**20, 1e-6), (torch.bfloat16, 0, 2**-8)):
        for margin in (1, 17, 30, 60):
            x = torch.zeros(1, 100, dtype=dtype)
            x[0, 3] = margin
            low, high = (x + shift).requires_grad_(), x.double().requires_grad_()
            value, exact = cross_entropy(low, torch.tensor([3])), torch.log1p(99 * torch.exp(-high[0, 3]))
            value.backward()
            exact.backward()
            assert_close(value.double(), exact, rtol=eps, atol=0)
            assert_close(low.grad[0, 3].double(), high.grad[0, 3], rtol=eps, atol=0)


@each_like
def test_enough_bugs(like):
    bugs = [bug for bug in BUGS if bug.like == like]
    assert len({bug.name for bug in bugs}) == len(bugs) > 15


@each_bug
def test_bug_is_in_its_place(bug):
    """The mutant loads, and a plain call gets through: it takes a real check to kill it."""
    x = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.25]])
    t = torch.tensor([2, 0]) if bug.like == "cross_entropy" else x.cos()
    assert mutant(bug)(x, t).shape == ()


@pytest.mark.slow
@each_like
def test_kit_passes_the_stand_in(like):
    report = check_loss(getattr(StandIns, like), like=like)
    assert report, report


@pytest.mark.parametrize("like, check", sorted({(bug.like, bug.check) for bug in BUGS}))
def test_check_passes_the_stand_in(like, check):
    """Without the bug there is nothing to find: it is the bug that a check finds below."""
    report = check_loss(getattr(StandIns, like), like=like, only=[check])
    assert report, report


@each_bug
def test_kit_kills(bug):
    """If this check no longer finds it, `check_loss` with all of them tells which one does; none: the kit lacks one."""
    report = check_loss(mutant(bug), like=bug.like, only=[bug.check])
    assert report.failures, f"{bug.check} lets it live: {bug.what}"
