"""What the conformance kit cannot ask of just any loss: which operators a graph holds, and where derivatives end."""

import functools

import pytest
import torch
import torch.utils.checkpoint as checkpoint

import torchloss
from torchloss.testing import CHECKS, Problem
from torchloss.testing.losses import FEW, LOSSES, leaves

each_of_few = pytest.mark.parametrize("loss", FEW, ids=str)
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own tracing


def sample(loss, dtype=torch.float32):
    return leaves(loss, *loss.sample((4, 5), 3), dtype)


@pytest.mark.failure(80)
@each_of_few
def test_compile_keeps_the_kernels(loss):
    """The graphs call our ops, one forward and one backward, and nothing that was taken apart."""
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    seen = []

    def compiler(graph, _):
        seen.append([str(n.target) for n in graph.graph.nodes if "torchloss" in str(n.target)])
        return graph.forward

    x, t = sample(loss)
    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    torch.compile(lambda x: loss.ours(x, t, loss.reductions[-1]), fullgraph=True, backend=backend)(x).sum().backward()
    assert seen == [[f"torchloss.{loss.op}.default"], [f"torchloss.{loss.op}_backward.default"]]


@each_of_few
def test_joint_graph(loss):
    from torch._functorch.aot_autograd import aot_export_joint_simple

    x, t = sample(loss)
    args = (x,) if t is None else (x, t)
    graph = aot_export_joint_simple(
        lambda a, b=None: (loss.ours(a, b, loss.reductions[-1]).sum(),), args, trace_joint=True
    )
    targets = [str(n.target) for n in graph.graph.nodes]
    assert f"torchloss.{loss.op}.default" in targets and f"torchloss.{loss.op}_backward.default" in targets


@each_of_few
def test_selective_checkpoint(loss):
    """An operator can be named as one whose result is kept, or computed again."""
    ops = [getattr(torch.ops.torchloss, loss.op).default]
    context = functools.partial(checkpoint.create_selective_checkpoint_contexts, ops)
    x, t = sample(loss)
    y = checkpoint.checkpoint(
        lambda x: loss.ours(x, t, loss.reductions[-1]), x, use_reentrant=False, context_fn=context
    )
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("loss", [FEW[1], FEW[-2]], ids=str)
def test_compiled_second_derivatives(loss):
    """Two of what the slow check asks of all."""
    problem = Problem(getattr(torchloss.functional, loss.name), loss.name, (loss,))
    (row,) = CHECKS["compile_of_second_derivatives"].run(problem)
    assert row.outcome == "pass", row.detail


@pytest.mark.failure(69)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_third_derivative_is_refused(loss):
    """A third derivative is an error, not a silent zero, or right."""
    x, t = sample(loss, torch.float64)

    def nth(n, x, loss_of=loss.ours):
        y = loss_of(x, t, loss.reductions[-1]).square().sum()
        for _ in range(n):
            (y,) = torch.autograd.grad((y * torch.ones_like(y)).sum(), x, create_graph=True, allow_unused=True)
            if y is None or not y.requires_grad:
                return y
        return y

    if loss.family == "map":
        torch.testing.assert_close(nth(3, x), nth(3, x, loss.oracle))
        return
    second = nth(2, x)
    with pytest.raises(NotImplementedError, match="third derivative in the input"):
        torch.autograd.grad((second * torch.ones_like(second)).sum(), x)


@pytest.mark.parametrize("loss", FEW, ids=str)
def test_third_derivative_is_refused_by_forward_mode(loss):
    """Whichever mode comes last; softmax and log_softmax have it."""
    x, t = loss.sample((2, 3), 3)

    def f(x):
        return loss.ours(x, t, loss.reductions[-1]).square().sum()

    third = torch.func.jacfwd(torch.func.jacfwd(torch.func.grad(f)))
    if loss.family == "map":
        right = torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(lambda x: loss.oracle(x, t).square().sum())))
        torch.testing.assert_close(third(x), right(x))
        return
    with pytest.raises(NotImplementedError, match="third derivative in the input"):
        third(x)


def test_only_an_asked_for_third_derivative_is_refused():
    """A tensor that merely requires a gradient does not trigger the error."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0, 1, 3])
    v = torch.randn_like(x, requires_grad=True)
    (first,) = torch.autograd.grad(torchloss.functional.cross_entropy(x, t), x, create_graph=True)
    (second,) = torch.autograd.grad(first, x, v, create_graph=True)
    (got,) = torch.autograd.grad(second, v, torch.ones_like(v), retain_graph=True)
    with pytest.raises(NotImplementedError, match="third derivative"):
        second.sum().backward()
    hessian = torch.autograd.functional.hessian(lambda x: torch.nn.functional.cross_entropy(x, t), x)
    torch.testing.assert_close(got, hessian.sum((0, 1)))
