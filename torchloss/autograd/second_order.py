"""The double gradient of a loss, in two parts that can be differentiated on their own.

With g the cotangent of the loss L, h and k those of its gradient g L_x and g L_t:

    directional derivative   (h, k, g, x, t, ...) -> h L_x + k L_t, in the form of g
    Hessian product          (h, k, g, x, t, ...) -> g (h L_xx + k L_xt), g (h L_xt + k L_tt)

Both are linear in h and k, the second in g, too: their derivatives in these are of second order, and so is that of the
first in x and t. What is of third order, and refused, is the derivative of the second in x and t alone. As its own op
each computes the double gradient and leaves the rest.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss.autograd.chain import (
    Chain,
    add,
    derive,
    for_levels_below,
    forward_mode,
    give_ways,
    in_kernel,
    run,
    single_level,
    transforms_active,
    way,
)

try:
    from torch._functorch.autograd_function import enable_single_level_autograd_function
except ImportError:  # a private name, as in chain.py
    pass


wanted: ContextVar[str | None] = ContextVar("wanted", default=None)


class DoubleGradient(Chain):
    """The op. `directional` and `hessian` are its parts, which have `gradient` for the Function of the gradient, too.

    A family says how many tensors its Functions take (`tensor_count`), how a batch becomes a call, with which numbers
    the gradient is called, how a Hessian product meets a second direction (`along`), and which tangents it refuses.
    """

    outputs = slice(0, 3)
    directional: type[Function]
    hessian: type[Function]
    gradient: type[Function]

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple) -> None:
        n = cls.tensor_count()
        ctx.config = inputs[n:]
        cls.save(ctx, *inputs[:n])

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        args, finish, dims = cls.batch(info, in_dims, args)
        outputs = zip(finish[cls.outputs], call(*args), strict=True)
        return tuple(f(a) for f, a in outputs), dims[cls.outputs]

    @classmethod
    def weight_gradient(cls, *_: Any) -> None:
        """Only a weight of elements has one."""
        return None


class Part:
    """Some of a double gradient's outputs."""

    @classmethod
    def op_call(cls) -> Callable:
        call, outputs, part = super().op_call(), cls.outputs, cls.part

        def call_of_part(*args: Any) -> tuple:
            if torch.compiler.is_dynamo_compiling() or not transforms_active():
                return call(*args)[outputs]
            before = wanted.set(part)
            try:
                return call(*args)[outputs]
            finally:
                wanted.reset(before)

        return call_of_part


class DirectionalDerivative(Part):
    outputs, part = slice(0, 1), "directional"

    @classmethod
    def backward(cls, ctx: FunctionCtx, a: Tensor | None) -> tuple:
        h, k, g, *tensors = ctx.saved_tensors
        h_wanted, k_wanted, _, x_wanted, t_wanted, w_wanted, *_ = ctx.needs_input_grad
        gh = gk = gx = gt = gw = None
        if a is not None:
            if h_wanted or k_wanted:
                gh, gk = run(cls.gradient, a, *tensors, *ctx.config, *cls.gradient_numbers(k_wanted))
            if x_wanted or t_wanted:
                gx, gt = run(cls.hessian, h, k, a, *tensors, *ctx.config)
            if w_wanted:
                gw = cls.weight_gradient(a, None, None, h, k, *tensors, *ctx.config)
        nothing = (None,) * (len(ctx.needs_input_grad) - 6)
        return gh if h_wanted else None, gk if k_wanted else None, None, *only(x_wanted, t_wanted, gx, gt), gw, *nothing

    @classmethod
    def jvp(cls, ctx: FunctionCtx, *tangents: Any) -> tuple[Tensor]:
        ht, kt, _, xt, tt, wt, *more = tangents
        h, k, g, x, t, w, *rest = ctx.saved_tensors
        cls.refuse_tangents(wt, rest, more)
        terms = []
        if ht is not None or kt is not None:
            terms += run(cls.directional, ht, kt, g, x, t, w, *rest, *ctx.config)
        if wt is not None:
            terms += run(cls.directional, h, k, g, x, t, wt, *rest, *ctx.config)
        if xt is not None or tt is not None:
            terms.append(cls.along(g, xt, tt, h, k, x, t, w, *rest, *ctx.config))
        return (add(*terms) if terms else torch.zeros_like(g),)


class HessianProduct(Part):
    outputs, part = slice(1, 3), "hessian"

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        super().setup_context(ctx, inputs, output)
        if not is_floating(inputs[4]):
            ctx.mark_non_differentiable(output[1])

    @classmethod
    def backward(cls, ctx: FunctionCtx, b: Tensor | None, c: Tensor | None) -> tuple:
        h, k, g, x, t, *rest = ctx.saved_tensors
        h_wanted, k_wanted, g_wanted, x_wanted, t_wanted, w_wanted, *_ = ctx.needs_input_grad
        gh = gk = gg = gw = None
        nothing = (None,) * (len(ctx.needs_input_grad) - 6)
        if b is None and c is None:
            return *(None,) * 6, *nothing
        if h_wanted or k_wanted:
            gh, gk = run(cls.hessian, b, c, g, x, t, *rest, *ctx.config)
        if g_wanted:
            gg = cls.along(g, b, c, h, k, x, t, *rest, *ctx.config)
        if w_wanted:
            gw = cls.weight_gradient(g, b, c, h, k, x, t, *rest, *ctx.config)
        # What goes to x and t is never read: if anyone asks for it, their `Refused` raises.
        return *only(h_wanted, k_wanted, gh, gk), gg, *only(x_wanted, t_wanted, x, t), gw, *nothing

    @classmethod
    def jvp(cls, ctx: FunctionCtx, *tangents: Any) -> tuple[Tensor, Tensor | None]:
        ht, kt, gt, _, _, wt, *more = tangents
        h, k, g, x, t, w, *rest = ctx.saved_tensors
        cls.refuse_tangents(wt, rest, more)
        terms = []
        if ht is not None or kt is not None:
            terms.append(run(cls.hessian, ht, kt, g, x, t, w, *rest, *ctx.config))
        if gt is not None:
            terms.append(run(cls.hessian, h, k, gt, x, t, w, *rest, *ctx.config))
        if wt is not None:
            terms.append(run(cls.hessian, h, k, g, x, t, wt, *rest, *ctx.config))
        return add(*(a for a, _ in terms)), add(*(b for _, b in terms)) if is_floating(t) else None


