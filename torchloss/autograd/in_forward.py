"""A loss of rows with its gradient taken in the forward pass.

The gradient needs the exponentials that the loss has summed, and a row that is still in the cache. Taken at once, it
spares a third of the arithmetic and one reading of the logits, and in small problems an operator call.
`loss.backward()` asks for the gradient with the factor 1, which is ready. For another factor it is computed anew in the
same memory. For everything but a plain backward pass the usual Functions take over.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

try:
    from torch._C._autograd import _get_current_graph_task_keep_graph as keep_graph
    from torch._C._autograd import _top_saved_tensors_default_hooks as hooks
except ImportError:  # private names: without them no gradient is taken in the forward pass
    keep_graph = None

from torchloss._check import FLOATING, MEAN, NONE
from torchloss._reduction import product
from torchloss.autograd.chain import (
    TENSORS,
    alive,
    below_autograd,
    in_eager_mode,
    in_make_fx,
    in_plain_backward,
    modes_active,
    ops,
    run,
    single_level,
)
from torchloss.autograd.rowwise import RowConfig, RowLoss, composed, of_mean

ALWAYS = 1 << 62
largest = ALWAYS


def set_early_gradient(most: int | None = None) -> None:
    """Sets up to how many logits a loss takes its gradient in the forward pass. None: any number, as at the start.

    It concerns losses of logits, reduced by mean or sum, whose target needs no gradient. With 0 the gradient is taken
    in the backward pass, as in PyTorch. That is better for programs that hold many losses before the first backward
    pass, for each holds a gradient; and for losses that never get a backward pass, where `torch.no_grad()` is better
    still. The numbers are the same, but for the last bits in rows of more than some hundred classes.

    Raises:
        TypeError: `most` is not an int.
        ValueError: `most` is negative.
    """
    global largest
    if most is not None and (not isinstance(most, int) or isinstance(most, bool)):
        raise TypeError(f"set_early_gradient: expected a number of logits as int, or None, not {type(most).__name__}")
    if most is not None and most < 0:
        raise ValueError(f"set_early_gradient: expected a number of logits of 0 or more, not {most}")
    largest = ALWAYS if most is None else most


def saved_as_they_are() -> bool:
    """Whether there are no saved-tensor hooks, such as a checkpoint's, which would not see a gradient that is ready."""
    return hooks(True) is None


def always_taken() -> bool:
    """Whether the gradient of any number of logits is taken in the forward pass."""
    return largest == ALWAYS and keep_graph is not None and saved_as_they_are()


def may_be_given(grad: Tensor) -> bool:
    """Whether nobody will ask for this gradient again.

    With retain_graph=True somebody may, and may have changed the tensor that was handed out before.
    """
    return in_plain_backward(grad) and not (keep_graph() or (modes_active() and in_make_fx()))


def with_gradient_in_forward(function: type[RowLoss]) -> type[Function] | None:
    """The Function (x, t, w, row_weight, normalizer, form) -> loss; the last three have no gradient here.

    The form is (config, dtype): one argument, because each argument takes time. The loss is rounded to the dtype here,
    because a `Tensor.to` of its own takes as long as a small call; None leaves it in the compute type.
    """
    name, split, there = function.op._opname, function.sizes.split, function.sizes.there
    if keep_graph is None or not hasattr(ops, f"{name}_with_gradient"):
        return None
    forward_op = getattr(ops, f"{name}_with_gradient").default
    into = getattr(ops, f"{name}_backward_into").default

    def forward(ctx: FunctionCtx, x: Tensor, t: Any, w: Any, row_weight: Any, normalizer: Any, form: tuple) -> Tensor:
        config, dtype = form
        with below_autograd():
            loss, saved, total, ctx.gradient = forward_op(*there(x, t, w), row_weight, normalizer, *config)
            if dtype is not None:
                loss = loss.to(dtype)
        ctx.made, ctx.config = (saved, total), config
        ctx.save_for_backward(x, t, w, row_weight)
        return loss

    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        x, t, w, row_weight = ctx.saved_tensors  # or raises: a second backward, or logits that have changed
        gradient, given = ctx.gradient, may_be_given(grad)
        if given:
            ctx.gradient = None  # so that who gets it is its only owner
            if grad.is_cpu and grad.item() == 1:
                return gradient, None, None, None, None, None
        (saved, total), (mean, config) = ctx.made, split(ctx.config)
        grad = grad.to(total.dtype)
        total = total if mean else None
        if given:
            with below_autograd():
                into(gradient, grad, *there(x, t, w), saved, row_weight, total, *config, True)
        else:
            grad = grad if total is None else of_mean(grad, total, saved)
            grad = grad if row_weight is None else product(grad, row_weight)
            gradient, _ = function.run_next(grad, x, t, w, saved, *config, False)
        return gradient, None, None, None, None, None

    return single_level(function.__name__, forward=forward, backward=backward)


def loss_of_rows(
    function: type[RowLoss],
    x: Tensor,
    t: Tensor | None,
    w: Tensor | None,
    c: RowConfig,
    row_weight: Tensor | None = None,
    normalizer: Any = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The loss, in the compute type if no dtype is given.

    With its gradient in the forward pass, where a plain backward pass may follow.
    """
    if in_eager_mode() and gradient_may_be_taken(function, x, t, c, row_weight, normalizer):
        tensors = alive((x, t, w, row_weight))
        if normalizer is None:
            return function.in_forward.apply(*tensors, None, (c.args(c.reduction), dtype))
        if not isinstance(normalizer, Tensor):
            normalizer = torch.tensor(normalizer, dtype=torch.float64)
        elif normalizer.dtype not in (*FLOATING, torch.int64, torch.int32):
            normalizer = normalizer.double()
        return function.in_forward.apply(*tensors, normalizer, (c.args(MEAN), dtype))
    if row_weight is None and normalizer is None:
        loss = run(function, x, t, w, *c.args(c.reduction))[0]
    else:
        loss = composed(lambda *args: run(function, *args)[0], x, t, w, c, row_weight, normalizer)
    return loss if dtype is None else loss.to(dtype)


def gradient_may_be_taken(function: type[RowLoss], x: Tensor, *others: Any) -> bool:
    """Whether the input alone asks for a gradient, and the loss is one number."""
    t, c, row_weight, normalizer = others
    return (
        x.requires_grad
        and c.reduction != NONE
        and function.in_forward is not None
        and type(x) in TENSORS
        and x.numel() <= largest
        and saved_as_they_are()
        and not any(isinstance(a, Tensor) and a.requires_grad for a in (t, row_weight, normalizer))
    )
