"""Shannon's entropy, of probabilities and of logits."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from torchloss._check import FLOATING, WIDE, Reduction, not_of_type, number, reduction_code, under_autocast, wrapped_dim
from torchloss.autograd import EntropyFunction, SoftmaxEntropyFunction, loss_of


def entropy(probs: Tensor, *, base: float = math.e, dim: int = -1, reduction: Reduction = "mean") -> Tensor:
    r"""Shannon's entropy of probabilities.

    .. math:: H(p) = -\sum_j p_j \log_b p_j, \qquad 0 \log 0 = 0

    in nats for base e, in bits for base 2. The probabilities are used as they are, even if they do not sum to 1; a
    negative one gives NaN. :func:`softmax_entropy` takes logits.

    Args:
        probs: Probabilities of any shape; float32, float64, bfloat16 or float16.
        base: The base b of the logarithm, above 0 and not 1.
        dim: The dimension of the classes.
        reduction: ``"none"`` (the shape of the input without ``dim``), ``"mean"`` over the rows, ``"sum"``.

    The gradient at a probability of 0 is infinite. Under autocast it runs in float32.

    Raises:
        ValueError: base; an unknown reduction.  IndexError: dim is out of range.
        TypeError: integer or complex probabilities, or arguments of the wrong type.

    Example::

        >>> entropy(torch.tensor([0.25, 0.25, 0.5]), base=2)
        tensor(1.5000)

    Source: C. E. Shannon, A mathematical theory of communication, 1948.
    """
    if has_torch_function_unary(probs):
        return handle_torch_function(entropy, (probs,), probs, base=base, dim=dim, reduction=reduction)
    if type(base) is not float:
        base = number("entropy", "base", 2, base)
    if not 0 < base < math.inf or base == 1:
        raise ValueError(f"entropy: base must be above 0, finite and not 1, but got {base}\n  Use math.e or 2.")
    return _entropy(EntropyFunction, "entropy", probs, "probs", dim, reduction, base)


def softmax_entropy(logits: Tensor, *, dim: int = -1, reduction: Reduction = "mean") -> Tensor:
    r"""Shannon's entropy of the softmax of logits.

    .. math:: H = \log \sum_j e^{x_j} - \sum_j p_j x_j, \qquad p_j = \frac{e^{x_j}}{\sum_i e^{x_i}}, \qquad
              \frac{\partial H}{\partial x_j} = -p_j (\log p_j + H)

    in nats, between 0 and log C. One pass over the logits; no probabilities in memory.

    Args:
        logits: Of any shape; float32, float64, bfloat16 or float16.
        dim: The dimension of the classes.
        reduction: ``"none"`` (the shape of the logits without ``dim``), ``"mean"`` over the rows, ``"sum"``.

    A logit of -inf has probability 0 and gradient 0. Under autocast it runs in float32.

    Raises:
        ValueError: an unknown reduction.  IndexError: dim is out of range.
        TypeError: integer or complex logits, or arguments of the wrong type.

    Example::

        >>> softmax_entropy(torch.tensor([[0.0, 0.0], [50.0, 0.0]]), reduction="none")
        tensor([6.9315e-01, 9.8366e-21])

    Source: C. E. Shannon, A mathematical theory of communication, 1948.
    """
    if has_torch_function_unary(logits):
        return handle_torch_function(softmax_entropy, (logits,), logits, dim=dim, reduction=reduction)
    return _entropy(SoftmaxEntropyFunction, "softmax_entropy", logits, "logits", dim, reduction, 0.0)


def _entropy(
    function: Any, name: str, input: Tensor, argument: str, dim: int, reduction: str, parameter: float
) -> Tensor:
    code = reduction_code(reduction)
    input = real_rows(name, input, argument, 1)
    dim = wrapped_dim(name, dim, input.dim())
    if input.dim() == 0:
        input = input.reshape(1)
    return loss_of(function, input, None, None, dim, code, -100, parameter)


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
