"""torch.compile and torch.export: one graph, the right numbers, no recompilation without need."""

import torch
import torch.func as func
import torch.utils.checkpoint as checkpoint
from torch.utils._python_dispatch import TorchDispatchMode

from ..kit import check
from ..trial import Unsupported
from .autograd import batch_dims, by_jvp, curved, direction, gradient_of_each, reverse_twice, weighted
from .precision import is_reduced, one_rounding, only
from .values import value_and_gradient


def graphs(**options):
    return check("torch.compile", **{"few": True} | options)


def no_weights(loss):
    return not loss.weights


def hvp_by_torch(f, x, t):
    return (reverse_twice(lambda x: curved(f, x, t), x, direction(x)),) * 4


def orders(g, x):
    v = direction(x)
    return (
        func.grad(lambda y: (func.grad(g)(y) * v).sum())(x),
        func.grad(lambda y: by_jvp(g, y, v))(x),
        by_jvp(func.grad(g), x, v),
        func.jacfwd(lambda y: by_jvp(g, y, v))(x),
    )


def float32_first(p):
    return [torch.float32] if torch.float32 in p.dtypes else [p.main]


def compiled(f, backend, **options):
    torch._dynamo.reset()
    return torch.compile(lambda x, t: f(x * 0.9, t) * 3, fullgraph=True, backend=backend, **options)


def scaled_value_and_gradient(f, x, t):
    return value_and_gradient(lambda x, t: f(x * 0.9, t) * 3, x, t)


@graphs(dtypes=float32_first, reference=scaled_value_and_gradient)
def compile_to_one_graph(f, x, t):
    """torch.compile(fullgraph=True), forward and backward traced ahead of time."""
    return value_and_gradient(compiled(f, "aot_eager"), x, t)


@graphs(dtypes=float32_first, reference=scaled_value_and_gradient, reductions="last")
def compile_eager_backend(f, x, t):
    """torch.compile(fullgraph=True), backward by autograd."""
    return value_and_gradient(compiled(f, "eager"), x, t)


@graphs(dtypes=only(torch.bfloat16), where=is_reduced, reference=value_and_gradient, tolerance=one_rounding)
def compile_in_bfloat16(f, x, t):
    """A compiled loss of 16-bit numbers rounds no more than an eager one."""
    torch._dynamo.reset()
    return value_and_gradient(torch.compile(f, fullgraph=True, backend="aot_eager"), x, t)


@graphs(dtypes=float32_first, reference=scaled_value_and_gradient, slow=True)
def compile_with_inductor(f, x, t):
    """torch.compile's default compiler."""
    return value_and_gradient(compiled(f, "inductor"), x, t)


