"""Family 2: a loss of rows, its gradient and its double gradient.

The Functions of every loss take the same tensors, None where the op has no such argument, and then the op's numbers:

    loss             (x, t, w, *config) -> (loss, saved, total)
    gradient         (grad, x, t, w, saved, *config, target_grad) -> (grad of x, grad of t)
    double gradient  (h, k, grad, x, t, w, saved, *config) -> (grad of grad, grad of x, grad of t)

The loss and every grad are of the compute type: one number, or one for each row (for each value and row, if a row has
several values). Only the loss knows a reduction: a mean's grad is divided before the gradient is taken.
"""

from collections import namedtuple
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake
from torchloss._check import MEAN_OR_ZERO, MEANS, NONE, SUM
from torchloss._reduction import divided, product, quotient
from torchloss.autograd.chain import (
    Chain,
    add,
    batch_first,
    chain,
    ops,
    per_element,
    run,
    sum_each,
    summed_over_batch,
    widened,
)
from torchloss.autograd.second_order import DoubleGradient, run_parts, split

TENSOR_NAMES = ("input", "target", "weight")


class Sizes:
    """What the schema of a loss says of it: its tensors, its numbers, how many numbers a row saves and its values."""

    def __init__(self, name: str) -> None:
        names = [a.name for a in getattr(ops, name).default._schema.arguments]
        self.has = tuple(n in names for n in TENSOR_NAMES)
        numbers = [n for n in names if n not in TENSOR_NAMES]
        self.loss_config = namedtuple("Config", numbers)
        self.config = namedtuple("Config", [n for n in numbers if n != "reduction"])
        self.saved, self.values = getattr(ops, f"{name}_sizes").default()
        self.floating_target = self.has[1] and "ignore_index" not in names
        self.reduction_at = numbers.index("reduction") if "reduction" in numbers else None

    def there(self, x: Tensor, t: Tensor | None, w: Tensor | None) -> list:
        """Those of a Function's tensors that its op takes."""
        return list(compress((x, t, w), self.has))

    def reduces(self, config: Sequence) -> bool:
        return self.reduction_at is not None and config[self.reduction_at] != NONE

    def split(self, config: Sequence) -> tuple[bool, tuple]:
        """Whether the reduction is a mean, and the numbers without the reduction: those that derivatives take."""
        at = self.reduction_at
        if at is None:
            return False, tuple(config)
        return config[at] in MEANS, (*config[:at], *config[at + 1 :])


class RowChain(Chain):
    """The Function takes three tensors of the loss where its op takes those that it has; `before` others come first."""

    sizes: Sizes
    before = 0

    @classmethod
    def op_call(cls) -> Callable:
        op, n, has = cls.op, cls.before, cls.sizes.has

        def call(*args: Any) -> Any:
            there = [a for a, h in zip(args[n : n + 3], has, strict=True) if h]
            return op(*args[:n], *there, *args[n + 3 :])

        return call

    @classmethod
    def of_op(cls, *args: Any) -> tuple:
        n, rest = cls.before, iter(args[cls.before :])
        return *args[:n], *[next(rest) if has else None for has in cls.sizes.has], *rest


def each_sample(call: Callable, info: Any, in_dims: tuple, args: tuple) -> tuple:
    """The batch rule of last resort, for a batch of class weights: sample by sample."""
    samples = [
        call(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=False)))
        for i in range(info.batch_size)
    ]
    outputs = tuple(torch.stack(o) for o in zip(*samples, strict=True))
    return outputs, (0,) * len(outputs)


def for_no_samples(info: Any, in_dims: tuple, args: tuple, at: int) -> tuple:
    """The arguments of a batch without samples, with one tensor for all of them in the place of their class weights."""
    if info.batch_size or in_dims[at] is None:
        return in_dims, args
    w = args[at].new_zeros(args[at].movedim(in_dims[at], 0).shape[1:])
    return (*in_dims[:at], None, *in_dims[at + 1 :]), (*args[:at], w, *args[at + 1 :])


