"""softmax and log_softmax: (input, dim) -> output."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss import _fake
from torchloss.autograd.chain import Chain, SecondOrder, add, batch_first, chain, run


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


class RowMapDoubleGradient(SecondOrder):
    batched = RowMap.__dict__["batched"]


class SoftmaxGradient(RowMapGradient):
    @staticmethod
    def along_output(yt: Tensor, g: Tensor, y: Tensor, dim: int) -> Tensor:
        return yt * (g - (y * g).sum(dim, keepdim=True)) - y * (yt * g).sum(dim, keepdim=True)


class LogSoftmaxGradient(RowMapGradient):
    @staticmethod
    def along_output(zt: Tensor, g: Tensor, z: Tensor, dim: int) -> Tensor:
        return -zt * z.exp() * g.sum(dim, keepdim=True)


NAMES: list[str] = []  # of the losses of this family


def row_map(name: str, gradient: type[RowMapGradient]) -> type[Function]:
    NAMES.append(name)
    _fake.row_map(name)
    return chain(name, RowMap, gradient, RowMapDoubleGradient)
