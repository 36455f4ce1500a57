"""A loss of rows whose gradient is written over its input, in the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss.autograd.chain import below_autograd, ops
from torchloss.autograd.rowwise import RowConfig, RowLoss, composed


def with_gradient_in_place(loss: type[RowLoss]) -> type[Function]:
    """The Function (x, t, w, config) -> loss. It is for a single level of autograd.

    The gradient shares the input's memory and version counter, which tells everyone who saved it of the change.
    """
    name = loss.op._opname
    into = getattr(ops, f"{name}_backward_into").default

    class GradientInPlace(Function):
        @staticmethod
        def forward(ctx: FunctionCtx, x: Tensor, t: Tensor | None, w: Tensor | None, config: tuple) -> Tensor:
            value, saved, total = loss.silent(x, t, w, *config)
            mean, ctx.config = loss.sizes.split(config)
            ctx.save_for_backward(x, t, w, saved, total if mean else None)
            return value

        @staticmethod
        def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    f"{name}: with inplace_backward=True there is no second derivative\n"
                    "  Call it without, or backward without create_graph=True."
                )
            x, t, w, saved, total = ctx.saved_tensors
            with below_autograd():
                into(x, grad, *loss.sizes.there(x, t, w), saved, None, total, *ctx.config, False)
            torch.autograd.graph.increment_version(x)
            return x.detach(), None, None, None

    return GradientInPlace


def loss_in_place(
    function: type[RowLoss], x: Tensor, t: Any, w: Any, c: RowConfig, row_weight: Any, normalizer: Any
) -> Tensor:
    """The loss, in the compute type. What it is divided by and multiplied with is left to torch's operators."""

    def loss(x: Tensor, t: Any, w: Any, *config: Any) -> Tensor:
        return function.in_place.apply(x, t, w, config)

    if row_weight is None and normalizer is None:
        return loss(x, t, w, *c.args(c.reduction))
    return composed(loss, x, t, w, c, row_weight, normalizer)


def refuse_in_place(name: str, input: Tensor, target: Tensor | None) -> None:
    """Raises if the gradient cannot be written over this input."""
    if input.device.type == "meta":
        raise RuntimeError(f"{name}: inplace_backward=True needs numbers to write over, and the input is on meta")
    if target is not None and target.requires_grad:
        raise RuntimeError(f"{name}: inplace_backward=True gives no gradient of the target: pass target.detach()")
    if target is not None and target.untyped_storage().data_ptr() == input.untyped_storage().data_ptr():
        raise RuntimeError(f"{name}: inplace_backward=True would overwrite the target, which shares the input's memory")
    if input.is_leaf:
        raise RuntimeError(
            f"{name}: inplace_backward=True would overwrite its input, which is a leaf of the graph\n"
            "  It is for logits that a layer has computed and nothing else needs."
        )
