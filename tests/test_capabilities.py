"""What works where: every way in which PyTorch may call a loss, each against torch's own composition.

Each check takes (f, g, leaves): ours and the oracle as functions of an input and a target, and fresh leaves.
"""

import functools

import pytest
import torch
import torch._dynamo.testing
import torch.func as func
import torch.utils.checkpoint as checkpoint
from torch.autograd import gradcheck
from torch.testing import assert_close

from torchloss.testing.losses import FEW, leaves

CHECKS = {}


def check(f):
    CHECKS[f.__name__] = f
    return f


class Problem:
    """A loss of FEW, its oracle, and samples of a few shapes; `f` and `g` take (input, target, reduction)."""

    def __init__(self, loss):
        self.loss, self.f, self.g = loss, loss.ours, loss.oracle
        self.reductions = loss.reductions
        self.reduction = loss.reductions[-1]

    def leaves(self, shape=(4, 5), dtype=torch.float64):
        return leaves(self.loss, *self.loss.sample(shape, 3), dtype)

    def detached(self, shape=(4, 5), dtype=torch.float64):
        return tuple(None if a is None else a.detach() for a in self.leaves(shape, dtype))

    def batch(self, n, shape):
        """n samples, stacked."""
        pairs = [self.loss.sample(shape, seed) for seed in range(n)]
        x, t = ([p[i] for p in pairs] for i in range(2))
        return torch.stack(x), None if t[0] is None else torch.stack(t)

    def of_input(self, call, t, reduction=None):
        return lambda x: call(x, t, reduction or self.reduction)

    def scalar(self, call, t, reduction=None):
        """The loss as one number: of a row that maps to a row, a fixed weighted sum."""
        reduction = reduction or self.reduction
        return lambda x: weighted(call(x, t, reduction))

    def batch_dims(self, t):
        return (0, None if t is None else 0)


