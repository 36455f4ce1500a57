"""What every Function shares: how it is run, bound to its op and batched."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.function import FunctionCtx

from torchloss import _library  # noqa: F401  (loads the operators)
from torchloss._check import FLOATING, WIDE

try:
    from torch._C._functorch import is_legacy_batchedtensor, unwrap_if_dead
    from torch._functorch.autograd_function import enable_single_level_autograd_function
    from torch.autograd.function import _SingleLevelFunction
except ImportError:  # private names: without them only torch.compile(torch.func.grad(...)) is lost
    _SingleLevelFunction = None

ops = torch.ops.torchloss
AUTOGRAD_KERNELS: dict[Any, Callable] = {}  # by op: its Function
PLAIN = frozenset((int, float, bool, type(None)))  # of which isinstance is slow to say that they are no tensors
TENSORS = frozenset((Tensor, torch.nn.Parameter))  # without a __torch_function__ or a subclass's own ideas

_impl = torch.library.Library("torchloss", "IMPL")  # lives as long as its kernels

function_mode_enabled = torch._C._is_torch_function_mode_enabled
is_compiling = torch.compiler.is_compiling
is_grad_enabled = torch.is_grad_enabled
is_jit_tracing = torch._C._is_tracing
modes_active = torch._C._len_torch_dispatch_stack
transforms_active = torch._C._are_functorch_transforms_active
below_autograd = torch._C._AutoDispatchBelowAutograd


def in_kernel() -> bool:
    """Whether an op's Autograd kernel runs, which torch.func has entered at one of its levels."""
    return torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode)


def forward_mode() -> bool:
    """Whether there may be tangents."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def in_make_fx() -> bool:
    """Whether make_fx records the ops that are called, and the numbers that are read would become constants."""
    return modes_active() > 0 and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def way() -> str:
    """How a Function runs here and now; `run` calls its method of this name.

    ============= ============================ =======================================================================
    way           when                         what runs
    ============= ============================ =======================================================================
    traced        torch.compile, torch.export, the bare op; its Autograd kernel is the Function (see `bind`)
                  torch.jit.trace
    transformed   torch.func                   Function.apply, with its vmap and jvp rules
    recorded      a gradient may be asked for  the same Function for a single level: without Function.apply's 15 us
    silent        otherwise                    the op, below autograd
    ============= ============================ =======================================================================

    A loss of rows has two more ways, for a plain backward pass: with its gradient taken in the forward pass
    (in_forward.py), and with the gradient over its input (in_place.py). `in_eager_mode` tells where those may be taken.
    A call with nothing out of the ordinary, for which every test costs, is known by `plain_way`.
    """
    if is_compiling() or is_jit_tracing():
        return "traced"
    if transforms_active() or _SingleLevelFunction is None:
        return "transformed"
    return "recorded" if is_grad_enabled() or forward_mode() else "silent"


def plain_way(x: Any, t: Any) -> str | None:
    """ "recorded" or "silent" for a call as most small ones are; None for all others: see `way`.

    Both are plain tensors on the CPU, x needs no conversion, and nobody asks for a gradient of t.
    """
    if (
        type(x) not in TENSORS
        or type(t) is not Tensor
        or (x.dtype not in WIDE and (x.dtype not in FLOATING or torch.is_autocast_enabled("cpu")))
        or not x.is_cpu
        or function_mode_enabled()
        or transforms_active()
        or getattr(forward_ad, "_current_level", 0) >= 0  # forward_mode(), without the time of a call
        or is_jit_tracing()
        or modes_active()
        or _SingleLevelFunction is None
    ):
        return None
    if not is_grad_enabled():
        return "silent"
    return None if t.requires_grad else "recorded" if x.requires_grad else "silent"


def in_plain_backward(grad: Tensor) -> bool:
    """Whether a backward pass with this grad is plain: nobody differentiates, batches or traces its result."""
    return (
        not is_compiling()  # first: Dynamo can trace no more of this
        and not is_grad_enabled()
        and type(grad) is Tensor
        and not transforms_active()
        and not is_legacy_batchedtensor(grad)
    )


def in_eager_mode() -> bool:
    """Whether a plain backward pass may follow."""
    return is_grad_enabled() and not (
        is_compiling() or is_jit_tracing() or transforms_active() or forward_mode() or in_make_fx()
    )


def run(function: type[Function], *args: Any) -> Any:
    """Applies a Function, or calls its op while a graph is being traced, or where none is wanted."""
    if is_compiling():  # by name, for Dynamo
        return function.traced(*args)
    return getattr(function, way())(*args)


def alive(args: tuple) -> list:
    """The arguments without the wrappers that a torch.func transform left behind when it ended."""
    return [a if type(a) in PLAIN or not isinstance(a, Tensor) else unwrap_if_dead(a) for a in args]


def single_level(name: str, **members: Callable) -> type | None:
    """A Function for a single level of autograd, made of static methods."""
    if _SingleLevelFunction is None:
        return None
    members = {m: staticmethod(f) for m, f in members.items()}
    key = getattr(Function, "_compiled_autograd_key", None)
    return type(name, (_SingleLevelFunction,), members | {"_compiled_autograd_key": key})


class Chain(Function):
    """What every Function here shares. `op` is its operator, `next` the Function of its backward.

    A Function takes its tensors and then its op's other arguments. `call` calls the op, `below` does so below autograd;
    `traced`, `transformed`, `recorded` and `silent` are the ways of `run`; `run_next` runs the next Function: static
    methods, which Dynamo can follow.
    """

    op: Any
    next: type[Function]
    traced: Callable
    transformed: Callable
    recorded: Callable
    silent: Callable
    below: Callable
    run_next: Callable

    of_one_level: Callable

    call: Callable

    @classmethod
    def op_call(cls) -> Callable:
        """The op of the Function's arguments, as a function that knows nothing of the class: Dynamo traces it."""
        op = cls.op
        return lambda *args: op(*args)

    @classmethod
    def of_op(cls, *args: Any) -> tuple:
        """The Function's arguments, of its op's."""
        return args

    @classmethod
    def forward(cls, *args: Any) -> Any:
        return cls.call(*args)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return cls.batched(cls.apply, info, in_dims, *args)

    @staticmethod
    def save(ctx: FunctionCtx, *tensors: Tensor | None) -> None:
        ctx.save_for_backward(*tensors)
        if forward_mode() or transforms_active():  # a compiled jvp does not tell Python of its level
            ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)


