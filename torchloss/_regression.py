"""The losses of a difference r = input - target: l1_loss, mse_loss, huber_loss, smooth_l1_loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchloss._check import CODES, Reduction, legacy_reduction, number
from torchloss._nested import handle_torch_function
from torchloss._pointwise import distance, simple
from torchloss._reduction import Empty
from torchloss.autograd import HuberLossFunction, L1LossFunction, MSELossFunction, SmoothL1LossFunction, plain_loss

_WIDEST_BETA = torch.finfo(torch.float32).max  # in float32 an infinite one would give 0 times infinity


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Absolute error.

    .. math:: L(x, t) = |x - t|, \qquad \frac{\partial L}{\partial x} = \operatorname{sign}(x - t)

    The slope at :math:`x = t` is 0. A drop-in for :func:`torch.nn.functional.l1_loss`; the loss has the unit of the
    input.

    Args:
        input: Predictions of any shape; float32, float64, bfloat16 or float16.
        target: As the input. Another size is broadcast with a :class:`UserWarning`, another dtype is promoted.
        size_average, reduce: Deprecated; see torch.
        reduction: ``"none"`` (the input's shape), ``"mean"`` (over all elements; NaN if there are none), ``"sum"``.
        weight: One factor for each element, of the input's size. The mean is then divided by the sum of the weights.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target, the weight and the normalizer. Under autocast it runs in float32.

    Raises:
        RuntimeError: sizes that do not broadcast, tensors on different devices, integer input and target.
        ValueError: an unknown reduction; a weight of another size than the input; a normalizer out of range, or with
            ``"none"``; an out_dtype that is not supported.
        TypeError: complex tensors. (torch takes those: here, write ``(input - target).abs().mean()``.)

    Example::

        >>> l1_loss(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
        tensor(1.)

    Source: P. S. Laplace, 1774 (least absolute deviations).
    """
    if has_torch_function_variadic(input, target, weight, normalizer):
        return handle_torch_function(
            l1_loss,
            (input, target, weight, normalizer),
            input,
            target,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            weight=weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if weight is normalizer is out_dtype is None and empty == "nan" and simple(reduction, input, target):
        return plain_loss(L1LossFunction, input, target, None, CODES[reduction])
    return distance(L1LossFunction, "l1", input, target, weight, reduction, normalizer, empty, out_dtype)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Squared error.

    .. math:: L(x, t) = (x - t)^2, \qquad \frac{\partial L}{\partial x} = 2 (x - t)

    A drop-in for :func:`torch.nn.functional.mse_loss`; the loss has the unit of the input, squared.

    Args:
        input: Predictions of any shape; float32, float64, bfloat16 or float16.
        target: As the input. Another size is broadcast with a :class:`UserWarning`, another dtype is promoted.
        size_average, reduce: Deprecated; see torch.
        reduction: ``"none"`` (the input's shape), ``"mean"`` (over all elements; NaN if there are none), ``"sum"``.
        weight: One factor for each element, of the input's size. The mean is then divided by the sum of the weights.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target, the weight and the normalizer. Under autocast it runs in float32.

    Raises:
        RuntimeError: sizes that do not broadcast, tensors on different devices.
        ValueError: an unknown reduction; a weight of another size than the input; a normalizer out of range, or with
            ``"none"``; an out_dtype that is not supported.
        NotImplementedError: integer or complex tensors.

    Example::

        >>> mse_loss(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 2.0]))
        tensor(2.)

    Source: A. M. Legendre, 1805; C. F. Gauss, 1809 (least squares).
    """
    if has_torch_function_variadic(input, target, weight, normalizer):
        return handle_torch_function(
            mse_loss,
            (input, target, weight, normalizer),
            input,
            target,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            weight=weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if weight is normalizer is out_dtype is None and empty == "nan" and simple(reduction, input, target):
        return plain_loss(MSELossFunction, input, target, None, CODES[reduction])
    return distance(MSELossFunction, "mse_{}", input, target, weight, reduction, normalizer, empty, out_dtype)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Huber's loss: squared error near the target, absolute error far from it.

    .. math::
        L(x, t) = \begin{cases} r^2 / 2 & |r| \le \delta \\ \delta (|r| - \delta / 2) & |r| > \delta \end{cases}
        \qquad \frac{\partial L}{\partial x} = \operatorname{clamp}(r, -\delta, \delta), \quad r = x - t

    A drop-in for :func:`torch.nn.functional.huber_loss`; the loss has the unit of the input, squared.

    Args:
        input: Predictions of any shape; float32, float64, bfloat16 or float16.
        target: As the input. Another size is broadcast with a :class:`UserWarning`, another dtype is promoted.
            (torch 2.13 keeps the input's dtype here, and then cannot go backward.)
        reduction: ``"none"`` (the input's shape), ``"mean"`` (over all elements; NaN if there are none), ``"sum"``.
        delta: The error at which the parabola ends, in the unit of the input; above 0.
        weight: One factor for each element, of the input's size. The mean is still over the number of elements.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target, the weight and the normalizer. Under autocast it runs in float32.

    Raises:
        RuntimeError: delta not above 0; sizes that do not broadcast; tensors on different devices.
        ValueError: an unknown reduction; a weight of another size than the input; a normalizer out of range, or with
            ``"none"``; an out_dtype that is not supported.
        TypeError: delta is not a number.
        NotImplementedError: integer or complex tensors.

    Example::

        >>> huber_loss(torch.tensor([1.0, 4.0]), torch.tensor([1.5, 0.0]), reduction="none")
        tensor([0.1250, 3.5000])

    Source: P. J. Huber, Robust estimation of a location parameter, 1964.
    """
    if has_torch_function_variadic(input, target, weight, normalizer):
        return handle_torch_function(
            huber_loss,
            (input, target, weight, normalizer),
            input,
            target,
            reduction=reduction,
            delta=delta,
            weight=weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if type(delta) is not float:
        delta = number("huber_loss", "delta", 4, delta)
    if not delta > 0:
        raise RuntimeError(
            f"huber_loss does not support non-positive values for delta.\n  delta = {delta}: it is the error at which "
            "the parabola becomes a line, in the unit of the input, such as 1.0."
        )
    if weight is normalizer is out_dtype is None and empty == "nan" and simple(reduction, input, target):
        return plain_loss(HuberLossFunction, input, target, None, CODES[reduction], delta)
    return distance(
        HuberLossFunction, "huber_{}", input, target, weight, reduction, normalizer, empty, out_dtype, delta
    )


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    beta: float = 1.0,
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Absolute error with a rounded corner: Huber's loss divided by its threshold.

    .. math::
        L(x, t) = \begin{cases} r^2 / (2 \beta) & |r| < \beta \\ |r| - \beta / 2 & |r| \ge \beta \end{cases}
        \qquad \frac{\partial L}{\partial x} = \operatorname{clamp}(r / \beta, -1, 1), \quad r = x - t

    A drop-in for :func:`torch.nn.functional.smooth_l1_loss`; the loss has the unit of the input.

    Args:
        input: Predictions of any shape; float32, float64, bfloat16 or float16.
        target: As the input. Another size is broadcast with a :class:`UserWarning`, another dtype is promoted.
        size_average, reduce: Deprecated; see torch.
        reduction: ``"none"`` (the input's shape), ``"mean"`` (over all elements; NaN if there are none), ``"sum"``.
        beta: Where the parabola ends, in the unit of the input; 0 gives :func:`l1_loss`.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target and the normalizer. Under autocast it runs in float32.

    Raises:
        RuntimeError: beta below 0; sizes that do not broadcast; tensors on different devices.
        ValueError: an unknown reduction; a normalizer out of range, or with ``"none"``; an out_dtype that is not
            supported.
        TypeError: beta is not a number.
        NotImplementedError: integer or complex tensors.

    Example::

        >>> smooth_l1_loss(torch.tensor([1.0, 4.0]), torch.tensor([1.5, 0.0]), reduction="none")
        tensor([0.1250, 3.5000])

    Source: R. Girshick, Fast R-CNN, 2015, arXiv:1504.08083.
    """
    if has_torch_function_variadic(input, target, normalizer):
        return handle_torch_function(
            smooth_l1_loss,
            (input, target, normalizer),
            input,
            target,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            beta=beta,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if type(beta) is not float:
        beta = number("smooth_l1_loss", "beta", 4, beta)
    if beta == 0:
        return distance(L1LossFunction, "l1", input, target, None, reduction, normalizer, empty, out_dtype)
    if not beta > 0:
        raise RuntimeError(
            f"smooth_l1_loss does not support negative values for beta.\n  beta = {beta}: it is the error at which the "
            "parabola becomes a line, in the unit of the input, such as 1.0; 0 gives l1_loss."
        )
    beta = min(beta, _WIDEST_BETA)
    if normalizer is out_dtype is None and empty == "nan" and simple(reduction, input, target):
        return plain_loss(SmoothL1LossFunction, input, target, None, CODES[reduction], beta)
    return distance(
        SmoothL1LossFunction, "smooth_l1_{}", input, target, None, reduction, normalizer, empty, out_dtype, beta
    )