def weights(x: Tensor, t: Tensor | None, w: Tensor | None, dim: int, ignore_index: int | None) -> Tensor:
    """The weight of each row, in the compute type: what a mean divides by is their sum."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if ignore_index is None:
        return x.new_ones((), dtype=dtype).expand([*x.shape[:dim], *x.shape[dim + 1 :]])
    counts = t != ignore_index
    if w is None:
        return counts.to(dtype)
    w = w if w.shape[0] else w.new_zeros(1)  # without classes every row is ignored
    return w.to(dtype)[t.where(counts, 0)].where(counts, 0)


def or_one(total: Tensor, reduction: int) -> Tensor:
    """What a mean divides by: 1 where there is nothing and the mean of nothing shall be 0."""
    return torch.where(total == 0, 1, total) if reduction == MEAN_OR_ZERO else total


def of_mean(grad: Tensor, total: Tensor, saved: Tensor) -> Tensor:
    """The grad of each row, of a mean's. The gradient of no rows does not depend on it: there is no 0 / 0 to come."""
    return grad if any(type(n) is int and n == 0 for n in saved.shape[1:]) else quotient(grad, total)


class RowLoss(RowChain):
    """`in_forward` and `in_place` are the Functions of those two ways, for a loss that has them."""

    in_forward: type[Function] | None = None
    in_place: type[Function] | None = None

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.mean, ctx.config = cls.sizes.split(inputs[3:])
        ctx.reduced = cls.sizes.reduces(inputs[3:])
        cls.save(ctx, *inputs[:3], *output[1:])

    @classmethod
    def backward(cls, ctx: FunctionCtx, grad: Tensor | None, *_: Any) -> tuple:
        nothing = (None,) * (len(ctx.needs_input_grad) - 3)
        if grad is None:
            return None, None, None, *nothing
        x, t, w, saved, total = ctx.saved_tensors
        target_grad = ctx.needs_input_grad[1]
        if ctx.mean:
            grad = of_mean(grad, total, saved)
        gx, gt = cls.run_next(grad, x, t, w, saved, *ctx.config, target_grad)
        return gx if ctx.needs_input_grad[0] else None, gt if target_grad else None, None, *nothing

    @classmethod
    def jvp(cls, ctx: FunctionCtx, xt: Tensor | None, tt: Tensor | None, wt: Tensor | None, *_: Any) -> tuple:
        refuse_weight(cls, wt)
        x, t, w, saved, total = ctx.saved_tensors
        values = cls.sizes.values
        shape = saved.shape[1:] if values == 1 else (values, *saved.shape[1:])
        one = saved.new_ones(() if ctx.reduced else shape)
        tt = tt if cls.sizes.floating_target else None
        (along,) = run(cls.next.next.directional, xt, tt, one, x, t, w, saved, *ctx.config)
        return quotient(along, total) if ctx.mean else along, None, None

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        in_dims, args = for_no_samples(info, in_dims, args, 2)
        if in_dims[2] is not None:
            return each_sample(call, info, in_dims, args)
        x, t, w, *config = args
        if summed_over_batch(in_dims, (x, t)):
            x, t, w = widened(x, t, w)
        c = cls.sizes.loss_config._make(config)
        x, t = (batch_first(a, d, info.batch_size) for a, d in ((x, in_dims[0]), (t, in_dims[1])))
        reduction, c = getattr(c, "reduction", NONE), c._replace(dim=c.dim + 1)
        loss, saved, total = call(x, t, w, *(c if cls.sizes.values > 1 else c._replace(reduction=NONE)))
        total = or_one(sum_each(weights(x, t, w, c.dim, getattr(c, "ignore_index", None))), reduction)
        if reduction != NONE:
            loss = sum_each(loss)
            loss = (quotient(loss, total) if reduction in MEANS else loss).to(saved.dtype)
        return (loss, saved, total.to(saved.dtype)), (int(cls.sizes.values > 1), 1, 0)


