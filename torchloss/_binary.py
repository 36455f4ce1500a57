"""Binary cross entropy, of probabilities and of logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchloss import _targets
from torchloss._check import (
    CODES,
    FLOATING,
    WIDE,
    Reduction,
    common_dtype,
    legacy_reduction,
    not_a_tensor,
    not_differentiable,
    not_of_type,
    other_device,
    scalar_type,
    under_autocast,
    unsupported_dtype,
    widened,
)
from torchloss._nested import handle_torch_function
from torchloss._pointwise import beside, expanded, finished, pairs_hint, simple
from torchloss._reduction import Empty, reduction_of
from torchloss.autograd import BinaryCrossEntropyFunction, BinaryCrossEntropyWithLogitsFunction, plain_loss


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Cross entropy of a probability against a label.

    .. math:: L(x, t) = -w \, [t \log x + (1 - t) \log (1 - x)]

    in nats, with no logarithm below -100, as in torch. A drop-in for :func:`torch.nn.functional.binary_cross_entropy`.
    :func:`binary_cross_entropy_with_logits` takes the logits instead, and is exact at any margin.

    Args:
        input: Probabilities in [0, 1], of any shape; float32, float64, bfloat16 or float16.
        target: Labels in [0, 1], of the input's shape and dtype.
        weight: A factor that is expanded to the input's shape, of any real dtype.
        size_average, reduce: Deprecated; see torch.
        reduction: ``"none"`` (the shape of the input), ``"mean"`` (over all elements, whatever their weights; NaN if
            there are none), ``"sum"``.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target, the normalizer and, unlike in torch, the weight. Under autocast it runs in
    float32 on the CPU, and is refused on CUDA, as in torch: use :func:`binary_cross_entropy_with_logits`.

    Raises:
        RuntimeError: on the CPU, an input outside [0, 1] (on CUDA the element is NaN; see
            :class:`~torchloss.check_targets`); input and target of different dtypes or devices; a weight that does not
            expand.
        ValueError: an unknown reduction; a target of another size than the input; a normalizer out of range, or with
            ``"none"``; an out_dtype that is not supported.
        NotImplementedError: integer or complex tensors.

    Example::

        >>> binary_cross_entropy(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.0]), reduction="none")
        tensor([0.6931, 0.2877])

    Source: I. J. Good, Rational decisions, 1952.
    """
    if has_torch_function_variadic(input, target, weight, normalizer):
        return handle_torch_function(
            binary_cross_entropy,
            (input, target, weight, normalizer),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if not (isinstance(target, Tensor) and isinstance(input, Tensor)):
        reduction_of("binary_cross_entropy", reduction)
        raise not_a_tensor("binary_cross_entropy", target=target, input=input)
    code, normalizer = reduction_of("binary_cross_entropy", reduction, empty, normalizer, input)
    if target.shape != input.shape:
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}) is deprecated."
            f" Please ensure they have the same size.{pairs_hint(input, target)}"
        )
    if target.device != input.device:
        raise other_device(target, "target", input)
    if input.is_cuda and under_autocast(input):
        raise _unsafe_to_autocast()
    given = input.dtype
    if given is not target.dtype or given not in WIDE:
        input, target = _same_dtype(input, target)
    own = (input.dtype, given)
    if weight is not None:
        if not isinstance(weight, Tensor):
            raise not_a_tensor("binary_cross_entropy", weight=weight)
        input, target = beside(input, target, weight)
        weight = expanded(weight, "weight", input)
    if _targets.wanted():
        _targets.refuse_outside(input, "input")
        _targets.refuse_outside(target, "target")
    try:
        return finished(
            "binary_cross_entropy",
            BinaryCrossEntropyFunction,
            input,
            target,
            (weight,),
            code,
            normalizer,
            out_dtype,
            own,
        )
    except RuntimeError as error:
        _targets.explain_outside(error, input, target)
        raise


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    *,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Cross entropy of a logit against a label.

    .. math::
        L(x, t) = w \, [(1 - t) \operatorname{softplus}(x) + p \, t \operatorname{softplus}(-x)], \qquad
        \frac{\partial L}{\partial x} = w \, [(1 - t) \, \sigma(x) - p \, t \, \sigma(-x)]

    in nats, where :math:`\sigma(x) = 1 / (1 + e^{-x})`. Both terms are positive, so that nothing cancels, however sure
    the logit. A drop-in for :func:`torch.nn.functional.binary_cross_entropy_with_logits`.

    Args:
        input: Logits of any shape; float32, float64, bfloat16 or float16.
        target: Labels in [0, 1] of the input's shape. Another floating dtype is promoted.
        weight: The factor w, expanded to the input's shape, of any real dtype.
        size_average, reduce: Deprecated; see torch.
        reduction: ``"none"`` (the shape of the input), ``"mean"`` (over all elements, whatever their weights; NaN if
            there are none), ``"sum"``.
        pos_weight: The factor p of the positive labels, expanded to the input's shape; often [number of negatives /
            number of positives] for each class.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number above 0, or a tensor
            of one number, which is not looked at: one that is 0 gives infinity or NaN, one below 0 turns the sign.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.

    Gradients flow to the input, the target, the normalizer and, unlike in torch, the weight. Under autocast it runs in
    float32.

    Raises:
        RuntimeError: an integer or bool target; tensors on different devices; weights that do not expand; a pos_weight
            that requires a gradient.
        ValueError: an unknown reduction; a target of another size than the input; a normalizer out of range, or with
            ``"none"``; an out_dtype that is not supported.
        TypeError: a weight that is no tensor; a complex target.
        NotImplementedError: integer or complex input.

    Example::

        >>> binary_cross_entropy_with_logits(torch.tensor([0.0, -200.0]), torch.tensor([1.0, 1.0]), reduction="none")
        tensor([  0.6931, 200.0000])

    Source: D. R. Cox, The regression analysis of binary sequences, 1958.
    """
    if has_torch_function_variadic(input, target, weight, pos_weight, normalizer):
        return handle_torch_function(
            binary_cross_entropy_with_logits,
            (input, target, weight, pos_weight, normalizer),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            pos_weight=pos_weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if weight is pos_weight is normalizer is out_dtype is None and empty == "nan" and simple(reduction, input, target):
        return plain_loss(BinaryCrossEntropyWithLogitsFunction, input, target, None, None, CODES[reduction])
    name = "binary_cross_entropy_with_logits"
    if not (isinstance(target, Tensor) and isinstance(input, Tensor)):
        reduction_of(name, reduction)
        raise not_a_tensor(name, target=target, input=input)
    code, normalizer = reduction_of(name, reduction, empty, normalizer, input)
    if target.shape != input.shape:
        raise ValueError(
            f"Target size ({target.size()}) must be the same as input size ({input.size()}){pairs_hint(input, target)}"
        )
    if target.device != input.device:
        raise other_device(target, "target", input)
    given = input.dtype
    if given is not target.dtype or given not in WIDE:
        input, target = _float_labels(input, target)
    own = (input.dtype, given)
    if weight is not None or pos_weight is not None:
        input, target = beside(input, target, weight, pos_weight)
    if weight is not None:
        weight = _factor(weight, "weight", 3, input)
    if pos_weight is not None:
        pos_weight = _factor(pos_weight, "pos_weight", 4, input)
        if pos_weight.requires_grad and torch.is_grad_enabled():
            raise not_differentiable(name, "pos_weight")
    weights = (weight, pos_weight)
    return finished(
        name, BinaryCrossEntropyWithLogitsFunction, input, target, weights, code, normalizer, out_dtype, own
    )


def _same_dtype(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if under_autocast(input):
        input, target = widened(input), widened(target)
    if input.dtype is not target.dtype:
        got, want = scalar_type(target.dtype), scalar_type(input.dtype)
        raise RuntimeError(
            f"Found dtype {got} but expected {want}\n  The target must have the dtype of the input: pass "
            "target.to(input.dtype)."
        )
    if input.dtype not in FLOATING:
        raise unsupported_dtype("binary_cross_entropy", input.dtype, input.device)
    return input, target


def _float_labels(input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    if input.dtype.is_floating_point and not target.dtype.is_floating_point:
        fix = f"\n  Labels are floating point, as between 0 and 1 they may be: pass target.to({input.dtype})."
        if target.dtype.is_complex:
            raise TypeError(f"binary_cross_entropy_with_logits: expected real labels, not complex ones{fix}")
        if target.dtype is torch.bool:
            raise RuntimeError(
                "Subtraction, the `-` operator, with two bool tensors is not supported. "
                f"Use the `^` or `logical_xor()` operator instead.{fix}"
            )
        got, to = scalar_type(input.dtype), scalar_type(target.dtype)
        raise RuntimeError(f"result type {got} can't be cast to the desired output type {to}{fix}")
    if not input.dtype.is_floating_point:
        raise unsupported_dtype("log_sigmoid_{}", input.dtype, input.device)
    return common_dtype("log_sigmoid_{}", input, target)


def _factor(factor: Tensor, name: str, position: int, input: Tensor) -> Tensor:
    if not isinstance(factor, Tensor):
        raise not_of_type("binary_cross_entropy_with_logits", name, position, "Tensor", factor)
    return expanded(factor, name, input)


def _unsafe_to_autocast() -> RuntimeError:
    return RuntimeError(
        "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.\n"
        "  Rounded to 16 bits, a probability near 1 is 1. Leave out the sigmoid and use "
        "binary_cross_entropy_with_logits or BCEWithLogitsLoss, which are safe and exact."
    )
