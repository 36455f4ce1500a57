"""huber_loss as a kernel computes it, but in Python: the field for bugs of pointwise losses.

L = c (r - c/2)      L' = c = clamp(r, -delta, delta)      L'' = [|r| < delta]      r = x - t
"""

import warnings
from functools import reduce as fold

import torch
from torch import Tensor
from torch.autograd import Function

from .refusals import TYPES
from .stand_in import batch_first, fixed_sum, in_float32, keep, wide


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    if not delta > 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if weight is not None and weight.shape != input.shape:
        raise ValueError("Weights and input must have the same size.")
    if target.shape != input.shape and not torch.compiler.is_compiling():
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). "
            "This will likely lead to incorrect results due to broadcasting.",
            stacklevel=2,
        )
    given = [input, target, *[weight] * (weight is not None)]
    if not input.is_meta and torch.is_autocast_enabled(input.device.type):
        given = [in_float32(a) for a in given]
    dtype = fold(torch.promote_types, (a.dtype for a in given))
    if dtype not in TYPES:
        raise NotImplementedError(f"\"huber_cpu\" not implemented for '{dtype}'")
    x, t, *weights = (a.to(dtype) for a in given)
    loss = traced(x, t, delta) if torch.compiler.is_compiling() else Huber.apply(x, t, delta)
    if weights:
        loss = loss * weights[0]
    if reduction == "none":
        return loss.to(dtype)
    total = fixed_sum(loss)
    if reduction == "mean":
        total = total / loss.numel()
    return total.to(dtype)


def difference(x, t):
    return wide(x) - wide(t)


def clipped(x, t, delta):
    return difference(x, t).clamp(-delta, delta)


def summed(grad, like):
    """The gradient of a tensor that was broadcast."""
    return grad.sum_to_size(like.shape).to(like.dtype)


def second(g, x, t, delta, along):
    """g L'' (x_t - t_t)."""
    return g * along.where(difference(x, t).abs() < delta, 0)


def apart(of_x, of_t):
    """of_x - of_t, of which either may be missing."""
    return wide(of_x) if of_t is None else -wide(of_t) if of_x is None else wide(of_x) - wide(of_t)


def same_rank(tensors):
    """Batches that broadcast sample by sample: the dimensions that one lacks come after the batch's."""
    rank = max(a.dim() for a in tensors)
    return [a.reshape(a.shape[0], *[1] * (rank - a.dim()), *a.shape[1:]) for a in tensors]


class Huber(Function):
    @staticmethod
    def forward(x, t, delta):
        r, c = difference(x, t), clipped(x, t, delta)
        return c * (r - c / 2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.delta = inputs
        keep(ctx, *tensors)

    @staticmethod
    def backward(ctx, g):
        if g is None:
            return None, None, None
        gx, gt = HuberGradient.apply(g, *ctx.saved_tensors, ctx.delta)
        return gx, gt, None

    @staticmethod
    def jvp(ctx, x_t, t_t, _):
        return clipped(*ctx.saved_tensors, ctx.delta) * apart(x_t, t_t)

    @staticmethod
    def vmap(info, in_dims, *args):
        *tensors, delta = batch_first(info, in_dims, args)
        return Huber.apply(*same_rank(tensors), delta), 0


class HuberGradient(Function):
    @staticmethod
    def forward(g, x, t, delta):
        grad = g * clipped(x, t, delta)
        return summed(grad, x), summed(-grad, t)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.delta = inputs
        keep(ctx, *tensors)

    @staticmethod
    def backward(ctx, h, k):
        if h is None and k is None:
            return None, None, None, None
        g, x, t = ctx.saved_tensors
        along = apart(h, k).expand(g.shape)
        grad = second(g, x, t, ctx.delta, along)
        return along * clipped(x, t, ctx.delta), summed(grad, x), summed(-grad, t), None

    @staticmethod
    def jvp(ctx, g_t, x_t, t_t, _):
        g, x, t = ctx.saved_tensors
        grad = 0 if g_t is None else g_t * clipped(x, t, ctx.delta)
        if x_t is not None or t_t is not None:
            grad = grad + second(g, x, t, ctx.delta, apart(x_t, t_t).expand(g.shape))
        return summed(grad, x), summed(-grad, t)

    @staticmethod
    def vmap(info, in_dims, *args):
        g, x, t, delta = batch_first(info, in_dims, args)
        gx, gt = HuberGradient.apply(*same_rank([g, x, t]), delta)
        return (gx.reshape(x.shape), gt.reshape(t.shape)), (0, 0)


def traced(x, t, delta):
    """Huber in differentiable operators: the compiler does not follow a Function with a jvp."""
    r = difference(x, t)
    c = r.clamp(-delta, delta)
    return c * (r - c / 2)
