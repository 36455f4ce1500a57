"""Family 1: a loss of elements, its gradient and its double gradient.

The Functions take what their ops take. In a loss `tensors` are x, t, w and, where the op has a pos_weight, p:

    loss             (*tensors, reduction, *options) -> loss
    gradient         (grad, *tensors, *options, target_grad, count) -> (grad of x, grad of t)
    double gradient  (h, k, grad, *tensors, *options) -> (grad of grad, grad of x, grad of t)

A reduced loss is of the compute type, and so is its grad. Only the loss knows a reduction. The grad of a mean is
divided by the number of elements before the gradient is taken, or by the gradient's op as its `count`, which spares a
small call an op. All three are linear in the weight.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake
from torchloss._check import MEAN, MEANS, NONE, WIDE
from torchloss._reduction import quotient
from torchloss.autograd.chain import (
    Chain,
    add,
    batch_first,
    below_autograd,
    chain,
    in_plain_backward,
    is_compiling,
    ops,
    per_element,
    plain_way,
    run,
    single_level,
    sum_each,
    summed_over_batch,
    widened,
)
from torchloss.autograd.second_order import DoubleGradient, run_parts, split


class PointwiseLoss(Chain):
    tensors: int
    plain: type[Function]

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        ctx.reduction, *ctx.options = inputs[cls.tensors :]
        cls.save(ctx, *inputs[: cls.tensors])

    @classmethod
    def backward(cls, ctx: FunctionCtx, grad: Tensor | None) -> tuple:
        x, t, w, *p = ctx.saved_tensors
        nothing = (None,) * (len(p) + 1 + len(ctx.options))
        if grad is None:
            return None, None, None, *nothing
        if ctx.reduction in MEANS:
            grad = quotient(grad, at_least_one(x.numel()))
        gx = gt = gw = None
        x_wanted, t_wanted, w_wanted, *_ = ctx.needs_input_grad
        if x_wanted or t_wanted:
            gx, gt = cls.run_next(grad, x, t, w, *p, *ctx.options, t_wanted, 1.0)
        if w_wanted:  # the loss with grad for a weight
            g, x, t, *p = spread(grad, x, t, *p)
            gw = run(cls, x, t, g, *p, NONE, *ctx.options).to(w.dtype)
        return gx, gt if t_wanted else None, gw, *nothing

    @classmethod
    def jvp(cls, ctx: FunctionCtx, xt: Tensor | None, tt: Tensor | None, wt: Tensor | None, *more: Any) -> Tensor:
        dtype = ctx.saved_tensors[0].dtype
        x, t, w, *p = widened(*ctx.saved_tensors)
        refuse_pos_weight(cls, p, more)
        xt, tt, wt = widened(xt, tt, wt)
        along = None if wt is None else run(cls, x, t, wt, *p, ctx.reduction, *ctx.options)
        if xt is not None or tt is not None:
            one = x.new_ones(()).expand(x.shape)
            (term,) = run(cls.next.next.directional, xt, tt, one, x, t, w, *p, *ctx.options)
            if ctx.reduction != NONE:
                term = reduced(term.double().sum(), x.numel(), ctx.reduction, term.dtype)
            along = add(along, term)
        return along.to(dtype) if ctx.reduction == NONE else along

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        reduction, *options = args[cls.tensors :]
        tensors, dtype = args[: cls.tensors], args[0].dtype
        if reduction != NONE or summed_over_batch(in_dims, tensors):
            tensors = widened(*tensors)
        loss = call(*batch(info, in_dims, tensors), NONE, *options)
        if reduction == NONE:
            return loss.to(dtype), 0
        return reduced(sum_each(loss), math.prod(loss.shape[1:]), reduction, loss.dtype), 0


class PointwiseGradient(Chain):
    tensors: int

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *ctx.options, ctx.target_grad, ctx.count = inputs[cls.tensors + 1 :]
        cls.save(ctx, *inputs[: cls.tensors + 1])
        if not ctx.target_grad:
            ctx.mark_non_differentiable(output[1])

    @classmethod
    def backward(cls, ctx: FunctionCtx, h: Tensor | None, k: Tensor | None) -> tuple:
        g, x, t, w, *p = ctx.saved_tensors
        nothing = (None,) * (len(p) + len(ctx.options) + 2)
        k = k if ctx.target_grad else None
        if h is None and k is None:
            return None, None, None, None, *nothing
        g = over(g, ctx.count)
        g_wanted, x_wanted, t_wanted, w_wanted, *_ = ctx.needs_input_grad
        gg, gx, gt = run_parts(cls.next, g_wanted, x_wanted or t_wanted, h, k, g, x, t, w, *p, *ctx.options)
        gw = None
        if w_wanted:
            gw = cls.next.weight_gradient(g, None, None, h, k, x, t, w, *p, *ctx.options)
        return gg if gg is None else over(gg, ctx.count), gx, gt, gw, *nothing

    @classmethod
    def jvp(
        cls, ctx: FunctionCtx, dg: Tensor | None, xt: Tensor | None, tt: Tensor | None, wt: Tensor | None, *more: Any
    ):
        dtype = ctx.saved_tensors[1].dtype
        g, x, t, w, *p = widened(*ctx.saved_tensors)
        refuse_pos_weight(cls, p, more)
        dg, xt, tt, wt = widened(dg, xt, tt, wt)
        g, numbers = over(g, ctx.count), (*ctx.options, ctx.target_grad, 1.0)
        terms = []
        if dg is not None:
            terms.append(run(cls, over(dg, ctx.count), x, t, w, *p, *numbers))
        if wt is not None:
            terms.append(run(cls, g, x, t, wt, *p, *numbers))
        if xt is not None or tt is not None:
            terms.append(run(cls.next.hessian, xt, tt, g, x, t, w, *p, *ctx.options))
        gx = add(*(a for a, _ in terms)).to(dtype)
        return gx, add(*(b for _, b in terms)).to(dtype) if ctx.target_grad else None

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        n = cls.tensors + 1
        tensors, dtype = args[:n], args[1].dtype
        one, summed = is_one_number(in_dims, args), summed_over_batch(in_dims, tensors)
        g_of_each = one and in_dims[0] is not None
        g, x, *rest = batch(info, in_dims, widened(*tensors) if g_of_each or summed else tensors)
        if one:
            g = per_element(g, x.shape) if g_of_each else args[0]
        gx, gt = call(g, x, *rest, *args[n:])
        return (gx.to(dtype), gt.to(dtype)), (0, 0 if args[-2] else None)


class PointwiseDoubleGradient(DoubleGradient):
    tensors: int

    @classmethod
    def tensor_count(cls) -> int:
        return cls.tensors + 3

    @classmethod
    def batch(cls, info: Any, in_dims: tuple, args: tuple) -> tuple[tuple, tuple, tuple]:
        n = cls.tensors + 3
        h, k, g, x, *rest = batch(info, in_dims, args[:n])
        dtype, one = x.dtype, is_one_number(in_dims[2:], args[2:])
        if one:
            h, k, g, x, *rest = widened(h, k, per_element(g, x.shape), x, *rest)

        def value(a: Tensor) -> Tensor:
            return sum_each(a).to(a.dtype) if one else a

        def rounded(a: Tensor) -> Tensor:
            return a.to(dtype)

        return (h, k, g, x, *rest, *args[n:]), (value, rounded, rounded), (0, 0, 0)

    @classmethod
    def gradient_numbers(cls, target_grad: bool) -> tuple[bool, float]:
        return target_grad, 1.0

    @classmethod
    def refuse_tangents(cls, wt: Tensor | None, rest: list, more: list) -> None:
        refuse_pos_weight(cls, rest, more)

    @classmethod
    def along(cls, g: Tensor, b: Tensor | None, c: Tensor | None, h: Any, k: Any, x: Tensor, *rest: Any) -> Tensor:
        """The second derivative along (b, c) and (h, k), in the form of g."""
        one = x.new_ones(()).expand(x.shape)
        u, v = run(cls.hessian, h, k, one, x, *rest)
        each = add(None if b is None else b * u, None if c is None else c * v)
        return each if g.shape == x.shape and g.dtype is x.dtype else each.double().sum().to(g.dtype)

    @classmethod
    def weight_gradient(cls, g: Tensor, b: Any, c: Any, h: Any, k: Any, x: Tensor, t: Tensor, w: Tensor, *rest: Any):
        """The derivative in the weight of what g is a factor of: the same with g for a weight."""
        p, options = rest[: cls.tensors - 3], rest[cls.tensors - 3 :]
        dtype, (g, x, t, b, c, h, k, *p) = w.dtype, spread(g, x, t, b, c, h, k, *p)
        if b is None and c is None:
            one = x.new_ones(()).expand(x.shape)
            (gw,) = run(cls.directional, h, k, one, x, t, g, *p, *options)
        else:
            gw = cls.along(x, b, c, h, k, x, t, g, *p, *options)
        return gw.to(dtype)


def refuse_pos_weight(cls: type[Chain], pos_weight: list, tangents: tuple) -> None:
    """Raises if there is a pos_weight that the first of these tangents belongs to."""
    if pos_weight and tangents[0] is not None:
        raise NotImplementedError(f"{cls.op._schema.name}: the derivative in pos_weight is not implemented")


def count(n: int, reduction: int) -> int:
    """What a mean of n terms divides by."""
    return n if reduction == MEAN else max(n, 1)


def at_least_one(n: int) -> int:
    """What the grad of a mean of n terms is divided by: the gradient of nothing does not depend on it."""
    return max(n, 1) if type(n) is int else n  # a size that a compiler leaves open is not 0


def over(grad: Tensor, count: float) -> Tensor:
    return grad if count == 1 else quotient(grad, count)


def reduced(total: Tensor, n: int, reduction: int, dtype: torch.dtype) -> Tensor:
    """A sum of n terms in float64 as the loss that a reduction makes of it, rounded once."""
    return (quotient(total, count(n, reduction)) if reduction in MEANS else total).to(dtype)


def spread(grad: Tensor, x: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """A grad as a weight of the elements of x, and everything in its dtype, which is as wide as theirs or wider."""
    return grad.expand(x.shape), *(a if a is None else a.to(grad.dtype) for a in (x, *others))


def batch(info: Any, in_dims: tuple, tensors: tuple) -> list[Tensor | None]:
    return [batch_first(a, d, info.batch_size) for a, d in zip(tensors, in_dims, strict=False)]


def is_one_number(in_dims: tuple, args: tuple) -> bool:
    """Whether the grad of each sample is one number, and not one for each element of x."""
    g, x = (a.dim() - (d is not None) for a, d in zip(args[:2], in_dims, strict=False))
    return g == 0 and (x > 0 or args[0].dtype is not args[1].dtype)


NAMES: list[str] = []  # of the losses of this family


def pointwise(name: str) -> type[Function]:
    NAMES.append(name)
    _fake.pointwise(name)
    arguments = getattr(ops, name).default._schema.arguments
    tensors = [a.name for a in arguments].index("reduction")
    function = chain(name, PointwiseLoss, PointwiseGradient, PointwiseDoubleGradient, tensors=tensors)
    split(function, PointwiseDoubleGradient, tensors=tensors)
    function.plain = plain_function(function)
    return function


def plain_function(function: type[PointwiseLoss]) -> type[Function] | None:
    """The Function (x, t, config) -> loss of a small call without weights, in few steps, because each takes time.

    The loss is rounded to the dtype of x here, which spares a `Tensor.to` of its own.
    """
    op, gradient_op, weights = function.op, function.next.op, (None,) * (function.tensors - 2)

    def forward(ctx: FunctionCtx, x: Tensor, t: Tensor, config: tuple) -> Tensor:
        with below_autograd():
            loss = op(x, t, *weights, *config)
            if loss.dtype is not x.dtype:
                loss = loss.to(x.dtype)
        ctx.save_for_backward(x, t)
        ctx.config = config
        return loss

    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        x, t = ctx.saved_tensors
        reduction, *options = ctx.config
        n = max(x.numel(), 1) if reduction in MEANS else 1
        grad = grad if grad.dtype in WIDE else grad.float()
        if in_plain_backward(grad):
            with below_autograd():
                gradient, _ = gradient_op(grad, x, t, *weights, *options, False, n)
        else:
            gradient, _ = function.run_next(over(grad, n), x, t, *weights, *options, False, 1.0)
        return gradient, None, None

    return single_level(function.__name__, forward=forward, backward=backward)


def plain_loss(function: type[PointwiseLoss], x: Tensor, t: Tensor, *args: Any) -> Tensor:
    """The loss of two tensors of one size and dtype, without weights, in that dtype."""
    if not is_compiling() and plain_way(x, t) == "recorded":
        config = args[function.tensors - 2 :]
        if config[0] != NONE:
            return function.plain.apply(x, t, config)
    loss = run(function, x, t, *args)
    return loss if loss.dtype is x.dtype else loss.to(x.dtype)
