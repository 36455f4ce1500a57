"""The Kullback-Leibler divergence, of log probabilities and of logits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchloss._check import (
    SUM,
    WIDE,
    Reduction,
    common_dtype,
    legacy_reduction,
    not_of_type,
    number,
    other_device,
    scalar_type,
    text,
    warn,
    wrapped_dim,
)
from torchloss._entropy import real_rows
from torchloss._nested import handle_torch_function
from torchloss._pointwise import finished, summed_along
from torchloss._reduction import Empty, quotient, reduction_of, result_dtype
from torchloss._rows import logit_options, row_loss
from torchloss.autograd import KLDivFunction, KLDivLogTargetFunction, KLDivWithLogitsFunction, RowConfig
from torchloss.autograd.chain import widened


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Literal["none", "mean", "sum", "batchmean"] = "mean",
    log_target: bool = False,
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""The terms of the Kullback-Leibler divergence of log probabilities from a target distribution.

    .. math:: L(x, t) = t (\log t - x), \qquad \text{or } e^t (t - x) \text{ with log_target}, \qquad 0 \log 0 = 0

    in nats, where x are log probabilities. Summed over the classes this is KL(target || input). A drop-in for
    :func:`torch.nn.functional.kl_div`. :func:`kl_div_with_logits` takes logits, needs no logarithms, and is never
    negative.

    Args:
        input: Log probabilities of any shape; float32, float64, bfloat16 or float16.
        target: Probabilities, or their logarithms with ``log_target``. Another size is broadcast with a
            :class:`UserWarning` (in torch without), another dtype is promoted.
        size_average, reduce: Deprecated; see torch.
        reduction: ``"none"`` (the shape of the input), ``"mean"`` over all elements (which is not the divergence, hence
            a warning), ``"batchmean"``: the sum divided by ``input.size(0)``, which is, ``"sum"``.
        log_target: The target holds logarithms.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target and the normalizer. Under autocast it runs in float32.

    Raises:
        RuntimeError: integer or complex tensors; sizes that do not broadcast; tensors on different devices.
        ValueError: an unknown reduction; a normalizer out of range, or with ``"none"``; an out_dtype that is not
            supported.
        TypeError: arguments of the wrong type.

    Example::

        >>> kl_div(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]), reduction="batchmean")
        tensor(0.6931)

    Source: S. Kullback and R. A. Leibler, On information and sufficiency, 1951.
    """
    if has_torch_function_variadic(input, target, normalizer):
        return handle_torch_function(
            kl_div,
            (input, target, normalizer),
            input,
            target,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            log_target=log_target,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    by_batch = reduction == "batchmean"
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    elif by_batch:
        reduction = "sum"
    elif reduction == "mean":
        warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=2,
        )
    code, normalizer = reduction_of("kl_div", reduction, empty, normalizer, input)
    x, t, own = _terms(input, target, log_target)
    n = None
    if by_batch and normalizer is None and input.dim() != 0:
        n = max(input.shape[0], 1) if empty == "zero" else input.shape[0]
        if code == SUM:
            normalizer, n = n, None
    function = KLDivLogTargetFunction if log_target else KLDivFunction
    if n is None:
        return finished("kl_div", function, x, t, (None,), code, normalizer, out_dtype, own)
    # The loss of the reduction that size_average and reduce ask for is divided once more, as in torch.
    x, t = widened(x, t)
    loss = finished("kl_div", function, x, t, (None,), code, None, None, (x.dtype,))
    return quotient(loss, n).to(result_dtype("kl_div", out_dtype, *own))


