"""Family 1: a loss (input, target, weight, pos_weight, reduction, parameter), its gradient and its double gradient."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake
from torchloss.autograd.chain import MEAN, NONE, Chain, Last, add, batch_first, chain, per_element, run, sum_each


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


NAMES: list[str] = []  # of the losses of this family


def pointwise(name: str) -> type[Function]:
    NAMES.append(name)
    _fake.pointwise(name)
    return chain(name, PointwiseLoss, PointwiseGradient, PointwiseDoubleGradient)