class RowGradient(RowChain):
    before = 1

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.target_grad = inputs
        ctx.config = tensors[5:]
        cls.save(ctx, *tensors[:5])
        if not ctx.target_grad:
            ctx.mark_non_differentiable(output[1])

    @classmethod
    def backward(cls, ctx: FunctionCtx, h: Tensor | None, k: Tensor | None) -> tuple:
        k = k if ctx.target_grad else None
        nothing = (None,) * (len(ctx.config) + 1)
        if h is None and k is None:
            return (None,) * 5 + nothing
        g_wanted, x_wanted, t_wanted, *_ = ctx.needs_input_grad
        gg, gx, gt = run_parts(cls.next, g_wanted, x_wanted or t_wanted, h, k, *ctx.saved_tensors, *ctx.config)
        return gg, gx, gt if t_wanted else None, None, None, *nothing

    @classmethod
    def jvp(cls, ctx: FunctionCtx, dg: Tensor | None, xt: Tensor | None, tt: Tensor | None, *_: Any) -> tuple:
        g, x, t, w, saved = ctx.saved_tensors
        dtype, tt = x.dtype, tt if cls.sizes.floating_target else None
        if dg is not None and (xt is not None or tt is not None):  # two terms, of which only the sum is rounded
            x, t, w, xt, tt = widened(x, t, w, xt, tt)
        terms = []
        if dg is not None:
            terms.append(run(cls, dg, x, t, w, saved, *ctx.config, ctx.target_grad))
        if xt is not None or tt is not None:
            terms.append(run(cls.next.hessian, xt, tt, g, x, t, w, saved, *ctx.config))
        gx = add(*(a for a, _ in terms)).to(dtype)
        return gx, add(*(b for _, b in terms)).to(dtype) if ctx.target_grad else None

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        in_dims, args = for_no_samples(info, in_dims, args, 3)
        if in_dims[3] is not None:
            return each_sample(call, info, in_dims, args)
        (g, x, t, w, *rest, target_grad), dtype = args, args[1].dtype
        if summed_over_batch(in_dims[1:], (x, t)):
            x, t, w = widened(x, t, w)
        gx, gt = call(*batch_rows(cls, info, in_dims, g, x, t, w, *rest), target_grad)
        return (gx.to(dtype), gt.to(dtype)), (0, 0 if target_grad else None)


def batch_rows(cls: type[RowChain], info: Any, in_dims: tuple, g: Tensor, x: Tensor, t: Any, w: Any, *rest: Any):
    """The arguments of a gradient for a whole batch, with a grad for each row."""
    saved, *config = rest
    c, n = cls.sizes.config._make(config), info.batch_size
    g, x, t = (batch_first(a, d, n) for a, d in zip((g, x, t), in_dims, strict=False))
    saved = batch_first(saved, in_dims[4], n).movedim(0, 1).contiguous()
    if cls.sizes.values > 1:
        g = g.movedim(0, 1)
    elif g.dim() == 1:
        g = per_element(g, saved.shape[1:])
    return g, x, t, w, saved, *c._replace(dim=c.dim + 1)


def refuse_weight(cls: type[Chain], tangent: Tensor | None) -> None:
    if tangent is not None:
        raise NotImplementedError(f"{cls.op._schema.name}: the derivative in the class weights is not implemented")


