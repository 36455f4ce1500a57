"""softmax and log_softmax: (input, dim) -> output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake
from torchloss.autograd.chain import Chain, add, batch_first, chain, run


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
    formulas: type
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
        return add(along, None if yt is None else cls.formulas.gradient_along_output(yt, g, y, ctx.dim))


class RowMapDoubleGradient(Chain):
    """What it adds to the ops is in torch's operators, which know every further derivative."""

    batched = RowMap.__dict__["batched"]
    formulas: type
    gradient: type[Function]
    itself: type[Function]

    @classmethod
    def setup_context(cls, ctx: FunctionCtx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.dim = inputs
        cls.save(ctx, *tensors)

    @classmethod
    def backward(cls, ctx: FunctionCtx, a: Tensor | None, b: Tensor | None) -> tuple:
        (h, g, y), dim = ctx.saved_tensors, ctx.dim
        terms = []
        if a is not None:
            terms.append((run(cls.gradient, a, y, dim), None, run(cls.itself, h, a, y, dim)[1]))
        if b is not None:
            terms.append(cls.formulas.bent(b, h, g, y, dim))
        return *(add(*each) for each in zip(*terms, strict=True)), *(None,) * (1 if terms else 4)

    @classmethod
    def jvp(cls, ctx: FunctionCtx, ht: Tensor | None, gt: Tensor | None, yt: Tensor | None, _: Any) -> tuple:
        (h, g, y), dim = ctx.saved_tensors, ctx.dim
        terms = []
        if ht is not None:
            terms.append(run(cls.itself, ht, g, y, dim))
        if gt is not None:
            terms.append((torch.zeros_like(y), run(cls.itself, h, gt, y, dim)[1]))
        if yt is not None:
            terms.append(cls.formulas.along_output(yt, h, g, y, dim))
        return tuple(add(*each) for each in zip(*terms, strict=True))


def dot(a: Tensor, b: Tensor, dim: int) -> Tensor:
    return (a * b).sum(dim, keepdim=True)


class SoftmaxFormulas:
    """Of J h = y (h - <y, h>) and B = h (g - <y, g>) - g <y, h>, which the double gradient gives for g and y."""

    @staticmethod
    def gradient_along_output(yt: Tensor, g: Tensor, y: Tensor, dim: int) -> Tensor:
        return yt * (g - dot(y, g, dim)) - y * dot(yt, g, dim)

    @classmethod
    def along_output(cls, yt: Tensor, h: Tensor, g: Tensor, y: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return cls.gradient_along_output(yt, h, y, dim), -h * dot(yt, g, dim) - g * dot(yt, h, dim)

    @staticmethod
    def bent(b: Tensor, h: Tensor, g: Tensor, y: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of <b, B> in h, g and y."""
        bg, bh = dot(b, g, dim), dot(b, h, dim)
        return b * (g - dot(y, g, dim)) - y * bg, b * (h - dot(y, h, dim)) - y * bh, -g * bh - h * bg


class LogSoftmaxFormulas:
    """Of h - <e^z, h> and B = -h e^z G, G = sum_j g_j."""

    @staticmethod
    def gradient_along_output(zt: Tensor, g: Tensor, z: Tensor, dim: int) -> Tensor:
        return -zt * z.exp() * g.sum(dim, keepdim=True)

    @staticmethod
    def along_output(zt: Tensor, h: Tensor, g: Tensor, z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        pt = zt * z.exp()
        return -dot(pt, h, dim).expand(z.shape), -h * pt * g.sum(dim, keepdim=True)

    @staticmethod
    def bent(b: Tensor, h: Tensor, g: Tensor, z: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        p, G = z.exp(), g.sum(dim, keepdim=True)
        return -b * p * G, -dot(b * p, h, dim).expand(z.shape), -b * h * p * G


NAMES: list[str] = []  # of the losses of this family


def row_map(name: str, formulas: type) -> type[Function]:
    NAMES.append(name)
    _fake.row_map(name)
    function = chain(name, RowMap, RowMapGradient, RowMapDoubleGradient, formulas=formulas)
    double = function.next.next
    double.gradient, double.itself = function.next, double
    return function
