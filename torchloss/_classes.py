"""The losses of a class: nll_loss and cross_entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchloss import _targets
from torchloss._check import (
    FLOATING,
    INT64,
    WIDE,
    Reduction,
    common_dtype,
    integer,
    legacy_reduction,
    not_of_type,
    number,
    other_device,
    scalar_type,
    under_autocast,
    unsupported_dtype,
)
from torchloss._nested import handle_torch_function
from torchloss._reduction import Empty, reduction_of
from torchloss._rows import logit_options, row_loss
from torchloss.autograd import CrossEntropyFunction, CrossEntropyProbsFunction, NLLLossFunction, RowConfig, in_forward
from torchloss.autograd.chain import is_compiling, plain_way, widened

_PLAIN = 1, -100, 1, 0.0, 0.0, 0.0, 1.0  # dim, ignore_index, the mean, and the options


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    *,
    row_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Negative log likelihood of a class, given log probabilities.

    .. math:: L(x, y) = -w_y x_y

    in nats. A drop-in for :func:`torch.nn.functional.nll_loss`. The input is meant to be :func:`log_softmax` of logits;
    :func:`cross_entropy` does both, and is more accurate where the right class leads by far.

    Args:
        input: Log probabilities (C), (N, C) or (N, C, d1, ..., dk); float32, float64, bfloat16 or float16.
        target: Class indices in [0, C), of the input's shape without C; int64 or uint8, or, unlike in torch, int32.
        weight, size_average, ignore_index, reduce, reduction, row_weight, normalizer, empty, out_dtype: As in
            :func:`cross_entropy`.

    Gradients flow to the input, to row_weight and to the normalizer. Under autocast it runs in float32. It raises
    what :func:`cross_entropy` raises.

    Example::

        >>> nll_loss(torch.tensor([[0.2, 0.3, 0.5]]).log(), torch.tensor([2]))
        tensor(0.6931)

    Source: R. A. Fisher, On the mathematical foundations of theoretical statistics, 1922.
    """
    if has_torch_function_variadic(input, target, weight, row_weight, normalizer):
        return handle_torch_function(
            nll_loss,
            (input, target, weight, row_weight, normalizer),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            row_weight=row_weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        reduction_of("nll_loss", reduction)
        raise _not_a_tensor("nll_loss_nd", input, target)
    code, normalizer = reduction_of("nll_loss", reduction, empty, normalizer, input)
    if type(ignore_index) is not int or ignore_index not in INT64:
        ignore_index = integer("nll_loss_nd", "ignore_index", 5, ignore_index)
    return _of_index(
        NLLLossFunction, "nll_loss", input, target, weight, code, ignore_index, (), row_weight, normalizer, out_dtype
    )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    row_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    empty: Empty = "nan",
    out_dtype: torch.dtype | None = None,
    inplace_backward: bool = False,
) -> Tensor:
    r"""Cross entropy of the softmax of logits against a class, or against probabilities of classes.

    .. math::
        L(x, y) = -w_y \log p_y, \qquad L(x, q) = -\sum_j w_j q_j \log p_j, \qquad
        p_j = \frac{e^{x_j}}{\sum_i e^{x_i}}, \qquad \frac{\partial L}{\partial x_j} = w_y (p_j - [j = y])

    in nats. Label smoothing :math:`\epsilon` puts :math:`q_j = (1 - \epsilon) [j = y] + \epsilon / C` for a class, and
    :math:`(1 - \epsilon) q_j + \epsilon / C` for probabilities. A drop-in for
    :func:`torch.nn.functional.cross_entropy`; unlike torch's, loss and gradient are right to rounding however far the
    right class leads.

    Args:
        input: Logits (C), (N, C) or (N, C, d1, ..., dk); float32, float64, bfloat16 or float16.
        target: Class indices in [0, C), of the input's shape without C; int64 or uint8, or, unlike in torch, int32. Or
            probabilities: floating point, of the input's shape, used as they are, even if they do not sum to 1.
        weight: One factor for each class, of the input's dtype.
        size_average, reduce: Deprecated; see torch.
        ignore_index: Rows with this target count for nothing. Class indices only.
        reduction: ``"none"`` (the input's shape without C), ``"mean"``: the sum over the rows divided by the sum of
            :math:`w_y` over the rows that are not ignored, or by the number of rows for probabilities (NaN if that is
            0), ``"sum"``.
        label_smoothing: :math:`\epsilon` in [0, 1].
        z_loss: The weight z of :math:`z \, \mathrm{lse}^2`, with lse :math:`= \log \sum_j e^{x_j}`, which is added for
            each row that counts: times row_weight, but not times the class's weight. Liger's ``lse_square_scale``; but
            a mean with class weights divides it as the rest, and Liger divides it by the number of rows.
        softcap: The largest magnitude of a logit: :math:`x' = c \tanh(x / c)` takes the place of x. None or 0: none.
        logit_scale: A factor of the logits, after the softcap: the reciprocal of a temperature. Above 0.
        row_weight: A factor for each row, of the target's size (or of the input's without C); a mean divides by the sum
            of row_weight times :math:`w_y` over the rows that count.
        normalizer: What the sum is divided by instead, for ``"mean"`` as for ``"sum"``: a number, or a tensor of one
            number, which is not looked at. With the count of all targets of a step (:func:`count_targets`), accumulated
            gradients and those of several processes add up to the mean's. A tensor that is 0 gives infinity or NaN.
        empty: What the mean of nothing is: ``"nan"`` or ``"zero"``.
        out_dtype: The dtype of the loss; ``torch.float32`` for 16-bit inputs gives it as it was computed, not rounded.
        inplace_backward: Write the gradient over the logits, and so spare the memory of one more tensor of their size:
            for logits of a layer that nothing else needs. What autograd has saved of them elsewhere, a second backward
            through this loss included, raises a RuntimeError from then on; the logits themselves hold the gradient.
            Not in torch. Under torch.compile and torch.func it changes nothing.

    Gradients flow to the input, to probabilities, and there also to the weight; to row_weight and to the normalizer.
    Unlike in torch, an in-place edit of the logits before the backward pass, which reads them again, is a RuntimeError.
    Under autocast it runs in float32. In eager mode the gradient is taken in the forward pass: see
    :func:`torchloss.set_early_gradient`.

    Raises:
        IndexError: on the CPU, a class index out of range (on CUDA the row is NaN; see
            :class:`~torchloss.check_targets`).
        ValueError: batch sizes that differ; an unknown reduction; z_loss, softcap, logit_scale or normalizer out of
            range; a normalizer with ``"none"``; a row_weight of another size.
        RuntimeError: other sizes that do not fit; a target of the wrong dtype; a weight of the wrong size or dtype, or
            that requires a gradient, with class indices; ``ignore_index`` >= 0 with probabilities; label_smoothing
            outside [0, 1]; tensors on different devices; ``inplace_backward`` of logits that are a leaf of the graph,
            with ``create_graph=True``, or with probabilities that require a gradient.
        TypeError: arguments of the wrong type.
        NotImplementedError: integer or complex input.

    Example::

        >>> cross_entropy(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor(0.2395)

    Source: I. J. Good, Rational decisions, 1952; label smoothing: C. Szegedy et al., 2015, arXiv:1512.00567.
    """
    if (
        not is_compiling()
        and weight is row_weight is normalizer is softcap is out_dtype is size_average is reduce is None
        and type(label_smoothing) is type(z_loss) is type(logit_scale) is float
        and (ignore_index, reduction, label_smoothing, z_loss, logit_scale, empty)
        == (-100, "mean", 0.0, 0.0, 1.0, "nan")
        and not inplace_backward
        and (way := plain_way(input, target))
        and target.dtype is torch.int64
        and not _targets.checking
    ):
        # The plain case, for small calls: the op knows what is wrong, and what follows can say it.
        dtype = None if input.dtype in WIDE else input.dtype
        try:
            if way == "silent":
                loss = CrossEntropyFunction.below(input, target, None, *_PLAIN)[0]
                return loss if dtype is None else loss.to(dtype)
            if in_forward.always_taken():
                return CrossEntropyFunction.in_forward.apply(input, target, None, None, None, (_PLAIN, dtype))
        except (RuntimeError, IndexError):
            pass
    if has_torch_function_variadic(input, target, weight, row_weight, normalizer):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight, row_weight, normalizer),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            logit_scale=logit_scale,
            row_weight=row_weight,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
            inplace_backward=inplace_backward,
        )
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        reduction_of("cross_entropy", reduction)
        raise _not_a_tensor("cross_entropy_loss", input, target)
    code, normalizer = reduction_of("cross_entropy", reduction, empty, normalizer, input)
    if type(ignore_index) is not int or ignore_index not in INT64:
        ignore_index = integer("cross_entropy_loss", "ignore_index", 5, ignore_index)
    if type(label_smoothing) is not float:
        label_smoothing = number("cross_entropy_loss", "label_smoothing", 6, label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    options = (label_smoothing, *logit_options("cross_entropy", z_loss, softcap, logit_scale))
    more = (row_weight, normalizer, out_dtype, inplace_backward)
    if input.shape == target.shape:
        return _of_probabilities(input, target, weight, code, ignore_index, options, *more)
    return _of_index(
        CrossEntropyFunction, "cross_entropy_loss", input, target, weight, code, ignore_index, options, *more
    )


def _of_index(
    function: Any,
    name: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    code: int,
    ignore_index: int,
    options: tuple[float, ...],
    row_weight: Tensor | None,
    normalizer: Any,
    out_dtype: torch.dtype | None,
    in_place: bool = False,
) -> Tensor:
    dims = input.dim()
    if dims == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)\n  The input needs a dimension for the classes.")
    dim = 0 if dims == 1 else 1
    target = _targets.class_indices(input, target, dim)
    if input.dtype not in WIDE:
        if input.dtype not in FLOATING:
            raise unsupported_dtype(_kernel(name, dims, dim), input.dtype, input.device)
        if under_autocast(input):
            input = input.float()
    if weight is not None:
        weight = _targets.class_weight(name, weight, input, dim)
    if _targets.wanted():
        _targets.refuse_bad_classes(input, target, dim, ignore_index)
    config = RowConfig(dim, ignore_index, code, options)
    public = name.removesuffix("_loss") if name != "nll_loss" else name
    try:
        return row_loss(public, function, input, target, weight, config, row_weight, normalizer, out_dtype, in_place)
    except (RuntimeError, IndexError) as error:
        _targets.explain_bad_class(error, input, target, dim, ignore_index)
        raise