class RowDoubleGradient(RowChain, DoubleGradient):
    before = 3

    @classmethod
    def op_call(cls) -> Callable:
        plain, fields = super().op_call(), cls.sizes.config._fields
        if "softcap" not in fields:
            return plain
        at = 7 + fields.index("softcap")

        def call(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
            return plain(*args) if args[at] == 0 else second_order_with_softcap(cls, plain, *args)

        return call

    @classmethod
    def tensor_count(cls) -> int:
        return 7

    @classmethod
    def batched(cls, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple:
        in_dims, args = for_no_samples(info, in_dims, args, 5)
        if in_dims[5] is not None:
            return each_sample(call, info, in_dims, args)
        return super().batched(call, info, in_dims, *args)

    @classmethod
    def batch(cls, info: Any, in_dims: tuple, args: tuple) -> tuple[tuple, tuple, tuple]:
        h, k, g, *tensors = args
        one_number = g.dim() == (in_dims[2] is not None)
        h, k = (batch_first(a, d, info.batch_size) for a, d in ((h, in_dims[0]), (k, in_dims[1])))

        def value(a: Tensor) -> Tensor:
            if one_number:
                return sum_each(a).to(a.dtype)
            return a.movedim(1, 0) if cls.sizes.values > 1 else a

        args = (h, k, *batch_rows(cls, info, in_dims[2:], g, *tensors))
        return args, (value, unchanged, unchanged), (0, 0, 0 if cls.sizes.floating_target else None)

    @classmethod
    def gradient_numbers(cls, target_grad: bool) -> tuple[bool]:
        return (target_grad,)

    @classmethod
    def refuse_tangents(cls, wt: Tensor | None, *_: Any) -> None:
        refuse_weight(cls, wt)

    @classmethod
    def along(cls, g: Tensor, b: Tensor | None, c: Tensor | None, *args: Any) -> Tensor:
        """The second derivative along (b, c) and (h, k), in the form of g."""
        if cls.sizes.values == 1:
            return cls.product(torch.ones_like(g), b, c, *args)
        units = torch.eye(cls.sizes.values, dtype=g.dtype, device=g.device)
        forms = (u.reshape(-1, *[1] * (g.dim() - 1)).expand(g.shape) for u in units)
        return torch.stack([cls.product(one, b, c, *args) for one in forms])

    @classmethod
    def product(cls, one: Tensor, b: Tensor | None, c: Tensor | None, h: Any, k: Any, *args: Any) -> Tensor:
        dim = cls.sizes.config._make(args[4:]).dim
        pairs = zip((b, c), run(cls.hessian, h, k, one, *args), strict=True)
        each = add(*(a.to(one.dtype) * u for a, u in pairs if a is not None)).sum(dim)
        return each.sum() if one.dim() == 0 else each


def unchanged(a: Tensor) -> Tensor:
    return a


def second_order_with_softcap(cls: type[RowChain], call: Callable, h, k, g, x, t, w, saved, *config: Any) -> tuple:
    """The double gradient through x' = cap tanh(x / cap), by the chain rule: the op takes logits that are capped."""
    c = cls.sizes.config._make(config)
    cap, c = c.softcap, c._replace(softcap=0.0)
    call(h, k, g, x, t, w, saved, *c)  # for its checks: torch's operators would take other arguments, too
    wide = saved.dtype
    both = cls.sizes.floating_target and not cls.sizes.has[2]  # the divergence's target is of logits, too

    def capped(x: Tensor, h: Tensor | None) -> tuple:
        u = x.to(wide) / cap
        tanh, slope = u.tanh(), u.cosh().square().reciprocal()
        h = torch.zeros_like(u) if h is None else h.to(wide)
        return cap * tanh, h * slope, slope, h * slope * tanh * (-2 / cap)

    x_, h_, x_slope, x_bend = capped(x, h)
    t_, k_ = t, k
    if both:
        t_, k_, t_slope, t_bend = capped(t, k)
    elif cls.sizes.floating_target:
        t_, k_ = t.to(wide), None if k is None else k.to(wide)
    w_ = None if w is None else w.to(wide)
    gg, gx, gt = call(h_, k_, g, x_, t_, w_, saved, *c)
    gradient_op = getattr(ops, cls.op._opname.replace("_double_backward", "_backward")).default
    dx, dt = gradient_op(g, *cls.sizes.there(x_, t_, w_), saved, *c, both)
    gx = gx * x_slope + dx * x_bend
    if both:
        gt = gt * t_slope + dt * t_bend
    return gg, gx.to(x.dtype), gt.to(x.dtype)


class RowConfig(NamedTuple):
    """The numbers of a loss of rows, for every loss: an op takes its ignore_index only where it has one."""

    dim: int
    ignore_index: int | None
    reduction: int
    options: tuple[float, ...]

    def args(self, reduction: int) -> tuple:
        if self.ignore_index is None:
            return self.dim, reduction, *self.options
        return self.dim, self.ignore_index, reduction, *self.options


def composed(
    loss: Callable, x: Tensor, t: Any, w: Any, c: RowConfig, row_weight: Tensor | None, normalizer: Any
) -> Tensor:
    """A loss with weights of rows or a normalizer, by torch's operators, which know every mode and derivative."""
    if row_weight is None:
        return divided(loss(x, t, w, *c.args(SUM)), normalizer)
    each = product(loss(x, t, w, *c.args(NONE)), row_weight)
    if c.reduction == NONE:
        return each
    total = each.double().sum()  # which may be beyond float32 where the mean is not
    if normalizer is not None:
        return divided(total.to(each.dtype), normalizer)
    if c.reduction == SUM:
        return total.to(each.dtype)
    by = product(weights(x, t, w, c.dim, c.ignore_index), row_weight).double().sum().to(each.dtype)
    return quotient(total, or_one(by, c.reduction)).to(each.dtype)


def rowwise(name: str) -> type[Function]:
    sizes = Sizes(name)
    NAMES.append(name)
    _fake.rowwise(name, sizes)
    function = chain(name, RowLoss, RowGradient, RowDoubleGradient, sizes=sizes)
    split(function, RowDoubleGradient, sizes=sizes)
    return function


NAMES: list[str] = []  # of the losses of this family