def weighted(y):
    return (y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()


def same(ours, theirs):
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if torch.is_tensor(theirs) and theirs.dtype == torch.float32 else {}
    assert_close(ours, theirs, **tolerance)


def gradients(call, x, t):
    weighted(call).backward() if torch.is_tensor(call) else None
    return x.grad, None if t is None else t.grad


# Eager autograd


@check
def batched_gradients(p):
    for r in p.reductions:
        x, t = p.leaves()
        assert gradcheck(p.of_input(p.f, t, r), (x,), check_batched_grad=True)


@check
def a_subset_of_gradients(p):
    x, t = p.leaves()
    weighted(p.f(x, None if t is None else t.detach(), p.reduction)).backward()
    assert x.grad is not None
    if p.loss.target_grad:
        x, t = p.leaves()
        weighted(p.f(x.detach(), t, p.reduction)).backward()
        assert t.grad is not None and x.grad is None


@check
def no_gradient_wanted(p):
    x, t = p.detached()
    y = p.f(x, t, p.reduction)
    assert not y.requires_grad
    with torch.inference_mode():
        assert_close(p.f(x, t, p.reduction), y)
    with torch.no_grad():
        assert not p.f(*p.leaves(), p.reduction).requires_grad


@check
def second_backward(p):
    x, t = p.leaves()
    y = weighted(p.f(x, t, p.reduction))
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    assert torch.equal(x.grad, 2 * first)


@check
def modified_in_place_is_noticed(p):
    x, t = p.leaves()
    z = x * 1
    y = p.f(z, t, p.reduction)
    (y if p.loss.family == "map" else z).add_(1)
    if p.loss.name == "nll_loss":  # its gradient does not depend on what was changed
        return
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        weighted(y).backward()


@check
def saved_tensor_hooks(p):
    x, t = p.leaves()
    with torch.autograd.graph.save_on_cpu():
        y = p.f(x, t, p.reduction)
    weighted(y).backward()
    x_, t_ = p.leaves()
    weighted(p.g(x_, t_, p.reduction)).backward()
    assert_close(x.grad, x_.grad)


@check
def anomaly_mode(p):
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        x, t = p.leaves()
        weighted(p.f(x, t, p.reduction)).backward()


@check
def activation_checkpoint(p):
    for reentrant in (True, False):
        x, t = p.leaves()
        y = checkpoint.checkpoint(p.of_input(lambda a, *r: p.f(a * 2, *r), t), x, use_reentrant=reentrant)
        weighted(y).backward()
        x_, t_ = p.leaves()
        weighted(p.g(x_ * 2, t_, p.reduction)).backward()
        assert_close(x.grad, x_.grad)


@check
def selective_checkpoint(p):
    ops = [getattr(torch.ops.torchloss, p.loss.op).default]
    context = functools.partial(checkpoint.create_selective_checkpoint_contexts, ops)
    x, t = p.leaves()
    y = checkpoint.checkpoint(p.of_input(p.f, t), x, use_reentrant=False, context_fn=context)
    weighted(y).backward()
    assert x.grad is not None


# torch.func


@check
def grad(p):
    x, t = p.detached()
    assert_close(func.grad(p.scalar(p.f, t))(x), func.grad(p.scalar(p.g, t))(x))


@check
def vmap(p):
    x, t = p.batch(6, (4, 5))
    for r in p.reductions:
        run = lambda call, r=r: func.vmap(lambda a, b: call(a, b, r), in_dims=p.batch_dims(t))(x, t)  # noqa: E731
        assert_close(run(p.f), run(p.g))


@check
def vmap_of_another_dimension(p):
    if p.loss.weights:  # made of the input's shape in the oracle's layout
        return
    x, _ = p.detached((4, 5))
    _, t = p.detached((4, 5))
    run = lambda call: func.vmap(lambda a: call(a, t, p.reduction), in_dims=2)(x.unsqueeze(2).repeat(1, 1, 3))  # noqa: E731
    assert_close(run(p.f), run(p.g))


@check
def vmap_of_grad(p):
    x, t = p.batch(6, (4, 5))
    for r in p.reductions:
        run = lambda call, r=r: func.vmap(  # noqa: E731
            func.grad(lambda a, b: weighted(call(a, b, r))), in_dims=p.batch_dims(t)
        )(x, t)
        assert_close(run(p.f), run(p.g))


@check
def grad_of_vmap(p):
    x, t = p.batch(6, (4, 5))
    run = lambda call: func.grad(  # noqa: E731
        lambda a: weighted(func.vmap(lambda b, c: call(b, c, p.reduction), in_dims=p.batch_dims(t))(a, t))
    )(x)
    assert_close(run(p.f), run(p.g))


@check
def jvp(p):
    x, t = p.detached()
    v = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    for r in p.reductions:
        assert_close(func.jvp(p.of_input(p.f, t, r), (x,), (v,)), func.jvp(p.of_input(p.g, t, r), (x,), (v,)))


@check
def jacrev_of_jacrev(p):
    x, t = p.detached((3, 4))
    assert_close(func.jacrev(func.jacrev(p.scalar(p.f, t)))(x), func.hessian(p.scalar(p.g, t))(x))


@check
def hessian(p):
    x, t = p.detached((3, 4))
    assert_close(func.hessian(p.scalar(p.f, t))(x), func.hessian(p.scalar(p.g, t))(x))
    if p.loss.target_grad:
        ours, theirs = (func.hessian(lambda b, c=c: weighted(c(x, b, p.reduction)))(t) for c in (p.f, p.g))
        assert_close(ours, theirs)


@check
def vmap_of_hessian(p):
    x, t = p.batch(2, (3, 4))
    run = lambda call: func.vmap(  # noqa: E731
        func.hessian(lambda a, b: weighted(call(a, b, p.reduction))), in_dims=p.batch_dims(t)
    )(x, t)
    assert_close(run(p.f), run(p.g))


# torch.compile and torch.export


def compiled(p, backend, **options):
    for r in p.reductions:
        torch._dynamo.reset()
        x, t = p.leaves(dtype=torch.float32)
        step = lambda call, r=r: lambda a, b: weighted(call(a * 1.5, b, r)) * 3  # noqa: E731
        y = torch.compile(step(p.f), fullgraph=True, backend=backend, **options)(x, t)
        y.backward()
        x_, t_ = p.leaves(dtype=torch.float32)
        y_ = step(p.g)(x_, t_)
        y_.backward()
        same(y.detach(), y_.detach())
        same(x.grad, x_.grad)
        if p.loss.target_grad:
            same(t.grad, t_.grad)


@check
def compile_eager_backend(p):
    compiled(p, "eager")


@check
def compile_aot_eager(p):
    compiled(p, "aot_eager")


@check
def compile_inductor(p):
    compiled(p, "inductor")


@check
def compile_dynamic_shapes(p):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    f = torch.compile(lambda a, b: p.f(a * 1.5, b, p.reduction), fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for n in (4, 7, 9):
        x, t = p.leaves((n, 5), torch.float32)
        y = f(x, t)
        weighted(y).backward()
        same(y.detach(), p.g(x * 1.5, t, p.reduction).detach())
        counts.append(counter.frame_count)
    assert counts[-1] == counts[0], "a new batch size compiled again"


@check
def compile_keeps_the_kernels(p):
    """The graphs call our ops, one forward and one backward, and nothing that was taken apart."""
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    seen = []

    def compiler(graph, _):
        seen.append([str(n.target) for n in graph.graph.nodes if "torchloss" in str(n.target)])
        return graph.forward

    x, t = p.leaves(dtype=torch.float32)
    f = torch.compile(
        p.of_input(p.f, t), fullgraph=True, backend=aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    )
    weighted(f(x)).backward()
    op = f"torchloss.{p.loss.op}"
    assert seen == [[f"{op}.default"], [f"{op}_backward.default"]]


@check
def compile_of_grad(p):
    torch._dynamo.reset()
    x, t = p.detached()
    f = torch.compile(func.grad(p.scalar(p.f, t)), fullgraph=True, backend="aot_eager")
    assert_close(f(x), func.grad(p.scalar(p.g, t))(x))


@check
def compile_of_vmap_of_grad(p):
    torch._dynamo.reset()
    x, t = p.batch(6, (4, 5))
    run = lambda call: func.vmap(  # noqa: E731
        func.grad(lambda a, b: weighted(call(a, b, p.reduction))), in_dims=p.batch_dims(t)
    )
    assert_close(torch.compile(run(p.f), fullgraph=True, backend="aot_eager")(x, t), run(p.g)(x, t))


@check
def compile_of_checkpoint(p):
    torch._dynamo.reset()
    x, t = p.leaves(dtype=torch.float32)

    def step(a, b):
        return checkpoint.checkpoint(lambda c: weighted(p.f(c * 2, b, p.reduction)), a, use_reentrant=False)

    torch.compile(step, fullgraph=True, backend="aot_eager")(x, t).backward()
    x_, t_ = p.leaves(dtype=torch.float32)
    weighted(p.g(x_ * 2, t_, p.reduction)).backward()
    same(x.grad, x_.grad)


@check
def compiled_autograd(p):
    torch._dynamo.reset()
    x, t = p.leaves(dtype=torch.float32)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        weighted(p.f(x, t, p.reduction)).backward()
    x_, t_ = p.leaves(dtype=torch.float32)
    weighted(p.g(x_, t_, p.reduction)).backward()
    same(x.grad, x_.grad)


class Model(torch.nn.Module):
    def __init__(self, call, reduction):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(5, 5)
        self.call, self.reduction = call, reduction

    def forward(self, x, t=None):
        return self.call(self.linear(x).log_softmax(-1).exp() * 0.9 + 0.01, t, self.reduction).sum()


def exported(p, strict, dynamic):
    torch._dynamo.reset()
    x, t = p.detached(dtype=torch.float32)
    args = (x,) if t is None else (x, t)
    shapes = tuple({0: torch.export.Dim("batch", min=2)} for _ in args) if dynamic else None
    model, reference = Model(p.f, p.reduction), Model(p.g, p.reduction)
    program = torch.export.export(model, args, strict=strict, dynamic_shapes=shapes)
    program.run_decompositions()
    module = program.module()
    y = module(*args)
    same(y, reference(*args))
    assert y.requires_grad, "the exported loss cannot be trained"
    y.backward()
    reference(*args).backward()
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        same(ours.grad, theirs.grad)


@check
def export_strict(p):
    exported(p, strict=True, dynamic=False)


@check
def export_nonstrict(p):
    exported(p, strict=False, dynamic=False)


@check
def export_dynamic(p):
    exported(p, strict=False, dynamic=True)


@check
def export_joint_graph(p):
    from torch._functorch.aot_autograd import aot_export_joint_simple

    x, t = p.leaves(dtype=torch.float32)
    args = (x,) if t is None else (x, t)
    graph = aot_export_joint_simple(lambda a, b=None: (p.f(a, b, p.reduction).sum(),), args, trace_joint=True)
    targets = [str(n.target) for n in graph.graph.nodes]
    assert f"torchloss.{p.loss.op}.default" in targets and f"torchloss.{p.loss.op}_backward.default" in targets


@check
def aot_inductor(p):
    torch._dynamo.reset()
    x, t = p.detached(dtype=torch.float32)
    args = (x,) if t is None else (x, t)
    model = Model(p.f, p.reduction).eval()
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(torch.export.export(model, args))
        same(torch._inductor.aoti_load_package(package)(*args), model(*args))


@check
def meta_tensors(p):
    x, t = p.detached()
    y = p.f(x.to("meta"), None if t is None else t.to("meta"), p.reduction)
    assert y.device.type == "meta" and y.shape == p.g(x, t, p.reduction).shape


# Mixed precision


@check
def autocast(p):
    x, t = p.detached(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        low = (x @ torch.eye(5)).abs() + 0.01
        target = t.bfloat16() if t is not None and t.is_floating_point() else t
        ours = p.f(low, target, p.reduction).dtype
        if p.loss.oracle.__func__ and p.loss.name in dir(torch.nn.functional) and not p.loss.weights:
            assert ours == p.g(low, target, p.reduction).dtype
        else:
            assert ours == torch.float32


@check
def grad_scaler(p):
    x, t = p.leaves(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(weighted(p.f(x, t, p.reduction))).backward()
    x_, t_ = p.leaves(dtype=torch.float32)
    weighted(p.g(x_, t_, p.reduction)).backward()
    same(x.grad / 1024, x_.grad)


SLOW = {"compile_inductor", "aot_inductor"}  # they start a compiler


@pytest.mark.parametrize("loss", FEW, ids=str)
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CHECKS])
@pytest.mark.filterwarnings("ignore")  # of torch's own tracing
def test_capability(name, loss):
    CHECKS[name](Problem(loss))
