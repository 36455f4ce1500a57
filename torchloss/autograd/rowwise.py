"""Family 2: a loss (input, target, weight, dim, reduction, ignore_index, parameter) -> (loss, stats, total)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake
from torchloss.autograd.chain import MEAN, NONE, Chain, Last, add, batch_first, chain, per_element, run, sum_each


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
        ctx.mark_non_differentiable(*output[1:])
        cls.keep(ctx, inputs, output)

    @classmethod
    def keep(cls, ctx: FunctionCtx, inputs: tuple, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.config = RowConfig._make(inputs[3:])
        cls.save(ctx, *inputs[:3], *outputs[1:])

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


NAMES: list[str] = []  # of the losses of this family


def rowwise(name: str, saved: Callable[[float], int]) -> type[Function]:
    NAMES.append(name)
    _fake.rowwise(name, saved)
    return chain(name, RowLoss, RowGradient, RowDoubleGradient)