def chain(name: str, loss: type[Chain], gradient: type[Chain], double: type[Chain], **members: Any) -> type[Function]:
    """The three Functions of the op `name`, each bound to its operator; returns the first."""
    title = "".join(w.capitalize() for w in name.split("_"))
    after = None
    for suffix, base in (("_double_backward", double), ("_backward", gradient), ("", loss)):
        op = getattr(ops, name + suffix).default
        after = derive(title + suffix.title().replace("_", ""), (base,), op, after, members)
        bind(after)
    return after


def derive(name: str, bases: tuple, op: Any, after: type[Function] | None, members: dict) -> type[Function]:
    """The subclass of a Chain for one op. Its methods are plain functions: Dynamo takes no other."""
    made = type(name, bases, members | {"op": op, "next": after})
    made.call = staticmethod(made.op_call())
    for method in ("of_op", "forward", "setup_context", "backward", "vmap"):
        setattr(made, method, staticmethod(plain(getattr(made, method))))
    made.jvp = staticmethod(through_levels(made.jvp))
    made.run_next = staticmethod(lambda *args: run(after, *args))
    return made


def plain(method: Callable) -> Callable:
    """A bound method as a function."""
    return lambda *args: method(*args)


def through_levels(jvp: Callable) -> Callable:
    """A Function's forward derivative whose own operators the jvps around it can differentiate.

    torch calls it with forward mode off, at every level of torch.func. It may be on if no tensor has a tangent of this
    level any more.
    """

    def at_level(ctx: FunctionCtx, *tangents: Any) -> Any:
        if not transforms_active():
            return jvp(ctx, *tangents)
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(Primals(ctx), *tangents)

    return at_level


class Primals:
    """The context of a Function, with its saved tensors but not their tangents."""

    def __init__(self, ctx: FunctionCtx) -> None:
        self.ctx = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)

    @property
    def saved_tensors(self) -> tuple:
        return tuple(a if a is None else torch.ops.aten._fw_primal(a, 0) for a in self.ctx.saved_tensors)