@graphs(reductions="last", reference=False, where=no_weights, few=False)
def compile_once_for_all_sizes(f, x, t):
    """Dynamic shapes: another batch size does not compile again, and is right."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    g = torch.compile(f, fullgraph=True, backend=counter, dynamic=True)
    first = None
    for n in (4, 7, 9):
        a, b = (None if a is None else torch.cat([a.detach()] * 3)[:n].clone() for a in (x, t))
        a.requires_grad_()
        y, expected = g(a, b), f(a, b)
        assert torch.allclose(y, expected, equal_nan=True), f"{y} compiled, {expected} eager, for {n} rows"
        first = first or counter.frame_count
    assert counter.frame_count == first, "a new batch size compiled again"


@graphs(leaves=False, reductions="last", reference=lambda f, x, t: func.grad(lambda x: weighted(f(x, t)))(x))
def compile_of_grad(f, x, t):
    """torch.compile of torch.func.grad."""
    torch._dynamo.reset()
    g = func.grad(lambda x: weighted(f(x, t)))
    return torch.compile(g, fullgraph=True, backend="aot_eager")(x)


@graphs(leaves=False, reductions="last", reference=hvp_by_torch, slow=True)
def compile_of_second_derivatives(f, x, t):
    """torch.compile of a second derivative: each mode over each other."""
    torch._dynamo.reset()
    return torch.compile(lambda x: orders(lambda y: curved(f, y, t), x), fullgraph=True, backend="aot_eager")(x)


@graphs(leaves=False, reductions="last", batch=3, reference=gradient_of_each)
def compile_of_vmap_of_grad(f, x, t):
    """torch.compile of vmap(grad(f))."""
    torch._dynamo.reset()
    g = func.vmap(func.grad(lambda a, b: weighted(f(a, b))), in_dims=batch_dims(t))
    return torch.compile(g, fullgraph=True, backend="aot_eager")(x, t)


@graphs(dtypes=float32_first, reductions="last", reference=value_and_gradient)
def compile_of_checkpoint(f, x, t):
    """torch.compile of a checkpointed loss."""
    torch._dynamo.reset()
    g = torch.compile(
        lambda x: checkpoint.checkpoint(lambda a: f(a, t), x, use_reentrant=False), fullgraph=True, backend="aot_eager"
    )
    y = g(x)
    weighted(y).backward()
    return y, x.grad


@graphs(dtypes=float32_first, reductions="last", reference=value_and_gradient)
def compiled_autograd(f, x, t):
    """The backward pass captured by compiled autograd."""
    torch._dynamo.reset()
    y = f(x, t)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        weighted(y).backward()
    return y, x.grad


class Model(torch.nn.Module):
    """A linear layer and the loss."""

    def __init__(self, f, x):
        super().__init__()
        self.linear = torch.nn.Linear(x.shape[1], x.shape[1], dtype=x.dtype, device=x.device)
        torch.nn.init.constant_(self.linear.bias, 0.25)
        torch.nn.init.eye_(self.linear.weight)
        self.f = f

    def forward(self, x, t=None):
        return self.f(self.linear(x).log_softmax(-1).exp() * 0.9 + 0.01, t).sum()


def trained(module, model, args):
    y = module(*args)
    assert y.requires_grad, "the exported loss cannot be trained"
    y.backward()
    return (y, *(p.grad for p in module.parameters()))


def of_the_model(f, x, t):
    model = Model(f, x)
    return trained(model, model, (x,) if t is None else (x, t))


def exported(f, x, t, decomposed=False, **options):
    torch._dynamo.reset()
    args = (x,) if t is None else (x, t)
    model = Model(f, x)
    program = torch.export.export(model, args, **options)
    in_core_operators = program.run_decompositions()
    return trained((in_core_operators if decomposed else program).module(), model, args)


def exports(**options):
    return graphs(dtypes=float32_first, leaves=False, reductions="last", reference=of_the_model, **options)


@exports()
def export_strict(f, x, t):
    """torch.export, strict; the program can be trained."""
    return exported(f, x, t, strict=True)


@exports()
def export_nonstrict(f, x, t):
    """torch.export, not strict; the program can be trained."""
    return exported(f, x, t, strict=False)


@exports(where=no_weights, few=False)
def export_dynamic(f, x, t):
    """torch.export for any batch size."""
    shapes = tuple({0: torch.export.Dim("batch", min=2)} for a in (x, t) if a is not None)
    return exported(f, x, t, decomposed=True, strict=False, dynamic_shapes=shapes)


@graphs(dtypes=float32_first, leaves=False, reductions="last", slow=True, reference=lambda f, x, t: Model(f, x)(x, t))
def aot_inductor(f, x, t):
    """AOTInductor: the exported loss as a compiled package."""
    torch._dynamo.reset()
    args = (x,) if t is None else (x, t)
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(torch.export.export(Model(f, x).eval(), args))
        return torch._inductor.aoti_load_package(package)(*args)


@graphs(leaves=False, reference=False, where=no_weights, few=False)
def meta_tensors(f, x, t):
    """On the meta device: the shape and dtype, and nothing computed."""
    y, z = f(x, t), f(x.to("meta"), None if t is None else t.to("meta"))
    assert z.device.type == "meta" and z.shape == y.shape and z.dtype == y.dtype, f"{z} for {y}"


class CustomOps(TorchDispatchMode):
    """Remembers the calls of operators that are not torch's own."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if getattr(func, "namespace", "aten") not in ("aten", "prims", "prim", "profiler"):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@graphs(reference=False)
def opcheck(f, x, t):
    """The operators that forward and backward call, if they are not torch's own, pass torch.library.opcheck."""
    with CustomOps() as seen:
        weighted(f(x, t)).backward()
    if not seen.calls:
        raise Unsupported("it calls no operator but torch's own")
    for op, args, kwargs in seen.calls:
        torch.library.opcheck(op, args, kwargs)
