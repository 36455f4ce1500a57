"""What the pointwise losses share: broadcasting, promotion, weights."""

from __future__ import annotations

from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor

from torchloss._check import (
    CODES,
    FLOATING,
    MEAN,
    MEAN_OR_ZERO,
    MEANS,
    NONE,
    SUM,
    WIDE,
    common_dtype,
    not_a_tensor,
    other_device,
    scalar_type,
    text,
    under_autocast,
    warn,
)
from torchloss._reduction import divided, product, quotient, reduction_of, result_dtype
from torchloss.autograd import run
from torchloss.autograd.chain import widened


def simple(reduction: str, input: Tensor, target: Tensor) -> bool:
    """Whether there is nothing to refuse, to promote or to broadcast."""
    return (
        type(input) is Tensor
        and type(target) is Tensor
        and type(reduction) is str
        and reduction in CODES
        and input.dtype is target.dtype
        and (input.dtype in WIDE or (input.dtype in FLOATING and not under_autocast(input)))
        and input.shape == target.shape
        and input.device == target.device
    )


def distance(
    function: Any,
    kernel: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    normalizer: float | Tensor | None,
    empty: str,
    out_dtype: torch.dtype | None,
    *options: float,
) -> Tensor:
    name = kernel.removesuffix("_{}") + "_loss"
    if not (isinstance(target, Tensor) and isinstance(input, Tensor)):
        raise not_a_tensor(name, target=target, input=input)
    x, t, size = input, target, input.shape
    if t.shape != size:
        size = broadcast(input, target)[0].shape
    if t.device != x.device:
        raise other_device(t, "target", x)
    if weight is not None:
        _check_weight(name, x, weight, input.shape, reduction)
        x, t, weight = _promoted(kernel, x, t, weight)
    elif x.dtype is not t.dtype or x.dtype not in WIDE:
        x, t = _promoted(kernel, x, t)
    code, normalizer = reduction_of(name, reduction, empty, normalizer, x)
    own = (x.dtype, input.dtype)
    if size != input.shape or size != target.shape:
        if summed_along(size, x, t, weight):
            x, t, weight = widened(x, t, weight)
        x, t = x.expand(size), t.expand(size)
    if weight is not None and code in MEANS and normalizer is None and name != "huber_loss":
        dtype = result_dtype(name, out_dtype, *own)
        loss = _weighted_mean(function, x, t, weight, code, options)
        return loss if loss.dtype is dtype else loss.to(dtype)
    w = weight if weight is None or weight.shape == x.shape else weight.expand(x.shape)
    return finished(name, function, x, t, (w,), code, normalizer, out_dtype, own, *options)


def finished(
    name: str,
    function: Any,
    x: Tensor,
    t: Tensor,
    weights: tuple,
    code: int,
    normalizer: float | Tensor | None,
    out_dtype: torch.dtype | None,
    own: tuple[torch.dtype, ...],
    *options: float,
) -> Tensor:
    """The loss, divided by its normalizer and in its dtype. `own` are the dtypes of the input: see result_dtype."""
    dtype = own[0] if out_dtype is None else result_dtype(name, out_dtype, *own)
    if code == NONE and dtype.itemsize > x.dtype.itemsize:  # else the op rounds each of its numbers to 16 bits
        x, t = x.to(dtype), t.to(dtype)
        weights = tuple(w if w is None else w.to(dtype) for w in weights)
    loss = run(function, x, t, *weights, code if normalizer is None else SUM, *options)
    if normalizer is not None:
        loss = divided(loss, normalizer)
    return loss if loss.dtype is dtype else loss.to(dtype)


