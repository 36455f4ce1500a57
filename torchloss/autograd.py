"""The torch.autograd.Functions: for each family one hand-written chain of three, and a small subclass per loss.

A loss, its gradient and its double gradient are three ops (csrc/ops.cpp). Each is wrapped in a Function:

    Loss.backward             = Gradient
    Gradient.backward         = DoubleGradient
    DoubleGradient.backward   raises: there is no third derivative

Forward mode needs no op of its own. With a tangent v of the inputs, the tangent of the loss is <gradient, v>, which is
what the double gradient gives for grad; the tangent of the gradient is (Hessian) v, which, the Hessian being
symmetric, is what it gives for the inputs.

In eager mode the Functions run. Under torch.compile and torch.export, Dynamo cannot trace a Function with a jvp, so
`run` calls the bare op, whose autograd kernel `bind` makes from the same Function: one set of formulas, both ways.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake  # also loads the operators

try:
    from torch._functorch.autograd_function import enable_single_level_autograd_function
    from torch._functorch.utils import unwrap_dead_wrappers
    from torch.autograd.function import _SingleLevelFunction
except ImportError:  # private names: without them only torch.compile(torch.func.grad(...)) is lost
    _SingleLevelFunction = None

ops = torch.ops.torchloss
NONE, MEAN, SUM = 0, 1, 2

_impl = torch.library.Library("torchloss", "IMPL")  # lives as long as its kernels


def run(function: type[Function], *args: Any) -> Any:
    """Applies a Function, or calls its op while a graph is being traced."""
    if torch.compiler.is_compiling():
        return function.traced(*args)
    if function.single is None or torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return function.single.apply(*unwrap_dead_wrappers(args))


def bind(function: type[Function]) -> None:
    """Gives the op of a Function its autograd and vmap rules, and the Function its `single`.

    That is the same Function for a single level of autograd: what `apply` comes down to when no torch.func transform is
    active. It spares the small calls the 15 us that `Function.apply` spends on looking its signature up.
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

    def below(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    members = {m: staticmethod(getattr(function, m)) for m in ("setup_context", "backward", "jvp")}
    key = getattr(function, "_compiled_autograd_key", None)
    members |= {"forward": staticmethod(below), "_compiled_autograd_key": key}
    function.single = single = type(function.__name__, (_SingleLevelFunction,), members)

    def kernel(*args: Any) -> Any:
        with enable_single_level_autograd_function():
            return single.apply(*args)

    _impl.impl(op._opname, kernel, "Autograd")


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

    `traced` calls the op and `run_next` runs the next Function: static methods, which Dynamo can follow.
    """

    op: Any
    next: type[Function]
    single: type | None = None
    traced: Callable
    run_next: Callable

    @classmethod
    def forward(cls, *args: Any) -> Any:
        return cls.op(*args)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        return cls.batched(cls.apply, info, in_dims, *args)

    @staticmethod
    def save(ctx: FunctionCtx, *tensors: Tensor | None) -> None:
        ctx.save_for_backward(*tensors)
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


# Family 1, pointwise: (input, target, weight, pos_weight, reduction, parameter)


class PointwiseLoss(Chain):
    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.reduction, ctx.parameter = inputs
        cls.save(ctx, *tensors)

    @classmethod
    def backward(cls, ctx: FunctionCtx, grad: Tensor | None) -> tuple:
        if grad is None:
            return (None,) * 6
        x, t, w, p = ctx.saved_tensors
        gx = gt = gw = None
        if any(ctx.needs_input_grad[:2]):
            gx, gt = cls.run_next(grad, x, t, w, p, ctx.reduction, ctx.parameter, ctx.needs_input_grad[1])
        if ctx.needs_input_grad[2]:  # the loss is linear in its weight
            scale = 1 / x.numel() if ctx.reduction == MEAN else 1
            gw = run(cls, x, t, None, p, NONE, ctx.parameter) * (grad * scale)
        return gx, gt if ctx.needs_input_grad[1] else None, gw, None, None, None

    @classmethod
    def jvp(cls, ctx: FunctionCtx, xt: Tensor | None, tt: Tensor | None, wt: Tensor | None, *_: Any) -> Tensor:
        x, t, w, p = ctx.saved_tensors
        along = None if wt is None else run(cls, x, t, wt, p, ctx.reduction, ctx.parameter)
        if xt is not None or tt is not None:
            one = x.new_ones(()).expand(x.shape if ctx.reduction == NONE else ())
            args = (one, x, t, w, p, ctx.reduction, ctx.parameter)
            along = add(along, run(cls.next.next, xt, tt, *args)[0])
        return along

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        *tensors, reduction, parameter = args
        x, t, w, p = (batch_first(a, d, info.batch_size) for a, d in zip(tensors, in_dims, strict=False))
        loss = call(x, t, w, p, NONE, parameter)
        if reduction != NONE:
            loss = sum_each(loss)
        return loss / math.prod(x.shape[1:]) if reduction == MEAN else loss, 0


class PointwiseGradient(Chain):
    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.reduction, ctx.parameter, ctx.target_grad = inputs
        cls.save(ctx, *tensors)
        if not ctx.target_grad:
            ctx.mark_non_differentiable(output[1])

    @classmethod
    def backward(cls, ctx: FunctionCtx, h: Tensor | None, k: Tensor | None) -> tuple:
        k = k if ctx.target_grad else None
        if h is None and k is None:
            return (None,) * 8
        g, x, t, w, p = ctx.saved_tensors
        gg, gx, gt = cls.run_next(h, k, g, x, t, w, p, ctx.reduction, ctx.parameter)
        gw = None
        if ctx.needs_input_grad[3]:
            scale = 1 / x.numel() if ctx.reduction == MEAN else 1
            one = x.new_ones(()).expand(x.shape)
            gw = cls.run_next(h, k, one, x, t, None, p, NONE, ctx.parameter)[0] * (g * scale)
        return gg, gx, gt, gw, None, None, None, None

    @classmethod
    def jvp(cls, ctx: FunctionCtx, dg: Tensor | None, xt: Tensor | None, tt: Tensor | None, wt: Tensor | None, *_: Any):
        g, x, t, w, p = ctx.saved_tensors
        rest = (ctx.reduction, ctx.parameter)
        terms = []
        if dg is not None:
            terms.append(run(cls, dg, x, t, w, p, *rest, ctx.target_grad))
        if wt is not None:
            terms.append(run(cls, g, x, t, wt, p, *rest, ctx.target_grad))
        if xt is not None or tt is not None:
            terms.append(run(cls.next, xt, tt, g, x, t, w, p, *rest)[1:])
        return add(*(a for a, _ in terms)), add(*(b for _, b in terms)) if ctx.target_grad else None

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        *tensors, reduction, parameter, target_grad = args
        g, x, t, w, p = (batch_first(a, d, info.batch_size) for a, d in zip(tensors, in_dims, strict=False))
        if reduction != NONE:
            g = per_element(g / math.prod(x.shape[1:]) if reduction == MEAN else g, x.shape)
        return call(g, x, t, w, p, NONE, parameter, target_grad), (0, 0 if target_grad else None)


class PointwiseDoubleGradient(Last):
    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        *tensors, reduction, parameter = args
        h, k, g, x, t, w, p = (batch_first(a, d, info.batch_size) for a, d in zip(tensors, in_dims, strict=False))
        n = math.prod(x.shape[1:]) if reduction == MEAN else 1
        if reduction != NONE:
            g = per_element(g / n, x.shape)
        gg, gx, gt = call(h, k, g, x, t, w, p, NONE, parameter)
        return (gg if reduction == NONE else sum_each(gg) / n, gx, gt), (0, 0, 0)


# Family 2, rowwise: (input, target, weight, dim, reduction, ignore_index, parameter) -> (loss, stats, total)


class RowConfig(NamedTuple):
    dim: int
    reduction: int
    ignore_index: int
    parameter: float

    def batched(self) -> "RowConfig":
        return self._replace(dim=self.dim + 1, reduction=NONE)


def each_sample(call: Callable, info: Any, in_dims: tuple, args: tuple) -> tuple:
    """The batch rule of last resort, for a batch of class weights: sample by sample."""
    samples = [
        call(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=False)))
        for i in range(info.batch_size)
    ]
    outputs = tuple(torch.stack(o) for o in zip(*samples, strict=True))
    return outputs, (0,) * len(outputs)


def row_totals(x: Tensor, t: Tensor | None, w: Tensor | None, c: RowConfig, index: bool) -> Tensor:
    """The total weight of each sample's rows."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if not index:
        return x.new_full((x.shape[0],), math.prod(x.shape[1:]) / x.shape[c.dim], dtype=dtype)
    live = t != c.ignore_index
    weight = live.to(dtype) if w is None else w.to(dtype)[t.where(live, 0)].where(live, 0)
    return sum_each(weight)


class RowLoss(Chain):
    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, t, w, *config = inputs
        _, stats, total = output
        ctx.config = RowConfig(*config)
        ctx.mark_non_differentiable(stats, total)
        cls.save(ctx, x, t, w, stats, total)

    @classmethod
    def backward(cls, ctx: FunctionCtx, grad: Tensor | None, *_: Any) -> tuple:
        if grad is None:
            return (None,) * 7
        target_grad = ctx.needs_input_grad[1]
        gx, gt = cls.run_next(grad, *ctx.saved_tensors, *ctx.config, target_grad)
        return gx if ctx.needs_input_grad[0] else None, gt if target_grad else None, *[None] * 5

    @classmethod
    def jvp(cls, ctx: FunctionCtx, xt: Tensor | None, tt: Tensor | None, wt: Tensor | None, *_: Any) -> tuple:
        if wt is not None:
            raise NotImplementedError(f"{cls.op._schema.name}: the derivative in the class weights is not implemented")
        x, t, w, stats, total = ctx.saved_tensors
        one = x.new_ones(()).expand(stats.shape[1:] if ctx.config.reduction == NONE else ())
        tt = tt if t is not None and t.is_floating_point() else None
        return run(cls.next.next, xt, tt, one, x, t, w, stats, total, *ctx.config)[0], None, None

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        x, t, w, *config = args
        if in_dims[2] is not None:
            return each_sample(call, info, in_dims, args)
        c = RowConfig(*config)
        x, t = (batch_first(a, d, info.batch_size) for a, d in ((x, in_dims[0]), (t, in_dims[1])))
        loss, stats, _ = call(x, t, w, *c.batched())
        total = row_totals(x, t, w, c.batched(), t is not None and not t.is_floating_point())
        if c.reduction != NONE:
            loss = sum_each(loss)
        if c.reduction == MEAN:
            loss = (loss / total).to(loss.dtype)
        return (loss, stats, total), (0, 1, 0)


class RowGradient(Chain):
    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.target_grad = inputs
        ctx.config = RowConfig(*tensors[6:])
        cls.save(ctx, *tensors[:6])
        if not ctx.target_grad:
            ctx.mark_non_differentiable(output[1])

    @classmethod
    def backward(cls, ctx: FunctionCtx, h: Tensor | None, k: Tensor | None) -> tuple:
        k = k if ctx.target_grad else None
        if h is None and k is None:
            return (None,) * 11
        gg, gx, gt = cls.run_next(h, k, *ctx.saved_tensors, *ctx.config)
        return gg, gx, gt if ctx.needs_input_grad[2] else None, *[None] * 8

    @classmethod
    def jvp(cls, ctx: FunctionCtx, dg: Tensor | None, xt: Tensor | None, tt: Tensor | None, *_: Any) -> tuple:
        g, x, t, *saved = ctx.saved_tensors
        tt = tt if t is not None and t.is_floating_point() else None
        terms = []
        if dg is not None:
            terms.append(run(cls, dg, x, t, *saved, *ctx.config, ctx.target_grad))
        if xt is not None or tt is not None:
            terms.append(run(cls.next, xt, tt, g, x, t, *saved, *ctx.config)[1:])
        return add(*(a for a, _ in terms)), add(*(b for _, b in terms)) if ctx.target_grad else None

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        *tensors, target_grad = args
        if in_dims[3] is not None:
            return each_sample(call, info, in_dims, args)
        *saved, one, c = batch_rows(info, in_dims, *tensors)
        return call(*saved, one, *c, target_grad), (0, 0 if target_grad else None)


def batch_rows(info: Any, in_dims: tuple, g: Tensor, x: Tensor, t: Tensor | None, w: Any, *rest: Any) -> tuple:
    """The arguments of a gradient for a whole batch, as one without reduction."""
    stats, total, *config = rest
    c, n = RowConfig(*config), info.batch_size
    g, x, t = (batch_first(a, d, n) for a, d in zip((g, x, t), in_dims, strict=False))
    stats, total = batch_first(stats, in_dims[4], n).movedim(0, 1).contiguous(), batch_first(total, in_dims[5], n)
    if c.reduction == MEAN:
        g = (g / total).to(g.dtype)
    if c.reduction != NONE:
        g = per_element(g, stats.shape[1:])
    return g, x, t, w, stats, stats.new_ones(()), c.batched()


class RowDoubleGradient(Last):
    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        h, k, *tensors = args
        if in_dims[5] is not None:
            return each_sample(call, info, in_dims, args)
        h, k = (batch_first(a, d, info.batch_size) for a, d in ((h, in_dims[0]), (k, in_dims[1])))
        *saved, one, c = batch_rows(info, in_dims[2:], *tensors)
        gg, gx, gt = call(h, k, *saved, one, *c)
        reduction = tensors[7]
        if reduction != NONE:
            gg = sum_each(gg)
        if reduction == MEAN:
            gg = (gg / batch_first(tensors[5], in_dims[7], info.batch_size)).to(gg.dtype)
        return (gg, gx, gt), (0, 0, 0 if k is not None or gt.shape == gx.shape else None)


# softmax and log_softmax: (input, dim) -> output


class RowMap(Chain):
    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        ctx.dim = inputs[1]
        cls.save(ctx, output)

    @classmethod
    def backward(cls, ctx: FunctionCtx, grad: Tensor | None) -> tuple:
        return None if grad is None else cls.run_next(grad, *ctx.saved_tensors, ctx.dim), None

    @classmethod
    def jvp(cls, ctx: FunctionCtx, xt: Tensor, _: Any) -> Tensor:
        (y,) = ctx.saved_tensors
        return run(cls.next.next, xt, torch.zeros_like(y), y, ctx.dim)[0]  # J v, where the gradient is g J

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        *tensors, dim = args
        tensors = [batch_first(a, d, info.batch_size) for a, d in zip(tensors, in_dims, strict=False)]
        out = call(*tensors, dim + 1)
        return out, (0, 0) if isinstance(out, tuple) else 0


class RowMapGradient(Chain):
    batched = RowMap.__dict__["batched"]

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.dim = inputs
        cls.save(ctx, *tensors)

    @classmethod
    def backward(cls, ctx: FunctionCtx, h: Tensor | None) -> tuple:
        return *((None, None) if h is None else cls.run_next(h, *ctx.saved_tensors, ctx.dim)), None

    @classmethod
    def jvp(cls, ctx: FunctionCtx, dg: Tensor | None, yt: Tensor | None, _: Any) -> Tensor:
        g, y = ctx.saved_tensors
        along = None if dg is None else run(cls, dg, y, ctx.dim)
        return add(along, None if yt is None else cls.along_output(yt, g, y, ctx.dim))


class RowMapDoubleGradient(Last):
    batched = RowMap.__dict__["batched"]


class SoftmaxGradient(RowMapGradient):
    @staticmethod
    def along_output(yt: Tensor, g: Tensor, y: Tensor, dim: int) -> Tensor:
        return yt * (g - (y * g).sum(dim, keepdim=True)) - y * (yt * g).sum(dim, keepdim=True)


class LogSoftmaxGradient(RowMapGradient):
    @staticmethod
    def along_output(zt: Tensor, g: Tensor, z: Tensor, dim: int) -> Tensor:
        return -zt * z.exp() * g.sum(dim, keepdim=True)


# The losses, by family: rowwise ones with the count of the numbers that a row leaves for its backward pass


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
    for method in ("forward", "setup_context", "backward", "jvp", "vmap"):
        setattr(made, method, staticmethod(plain(getattr(made, method))))
    return made


def plain(method: Callable) -> Callable:
    """A bound method as a function."""
    return lambda *args: method(*args)


def pointwise(name: str) -> type[Function]:
    _fake.pointwise(name)
    return chain(name, PointwiseLoss, PointwiseGradient, PointwiseDoubleGradient)


def rowwise(name: str, saved: Callable[[float], int]) -> type[Function]:
    _fake.rowwise(name, saved)
    return chain(name, RowLoss, RowGradient, RowDoubleGradient)


def row_map(name: str, gradient: type[RowMapGradient]) -> type[Function]:
    _fake.row_map(name)
    return chain(name, RowMap, gradient, RowMapDoubleGradient)


L1LossFunction = pointwise("l1_loss")
MSELossFunction = pointwise("mse_loss")
HuberLossFunction = pointwise("huber_loss")
SmoothL1LossFunction = pointwise("smooth_l1_loss")
KLDivFunction = pointwise("kl_div")
KLDivLogTargetFunction = pointwise("kl_div_log_target")
BinaryCrossEntropyFunction = pointwise("binary_cross_entropy")
BinaryCrossEntropyWithLogitsFunction = pointwise("binary_cross_entropy_with_logits")

CrossEntropyFunction = rowwise("cross_entropy", lambda label_smoothing: 3 if label_smoothing else 2)
CrossEntropyProbsFunction = rowwise("cross_entropy_probs", lambda _: 4)
NLLLossFunction = rowwise("nll_loss", lambda _: 0)
EntropyFunction = rowwise("entropy", lambda _: 0)
SoftmaxEntropyFunction = rowwise("softmax_entropy", lambda _: 3)
KLDivWithLogitsFunction = rowwise("kl_div_with_logits", lambda _: 5)

SoftmaxFunction = row_map("softmax", SoftmaxGradient)
LogSoftmaxFunction = row_map("log_softmax", LogSoftmaxGradient)