def bind(function: type[Function]) -> None:
    """Gives the op of a Function its autograd and vmap rules, and the Function its ways."""
    give_ways(function)
    op, call, of_op = function.op, function.call, function.of_op
    name = op._schema.name

    def batched(info: Any, in_dims: tuple, *args: Any) -> Any:
        args = with_defaults(op, args)
        in_dims = *in_dims, *(None,) * (len(args) - len(in_dims))
        return function.batched(call, info, of_op(*in_dims), *of_op(*args))

    torch.library.register_vmap(name, batched)
    if _SingleLevelFunction is None:

        def setup_context(ctx: FunctionCtx, inputs: tuple, output: Any) -> None:
            function.setup_context(ctx, of_op(*with_defaults(op, inputs)), output)

        torch.library.register_autograd(name, function.backward, setup_context=setup_context)
        return

    def kernel(*args: Any) -> Any:
        args = of_op(*with_defaults(op, args))
        return function.of_one_level(*args) if transforms_active() else function.recorded(*args)

    _impl.impl(op._opname, kernel, "Autograd")
    AUTOGRAD_KERNELS[op] = kernel


def give_ways(function: type[Function]) -> None:
    """The ways of `run`, and `of_one_level`: "transformed" in a kernel, where torch.func has come to a level."""
    call = function.call
    function.traced = staticmethod(lambda *args: call(*args))
    if _SingleLevelFunction is None:
        function.transformed = staticmethod(lambda *args: function.apply(*args))
        return

    def below(*args: Any) -> Any:
        with below_autograd():
            return call(*args)

    rules = {"setup_context": function.setup_context, "backward": function.backward, "jvp": function.jvp}
    single = single_level(function.__name__, forward=below, **rules)
    leveled = single_level(function.__name__, forward=for_levels_below(below), **rules)

    def of_one_level(*args: Any) -> Any:
        with enable_single_level_autograd_function():
            return leveled.apply(*args)

    function.of_one_level = staticmethod(of_one_level)
    function.transformed = staticmethod(lambda *args: (of_one_level if in_kernel() else function.apply)(*args))
    function.recorded = staticmethod(lambda *args: single.apply(*alive(args)))
    function.silent = staticmethod(lambda *args: below(*alive(args)))
    function.below = staticmethod(below)


def for_levels_below(forward: Callable) -> Callable:
    """The forward pass of a Function in a kernel, recorded by the transforms outside of its own.

    A Function runs its forward pass with autograd off, and off it would stay for them: their derivatives would be a
    silent 0.
    """

    def enabled(*args: Any) -> Any:
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return forward(*args)

    return enabled


def with_defaults(op: Any, args: tuple) -> tuple:
    """All arguments of an op: the dispatcher leaves out the last ones where they are the schema's defaults."""
    return *args, *(a.default_value for a in op._schema.arguments[len(args) :])


def batch_first(x: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """The tensor with the batch dimension of a vmap in front; expanded if it has none."""
    if x is None:
        return None
    return x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def widened(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors, those of 16 bits in float32: for what is rounded at the end, and not before."""
    return [a if a is None or a.dtype.itemsize > 2 else a.float() for a in tensors]


def summed_over_batch(in_dims: tuple, tensors: tuple) -> bool:
    """Whether one of these tensors has 16 bits, a gradient, and no batch dimension: its gradient is a sum over the
    samples, which shall not be one of rounded numbers."""
    return any(
        a is not None and d is None and a.dtype.itemsize == 2 and a.requires_grad
        for a, d in zip(tensors, in_dims, strict=False)
    )


def sum_each(x: Tensor) -> Tensor:
    """Sums every sample of a batch, in float64: a mean's sum may be beyond float32."""
    return x.flatten(1).double().sum(1) if x.dim() > 1 else x.double()


def per_element(grad: Tensor, like: tuple[int, ...]) -> Tensor:
    """A gradient per sample, as one per element."""
    return grad.reshape(*grad.shape, *[1] * (len(like) - 1)).expand(like)  # no -1: under a vmap of nothing it is open


def add(*terms: Tensor | None) -> Tensor | None:
    """The sum of what is there."""
    there = [t for t in terms if t is not None]
    return sum(there[1:], there[0]) if there else None