def kl_div_with_logits(
    input_logits: Tensor,
    target_logits: Tensor,
    temperature: float = 1.0,
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
    r"""The Kullback-Leibler divergence between the softmaxes of two tensors of logits.

    .. math::
        K = \sum_j p_j \log \frac{p_j}{q_j}, \qquad q = \operatorname{softmax}(x / T), \quad
        p = \operatorname{softmax}(t / T), \qquad \frac{\partial K}{\partial x_j} = \frac{q_j - p_j}{T}

    in nats: KL(target || input), never negative, as every term of the sum is formed without cancellation. In
    distillation x are the student's logits, t the teacher's. Gradients shrink with :math:`1 / T^2`; Hinton's factor
    :math:`T^2`, which undoes that, is left to the caller: ``temperature**2 * kl_div_with_logits(...)``.

    Args:
        input_logits: Logits x of any shape; float32, float64, bfloat16 or float16.
        target_logits: Logits t of the same shape. Another dtype is promoted.
        temperature: T, above 0.
        dim: The dimension of the classes.
        reduction: ``"none"`` (the shape of the logits without ``dim``), ``"mean"`` over the rows, which for (N, C) is
            the ``"batchmean"`` of :func:`kl_div`, ``"sum"``.
        z_loss: As in :func:`cross_entropy`, of the input's logits.
        softcap, logit_scale: As in :func:`cross_entropy`, of both.
        row_weight, normalizer, empty, out_dtype, inplace_backward: As in :func:`cross_entropy`.

    Gradients flow to both; pass ``teacher.detach()`` to keep the teacher as it is. Under autocast it runs in float32.

    Raises:
        ValueError: sizes that differ; temperature; an unknown reduction.  IndexError: dim is out of range.
        TypeError: integer or complex logits, or arguments of the wrong type.
        RuntimeError: tensors on different devices.

    Example::

        >>> kl_div_with_logits(torch.tensor([[0.0, 0.0]]), torch.tensor([[100.0, 0.0]]))
        tensor(0.6931)

    Source: S. Kullback and R. A. Leibler, 1951; distillation: G. Hinton et al., 2015, arXiv:1503.02531.
    """
    if has_torch_function_variadic(input_logits, target_logits, row_weight, normalizer):
        return handle_torch_function(
            kl_div_with_logits,
            (input_logits, target_logits, row_weight, normalizer),
            input_logits,
            target_logits,
            temperature,
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
    name = "kl_div_with_logits"
    if type(temperature) is not float:
        temperature = number(name, "temperature", 3, temperature)
    if not 0 < temperature < math.inf:
        raise ValueError(f"{name}: temperature must be above 0 and finite, but got {temperature}")
    x, t = input_logits, target_logits
    x = real_rows(name, x, "input_logits", 1)
    t = real_rows(name, t, "target_logits", 2)
    if x.shape != t.shape:
        raise ValueError(
            f"{name}: target_logits {text(t.shape)} must have the size of input_logits {text(x.shape)}\n"
            "  They are not broadcast: pass target_logits.expand_as(input_logits)."
        )
    if t.device != x.device:
        raise other_device(t, "target_logits", x)
    if x.dtype is not t.dtype:
        x, t = common_dtype(name, x, t)
    dim = wrapped_dim(name, dim, x.dim())
    if x.dim() == 0:
        x, t = x.reshape(1), t.reshape(1)
    code, normalizer = reduction_of(name, reduction, empty, normalizer, x)
    options = (temperature, *logit_options(name, z_loss, softcap, logit_scale))
    more = (row_weight, normalizer, out_dtype, inplace_backward)
    return row_loss(name, KLDivWithLogitsFunction, x, t, None, RowConfig(dim, None, code, options), *more)


def _terms(input: Tensor, target: Tensor, log_target: bool) -> tuple[Tensor, Tensor, tuple[torch.dtype, ...]]:
    """The arguments of kl_div, in one shape and dtype, and the dtypes of the input: see result_dtype."""
    given = input
    if not isinstance(input, Tensor):
        raise not_of_type("kl_div", "input", 1, "Tensor", input)
    if not isinstance(target, Tensor):
        raise not_of_type("kl_div", "target", 2, "Tensor", target)
    if not isinstance(log_target, bool):
        raise TypeError(f"kl_div(): argument 'log_target' must be bool, not {type(log_target).__name__}")
    if not (input.dtype.is_floating_point and target.dtype.is_floating_point):
        kind = "Complex" if input.is_complex() or target.is_complex() else "Integral"
        raise RuntimeError(
            f"kl_div: {kind} inputs not supported.\n  The input is {scalar_type(input.dtype)} (log probabilities), the "
            f"target {scalar_type(target.dtype)} (probabilities): both must be floating point."
        )
    if target.device != input.device:
        raise other_device(target, "target", input)
    if input.dtype is not target.dtype or input.dtype not in WIDE:
        input, target = common_dtype("xlogy_{}", input, target)
    own = (input.dtype, given.dtype)
    if input.shape != target.shape:
        input, target = _broadcast(input, target)
    return input, target, own


def _broadcast(input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    try:
        size = torch.broadcast_tensors(input, target)[0].shape
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n  {_sizes(input, target)}") from None
    if not torch.compiler.is_compiling():
        fix = "Expand them to say that it is meant."
        warn(f"kl_div broadcasts tensors of different sizes. {_sizes(input, target)} {fix}", stacklevel=4)
    if summed_along(size, input, target):
        input, target = widened(input, target)
    return input.expand(size), target.expand(size)


def _sizes(input: Tensor, target: Tensor) -> str:
    return f"The input is {text(input.shape)}, the target {text(target.shape)}."
