"""Cross entropy of a class whose gradient is written over the logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from torchloss.autograd.chain import forward_mode, ops


class InplaceCrossEntropyFunction(Function):
    """The gradient shares the logits' memory and version counter, which tells everyone who saved them of the change."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, t: Tensor, w: Tensor | None, *config: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            loss, stats, total = ops.cross_entropy(x, t, w, *config)
        ctx.config = config
        ctx.save_for_backward(x, t, w, stats, total)
        return loss

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "cross_entropy: with inplace_backward=True there is no second derivative\n"
                "  Call it without, or backward without create_graph=True."
            )
        x, *saved = ctx.saved_tensors
        with torch._C._AutoDispatchBelowAutograd():
            ops.cross_entropy_backward_(grad, x, *saved, *ctx.config)
        torch.autograd.graph.increment_version(x)
        return x.detach(), *[None] * 6


# As loss_of asks of a Function: it is for a single level of autograd, and gives one result.
InplaceCrossEntropyFunction.single = InplaceCrossEntropyFunction.lean = InplaceCrossEntropyFunction
InplaceCrossEntropyFunction.early = None


def can_be_inplace(input: Tensor) -> bool:
    """Whether a backward pass of eager PyTorch will follow."""
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and input.requires_grad
        and not torch._C._are_functorch_transforms_active()
        and not forward_mode()
    )


def refuse_inplace(input: Tensor, probabilities: bool) -> None:
    """Raises if the gradient cannot be written over these logits."""
    if probabilities:
        raise RuntimeError("cross_entropy: inplace_backward=True takes class indices, not probabilities")
    if input.device.type != "cpu":
        raise RuntimeError(f"cross_entropy: inplace_backward=True is for the CPU, and the input is on {input.device}")
    if input.is_leaf:
        raise RuntimeError(
            "cross_entropy: inplace_backward=True would overwrite its input, which is a leaf of the graph\n"
            "  It is for logits that a layer has computed and nothing else needs."
        )