def only(first: bool, second: bool, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Of two gradients those that are wanted."""
    return a if first else None, b if second else None


def is_floating(t: Tensor | None) -> bool:
    return t is not None and t.is_floating_point()


class Refused(Function):
    """The identity, which no derivative passes: autograd comes here only if someone asks for one of third order."""

    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        ctx.name = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor | None) -> tuple[None, None]:
        return None if grad is None else refuse(ctx.name), None

    @staticmethod
    def jvp(ctx: FunctionCtx, xt: Tensor | None, _: Any) -> None:
        return None if xt is None else refuse(ctx.name)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, name: str) -> tuple[Tensor, int | None]:
        return Refused.apply(x, name), in_dims[0]


def refuse(name: str) -> None:
    raise NotImplementedError(
        f"{name}: the third derivative in the input or the target is not implemented\n"
        "  torch.nn.functional's losses have it; a loss that torch lacks has it as a formula in torch's operators."
    )


def guarded(call: Callable, refused: Callable, name: str) -> Callable:
    """A Hessian product's call with x and t refused."""

    def one(x: Tensor | None) -> Tensor | None:
        return refused(x, name) if is_floating(x) and may_be_differentiated(x) else x

    return lambda h, k, g, x, t, *rest: call(h, k, g, one(x), one(t), *rest)


def may_be_differentiated(x: Tensor) -> bool:
    return x.requires_grad or forward_mode() or transforms_active()


_rules = {m: getattr(Refused, m) for m in ("setup_context", "backward", "jvp")}
single = single_level("Refused", forward=Refused.forward, **_rules)
leveled = single_level("Refused", forward=for_levels_below(Refused.forward), **_rules)


def refused(x: Tensor, name: str) -> Tensor:
    """x under transforms of torch.func."""
    if single is None or not in_kernel():
        return Refused.apply(x, name)
    with enable_single_level_autograd_function():
        return leveled.apply(x, name)


def split(loss: type[Function], base: type[DoubleGradient], **members: Any) -> None:
    """Makes the two parts of a loss's double gradient."""
    gradient = loss.next
    double = gradient.next
    name, members = double.op._schema.name.removesuffix("_double_backward"), members | {"gradient": gradient}
    for attribute, mixin in (("directional", DirectionalDerivative), ("hessian", HessianProduct)):
        part = derive(double.__name__ + mixin.__name__, (mixin, base), double.op, None, members)
        give_ways(part)
        setattr(double, attribute, part)
    directional, hessian = double.directional, double.hessian
    hessian.transformed = staticmethod(guarded(hessian.transformed, refused, name))
    if single is not None:
        hessian.recorded = staticmethod(guarded(hessian.recorded, single.apply, name))
        hessian.of_one_level = staticmethod(guarded(hessian.of_one_level, refused, name))
    for part in (directional, hessian):
        part.directional, part.hessian = directional, hessian
        part.traced = staticmethod(while_traced(part, part.traced))
    double.transformed = staticmethod(lambda *args: (*directional.transformed(*args), *hessian.transformed(*args)))
    if single is not None:
        double.recorded = staticmethod(recorded(double))
        double.of_one_level = staticmethod(of_one_level(double))


def while_traced(part: type[Function], call: Callable) -> Callable:
    """Dynamo reads the op's call; where Python runs in front of a tracer, the Function is applied as it is."""

    def traced(*args: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return call(*args)
        return part.transformed(*args) if transforms_active() else part.recorded(*args)

    return traced


def recorded(double: type[Function]) -> Callable:
    """The op as both of its parts, where derivatives are recorded."""

    def both(*args: Any) -> tuple:
        if torch.is_grad_enabled() or (forward_mode() and torch._C._is_fwd_grad_enabled()):
            return *double.directional.recorded(*args), *double.hessian.recorded(*args)
        return double.silent(*args)

    return both


def of_one_level(double: type[Function]) -> Callable:
    """The op in its kernel, as the part that asks for it from another level, or as both."""

    def parts(*args: Any) -> tuple:
        part, (_, _, _, x, t, *_) = wanted.get(), args
        first, rest = (None,), (torch.empty_like(x), torch.empty_like(t) if is_floating(t) else x.new_empty(0))
        if part != "hessian":
            first = double.directional.of_one_level(*args)
        if part != "directional":
            rest = double.hessian.of_one_level(*args)
        return *(first if part != "hessian" else (torch.empty_like(args[2]),)), *rest

    return parts


def run_parts(double: type[Function], of_grad: bool, of_inputs: bool, *args: Any) -> tuple:
    """The double gradient: the derivative in the grad and those in input and target, as far as they are wanted."""
    if torch.compiler.is_dynamo_compiling():
        return double.traced(*args)
    if way() == "silent":
        return double.silent(*args)
    first = run(double.directional, *args) if of_grad else (None,)
    return *first, *(run(double.hessian, *args) if of_inputs else (None, None))