def _of_probabilities(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    code: int,
    ignore_index: int,
    options: tuple[float, ...],
    row_weight: Tensor | None,
    normalizer: Any,
    out_dtype: torch.dtype | None,
    in_place: bool,
) -> Tensor:
    _check_probabilities(input, target, ignore_index)
    dims, own = input.dim(), None
    dim = 0 if dims == 1 else 1
    if weight is not None:
        _targets.check_class_weight("cross_entropy_loss", weight, input, dim, "cross_entropy: ")
        input, target, weight = common_dtype(_kernel("cross_entropy_loss", dims, dim), input, target, weight)
        if weight.requires_grad and torch.is_grad_enabled():  # it has no gradient of its own, the target has
            own = input.dtype
            input, target, weight = widened(input, target, weight)  # the products are not rounded
            target = target * (1 - options[0]) + options[0] / max(input.shape[dim], 1)
            target = target * weight.reshape(*weight.shape, *[1] * (dims - 1 - dim))
            weight, options = None, (0.0, *options[1:])
    elif input.dtype is not target.dtype or input.dtype not in WIDE:
        input, target = common_dtype(_kernel("cross_entropy_loss", dims, dim), input, target)
    function, config = CrossEntropyProbsFunction, RowConfig(dim, None, code, options)
    more = (row_weight, normalizer, out_dtype, in_place)
    return row_loss("cross_entropy", function, input, target, weight, config, *more, own=own)


