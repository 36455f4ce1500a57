"""Shannon's entropy, of probabilities and of logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchloss._check import FLOATING, WIDE, Reduction, not_of_type, number, under_autocast, wrapped_dim
from torchloss._nested import handle_torch_function
from torchloss._reduction import Empty, reduction_of
from torchloss._rows import logit_options, row_loss
from torchloss.autograd import EntropyFunction, RowConfig, SoftmaxEntropyFunction


def entropy(
    probs: Tensor,
    *,
    base: float = math.e,
    dim: int = -1,
    reduction: Reduction = "mean",
    row_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Shannon's entropy of probabilities.

    .. math:: H(p) = -\sum_j p_j \log_b p_j, \qquad 0 \log 0 = 0

    in nats for base e, in bits for base 2. The probabilities are used as they are, even if they do not sum to 1; a
    negative one gives NaN. :func:`softmax_entropy` takes logits.

    Args:
        probs: Probabilities of any shape; float32, float64, bfloat16 or float16.
        base: The base b of the logarithm, above 0 and not 1.
        dim: The dimension of the classes.
        reduction: ``"none"`` (the shape of the input without ``dim``), ``"mean"`` over the rows, ``"sum"``.
        row_weight, normalizer, empty, out_dtype: As in :func:`cross_entropy`.

    The gradient at a probability of 0 is infinite. Under autocast it runs in float32.

    Raises:
        ValueError: base; an unknown reduction.  IndexError: dim is out of range.
        TypeError: integer or complex probabilities, or arguments of the wrong type.

    Example::

        >>> entropy(torch.tensor([0.25, 0.25, 0.5]), base=2)
        tensor(1.5000)

    Source: C. E. Shannon, A mathematical theory of communication, 1948.
    """
    if has_torch_function_variadic(probs, row_weight, normalizer):
        return handle_torch_function(
            entropy,
            (probs, row_weight, normalizer),
            probs,
            base=base,
            dim=dim,
            reduction=reduction,
            row_weight=row_weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if type(base) is not float:
        base = number("entropy", "base", 2, base)
    if not 0 < base < math.inf or base == 1:
        raise ValueError(f"entropy: base must be above 0, finite and not 1, but got {base}\n  Use math.e or 2.")
    probs, dim = _rows_of("entropy", probs, "probs", dim)
    code, normalizer = reduction_of("entropy", reduction, empty, normalizer, probs)
    config = RowConfig(dim, None, code, (base,))
    return row_loss("entropy", EntropyFunction, probs, None, None, config, row_weight, normalizer, out_dtype)


def softmax_entropy(
    logits: Tensor,
    *,
    dim: int = -1,
    reduction: Reduction = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    row_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
    inplace_backward: bool = False,
) -> Tensor:
    r"""Shannon's entropy of the softmax of logits.

    .. math:: H = \log \sum_j e^{x_j} - \sum_j p_j x_j, \qquad p_j = \frac{e^{x_j}}{\sum_i e^{x_i}}, \qquad
              \frac{\partial H}{\partial x_j} = -p_j (\log p_j + H)

    in nats, between 0 and log C. One pass over the logits; no probabilities in memory.

    Args:
        logits: Of any shape; float32, float64, bfloat16 or float16.
        dim: The dimension of the classes.
        reduction: ``"none"`` (the shape of the logits without ``dim``), ``"mean"`` over the rows, ``"sum"``.
        z_loss, softcap, logit_scale, row_weight, normalizer, empty, out_dtype, inplace_backward: As in
            :func:`cross_entropy`.

    A logit of -inf has probability 0 and gradient 0. Under autocast it runs in float32.

    Raises:
        ValueError: an unknown reduction.  IndexError: dim is out of range.
        TypeError: integer or complex logits, or arguments of the wrong type.

    Example::

        >>> softmax_entropy(torch.tensor([[0.0, 0.0], [50.0, 0.0]]), reduction="none")
        tensor([6.9315e-01, 9.8366e-21])

    Source: C. E. Shannon, A mathematical theory of communication, 1948.
    """
    if has_torch_function_variadic(logits, row_weight, normalizer):
        return handle_torch_function(
            softmax_entropy,
            (logits, row_weight, normalizer),
            logits,
            dim=dim,
            reduction=reduction,
            z_loss=z_loss,
            softcap=softcap,
            logit_scale=logit_scale,
            row_weight=row_weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
            inplace_backward=inplace_backward,
        )
    name = "softmax_entropy"
    logits, dim = _rows_of(name, logits, "logits", dim)
    code, normalizer = reduction_of(name, reduction, empty, normalizer, logits)
    config = RowConfig(dim, None, code, logit_options(name, z_loss, softcap, logit_scale))
    more = (row_weight, normalizer, out_dtype, inplace_backward)
    return row_loss(name, SoftmaxEntropyFunction, logits, None, None, config, *more)


def _rows_of(name: str, input: Any, argument: str, dim: int) -> tuple[Tensor, int]:
    input = real_rows(name, input, argument, 1)
    dim = wrapped_dim(name, dim, input.dim())
    return input.reshape(1) if input.dim() == 0 else input, dim


def real_rows(name: str, input: Tensor, argument: str, position: int) -> Tensor:
    """The argument of a loss that torch lacks, widened under autocast."""
    if not isinstance(input, Tensor):
        raise not_of_type(name, argument, position, "Tensor", input)
    if input.dtype in WIDE:
        return input
    if input.dtype not in FLOATING:
        raise TypeError(
            f"{name}: expected {argument} of dtype float32, float64, bfloat16 or float16, but got {input.dtype}\n"
            f"  Pass {argument}.float()."
        )
    return input.float() if under_autocast(input) else input