def _check_weight(name: str, x: Tensor, weight: Tensor, size: torch.Size, reduction: str) -> None:
    if not isinstance(weight, Tensor):
        raise not_a_tensor(name, weight=weight)
    if weight.shape != size:
        raise ValueError(
            f"Weights and input must have the same size.\n  The weight is {text(weight.shape)}, the input {text(size)}."
            " Pass weight.expand_as(input) to use one weight several times."
        )
    if reduction not in CODES:
        raise ValueError(f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'.")
    if weight.device != x.device:
        raise other_device(weight, "weight", x)


def _weighted_mean(function: Any, x: Tensor, t: Tensor, w: Tensor, code: int, options: tuple) -> Tensor:
    """sum(w L) / sum(w), in the compute type; both as means, which do not overflow."""
    x, t, w = widened(x, t, w)  # so that the weight's gradient, the sum of two, is rounded once
    terms = code
    if w.shape != x.shape and x.numel() == 0:  # no terms, but weights: 0 over their sum
        terms = SUM
    loss = run(function, x, t, w if w.shape == x.shape else w.expand(x.shape), terms, *options)
    mean = w.mean() if code == MEAN else quotient(w.sum(), max(w.numel(), 1))
    if code == MEAN_OR_ZERO:
        mean = torch.where(mean == 0, 1, mean)
    loss = quotient(loss, mean)
    return loss if w.shape == x.shape else product(loss, x.numel() / max(w.numel(), 1))


def _promoted(kernel: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    if kernel == "l1":  # torch has no kernel of this name, so it fails elsewhere, or not at all
        if any(t.is_complex() for t in tensors):
            raise TypeError(
                "l1_loss: expected real tensors, not complex ones\n  torch.nn.functional.l1_loss takes complex "
                "numbers, this one does not: write (input - target).abs().mean()."
            )
        if not any(t.is_floating_point() for t in tensors):
            dtype = fold(torch.promote_types, (t.dtype for t in tensors))
            raise RuntimeError(
                "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
                f"Got: {scalar_type(dtype)}\n  l1_loss: the input and the target are integers: pass input.float()."
            )
    return common_dtype(kernel, *tensors)


def broadcast(input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    if not torch.compiler.is_compiling():
        warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            f"Please ensure they have the same size.{pairs_hint(input, target)}",
            stacklevel=4,
        )
    try:
        return torch.broadcast_tensors(input, target)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n  The input is {text(input.shape)}, the target {text(target.shape)}.") from None


def pairs_hint(input: Tensor, target: Tensor) -> str:
    """The fix for [N, 1] against [N], which compares every input with every target."""
    if input.dim() == target.dim() + 1 and input.shape[:-1] == target.shape and input.shape[-1] == 1:
        return " Here every input meets every target: pass input.squeeze(-1)."
    if target.dim() == input.dim() + 1 and target.shape[:-1] == input.shape and target.shape[-1] == 1:
        return " Here every input meets every target: pass target.squeeze(-1)."
    return ""


def summed_along(size: torch.Size, *tensors: Tensor | None) -> bool:
    """Whether one of these tensors has 16 bits, a gradient, and another size, along which its gradient is a sum."""
    return torch.is_grad_enabled() and any(
        a is not None and a.dtype.itemsize == 2 and a.requires_grad and a.shape != size for a in tensors
    )


def beside(input: Tensor, target: Tensor, *factors: Any) -> tuple[Tensor, Tensor]:
    """The input and the target in the dtype in which the op shall see them beside these factors.

    That is float32 for 16 bits where a factor would be rounded to them, or the sums that are its gradient.
    """
    factors = [f for f in factors if isinstance(f, Tensor)]
    rounded = any(f.dtype is not input.dtype and f.dtype is not torch.bool and not f.is_complex() for f in factors)
    if input.dtype.itemsize == 2 and (rounded or summed_along(input.shape, *factors)):
        return input.float(), target.float()
    return input, target


def expanded(factor: Tensor, name: str, input: Tensor) -> Tensor:
    """A weight in the input's dtype and shape."""
    if factor.device != input.device:
        raise other_device(factor, name, input)
    if factor.is_complex():
        to = scalar_type(input.dtype)
        raise RuntimeError(
            f"result type {scalar_type(factor.dtype)} can't be cast to the desired output type {to}\n"
            f"  {name} must be real."
        )
    if factor.dtype is not input.dtype:
        factor = factor.to(input.dtype)
    if factor.dim() == input.dim() and factor.shape == input.shape:
        return factor
    try:
        size = torch.broadcast_tensors(factor, input)[0].shape
    except RuntimeError as error:
        raise RuntimeError(f"{error}{_misfit(factor, name, input)}") from None
    if size != input.shape:
        raise RuntimeError(
            f"output with shape {text(input.shape)} doesn't match the broadcast shape {text(size)}"
            f"{_misfit(factor, name, input)}"
        )
    return factor.expand(input.shape)


def _misfit(factor: Tensor, name: str, input: Tensor) -> str:
    return f"\n  {name} is {text(factor.shape)}: it must expand to the size of the input, {text(input.shape)}."