def _check_probabilities(input: Tensor, target: Tensor, ignore_index: int) -> None:
    if not target.dtype.is_floating_point:
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, got {scalar_type(target.dtype)}\n"
            "  A target of the input's shape is taken for probabilities: pass target.to(input.dtype). From a one-hot "
            "target, target.argmax(1) makes class indices."
        )
    if ignore_index >= 0:
        raise RuntimeError(
            f"ignore_index is not supported for floating point target\n  ignore_index = {ignore_index} names a class. "
            "To leave out a row, make its probabilities 0."
        )
    dims = input.dim()
    if dims == 0:
        raise IndexError(
            "Dimension specified as 1 but tensor has no dimensions\n  The input needs a dimension for the classes."
        )
    if target.device != input.device:
        raise other_device(target, "target", input)
    if not input.dtype.is_floating_point:
        kernel = _kernel("cross_entropy_loss", dims, 0 if dims == 1 else 1)
        raise unsupported_dtype(kernel, input.dtype, input.device)


def _kernel(name: str, dims: int, dim: int) -> str:
    """The name in torch's complaint about the dtype of the input."""
    if name == "nll_loss":
        return "nll_loss_out_frame" if dims < 3 else "nll_loss2d_forward_out_frame"
    return "log_softmax_lastdim_kernel_impl" if dim == dims - 1 else "log_softmax_kernel_impl"


def _not_a_tensor(name: str, input: Any, target: Any) -> TypeError:
    if not isinstance(input, Tensor):
        return not_of_type(name, "input", 1, "Tensor", input)
    return not_of_type(name, "target", 2, "Tensor", target)
