"""What every Function shares: how it is run, bound to its op and batched."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.function import FunctionCtx

from torchloss import _library  # noqa: F401  (loads the operators)

try:
    from torch._C._functorch import unwrap_if_dead
    from torch._functorch.autograd_function import enable_single_level_autograd_function
    from torch.autograd.function import _SingleLevelFunction
except ImportError:  # private names: without them only torch.compile(torch.func.grad(...)) is lost
    _SingleLevelFunction = None

ops = torch.ops.torchloss
NONE, MEAN, SUM = 0, 1, 2
PLAIN = frozenset((int, float, bool, type(None)))  # of which isinstance is slow to say that they are no tensors

_impl = torch.library.Library("torchloss", "IMPL")  # lives as long as its kernels


def alive(args: tuple) -> list:
    """The arguments without the wrappers that a torch.func transform left behind when it ended."""
    return [a if type(a) in PLAIN or not isinstance(a, Tensor) else unwrap_if_dead(a) for a in args]


def run(function: type[Function], *args: Any) -> Any:
    """Applies a Function, or calls its op while a graph is being traced, or where none is wanted."""
    if torch.compiler.is_compiling():
        return function.traced(*args)
    if function.single is None or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    args = alive(args)
    if torch.is_grad_enabled() or forward_mode():
        return function.single.apply(*args)
    return function.below(*args)


def loss_of(function: type[Function], *args: Any) -> Tensor:
    """The first result of a Function: the loss, without what it leaves for its backward pass."""
    if (
        torch.compiler.is_compiling()
        or function.single is None
        or torch._C._are_functorch_transforms_active()
        or forward_mode()
        or not torch.is_grad_enabled()
    ):
        return run(function, *args)[0]
    args = alive(args)
    if function.early is not None and function.early.pays(*args):
        return function.early.apply(*args[:3], args[3:])
    return function.lean.apply(*args)


def forward_mode() -> bool:
    """Whether there may be tangents."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def bind(function: type[Function]) -> None:
    """Gives the op of a Function its autograd and vmap rules, and the Function its `below`, `single` and `lean`.

    `below` calls the op without autograd. `single` is the same Function for a single level of autograd: what `apply`
    comes down to when no torch.func transform is active. It spares the small calls the 15 us that `Function.apply`
    spends on looking its signature up. `lean` is that with one result, for the loss itself: the others are saved, but
    not wrapped.
    """
    op = function.op
    name = op._schema.name
    torch.library.register_vmap(name, lambda info, in_dims, *args: function.batched(op, info, in_dims, *args))
    if _SingleLevelFunction is None:
        setup = function.setup_context
        torch.library.register_autograd(
            name, function.backward, setup_context=lambda ctx, inputs, output: setup(ctx, inputs, output)
        )
        return

    guard = torch._C._AutoDispatchBelowAutograd

    def below(*args: Any) -> Any:
        with guard():
            return op(*args)

    def lean(ctx: FunctionCtx, *args: Any) -> Tensor:
        with guard():
            outputs = op(*args)
        function.keep(ctx, args, outputs)
        return outputs[0]

    function.below = staticmethod(below)
    rules = {"backward": function.backward, "jvp": function.jvp}
    function.single = single_level(function.__name__, forward=below, setup_context=function.setup_context, **rules)
    function.lean = single_level(function.__name__, forward=lean, **rules)

    def kernel(*args: Any) -> Any:
        with enable_single_level_autograd_function():
            return function.single.apply(*args)

    _impl.impl(op._opname, kernel, "Autograd")


def single_level(name: str, **members: Callable) -> type:
    """A Function for a single level of autograd, made of static methods."""
    members = {m: staticmethod(f) for m, f in members.items()}
    key = getattr(Function, "_compiled_autograd_key", None)
    return type(name, (_SingleLevelFunction,), members | {"_compiled_autograd_key": key})


def batch_first(x: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The tensor with the batch dimension of a vmap in front; expanded if it has none."""
    if x is None:
        return None
    return x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def sum_each(x: Tensor) -> Tensor:
    """Sums every sample of a batch."""
    return x.reshape(x.shape[0], -1).sum(1) if x.dim() > 1 else x


def per_element(grad: Tensor, like: tuple[int, ...]) -> Tensor:
    """A gradient per sample, as one per element."""
    return grad.reshape(-1, *[1] * (len(like) - 1)).expand(like)


def add(*terms: Tensor | None) -> Tensor | None:
    """The sum of what is there."""
    there = [t for t in terms if t is not None]
    return sum(there[1:], there[0]) if there else None


class Chain(Function):
    """What every Function here shares. `op` is its operator, `next` the Function of its backward.

    `traced` calls the op and `run_next` runs the next Function: static methods, which Dynamo can follow. `keep` saves
    what backward needs, of the arguments and the op's outputs. `early` is a Function for small problems (early.py).
    """

    op: Any
    next: type[Function]
    single: type | None = None
    lean: type | None = None
    early: type | None = None
    below: Callable
    traced: Callable
    run_next: Callable

    @classmethod
    def forward(cls, *args: Any) -> Any:
        return cls.op(*args)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return cls.batched(cls.apply, info, in_dims, *args)

    @classmethod
    def keep(cls, ctx: FunctionCtx, inputs: tuple, outputs: Any) -> None:
        cls.setup_context(ctx, inputs, outputs)

    @staticmethod
    def save(ctx: FunctionCtx, *tensors: Tensor | None) -> None:
        ctx.save_for_backward(*tensors)
        if forward_mode():
            ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)


class Last(Chain):
    """A double gradient: the end of the chain."""

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: Any) -> None:
        pass

    @classmethod
    def backward(cls, ctx: FunctionCtx, *grads: Any) -> Any:
        raise NotImplementedError(f"{cls.op._schema.name}: the third derivative is not implemented")

    @classmethod
    def jvp(cls, ctx: FunctionCtx, *tangents: Any) -> Any:
        raise NotImplementedError(f"{cls.op._schema.name}: the third derivative is not implemented")


def chain(name: str, loss: type[Chain], gradient: type[Chain], double: type[Chain]) -> type[Function]:
    """The three Functions of the op `name`, each bound to its operator; returns the first."""
    title = "".join(w.capitalize() for w in name.split("_"))
    after = None
    for suffix, base in (("_double_backward", double), ("_backward", gradient), ("", loss)):
        op = getattr(ops, name + suffix).default
        after = derive(title + suffix.title().replace("_", ""), base, op, after)
        bind(after)
    return after


def derive(name: str, base: type[Chain], op: Any, after: type[Function] | None) -> type[Function]:
    """The subclass of a Chain for one op. Its methods are plain functions: Dynamo takes no other."""
    calls = {"traced": staticmethod(lambda *args: op(*args)), "run_next": staticmethod(lambda *args: run(after, *args))}
    made = type(name, (base,), {"op": op, "next": after, **calls})
    for method in ("forward", "setup_context", "keep", "backward", "jvp", "vmap"):
        setattr(made, method, staticmethod(plain(getattr(made, method))))
    return made


def plain(method: Callable) -> Callable:
    """A bound method as a function."""
    return lambda *args: method(*args)
