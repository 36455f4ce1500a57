"""What policy gradients, distillation and metrics want to know of rows of logits, and how many targets count."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function_variadic

from torchloss import _targets
from torchloss._check import INT64, integer, not_of_type, other_device, text, wrapped_dim
from torchloss._entropy import real_rows
from torchloss._nested import handle_torch_function
from torchloss._rows import transform
from torchloss.autograd import LogitStatsFunction, run


class LogitStats(NamedTuple):
    """A number for each row of logits; log_prob and correct are None without a target."""

    log_prob: Tensor | None
    lse: Tensor
    entropy: Tensor
    correct: Tensor | None


def logit_stats(
    input: Tensor,
    target: Tensor | None = None,
    *,
    dim: int = -1,
    ignore_index: int = -100,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> LogitStats:
    r"""The log-probability of a class, the log-sum-exp, the entropy and the prediction of each row, in one pass.

    .. math::
        \mathrm{log\_prob} = x_y - \mathrm{lse}, \qquad \mathrm{lse} = \log \sum_j e^{x_j}, \qquad
        \mathrm{entropy} = -\sum_j p_j \log p_j, \qquad \mathrm{correct} = [x_y = \max_j x_j]

    in nats; exact however far one logit leads. The first three are differentiable, in any combination and twice.

    Args:
        input: Logits of any shape; float32, float64, bfloat16 or float16.
        target: Class indices in [0, C), of the input's shape without ``dim``; int64, uint8 or int32.
        dim: The dimension of the classes.
        ignore_index: A row with this target is 0 in all four, and has no gradient.
        softcap, logit_scale: As in :func:`cross_entropy`; everything is of the transformed logits.

    Returns:
        A named tuple (log_prob, lse, entropy, correct) of the input's shape without ``dim``; float32, or float64 for
        float64 logits, and bool. Without a target, log_prob and correct are None. Where several logits are
        the largest, each of their classes is correct.

    Raises:
        IndexError: dim, or on the CPU a class index, out of range (on CUDA the row is NaN).
        ValueError: sizes that do not fit; softcap or logit_scale out of range.
        RuntimeError: a target of the wrong dtype or on another device.
        TypeError: integer or complex logits, or arguments of the wrong type.

    Example::

        >>> logit_stats(torch.tensor([[0.0, 0.0], [50.0, 0.0]]), torch.tensor([0, 0])).log_prob
        tensor([-6.9315e-01, -1.9287e-22])

    Source: C. E. Shannon, 1948; policy gradients: R. J. Williams, 1992.
    """
    if has_torch_function_variadic(input, target):
        return handle_torch_function(
            logit_stats,
            (input, target),
            input,
            target,
            dim=dim,
            ignore_index=ignore_index,
            softcap=softcap,
            logit_scale=logit_scale,
        )
    name = "logit_stats"
    x = real_rows(name, input, "input", 1)
    dim = wrapped_dim(name, dim, x.dim())
    if x.dim() == 0:
        raise ValueError(f"{name}: expected 1 or more dimensions (got 0)\n  The input needs a dimension for classes.")
    if type(ignore_index) is not int or ignore_index not in INT64:
        ignore_index = integer(name, "ignore_index", 4, ignore_index)
    rows = [*x.shape[:dim], *x.shape[dim + 1 :]]
    if target is None:
        y, ignore_index = x.new_zeros(rows, dtype=torch.int64), -100 if x.shape[dim] else 0
    else:
        y = _indices(name, target, x, rows)
    config = (dim, ignore_index, *transform(name, softcap, logit_scale))
    if _targets.wanted() and target is not None:
        _targets.refuse_bad_classes(x, y, dim, ignore_index)
    try:
        values = run(LogitStatsFunction, x, y, None, *config)[0]
        log_prob, lse, entropy, correct = (values[i] for i in range(4))
    except (RuntimeError, IndexError) as error:
        _targets.explain_bad_class(error, x, y, dim, ignore_index)
        raise
    if target is None:
        return LogitStats(None, lse, entropy, None)
    return LogitStats(log_prob, lse, entropy, correct.detach() != 0)


def _indices(name: str, target: Any, x: Tensor, rows: list[int]) -> Tensor:
    if not isinstance(target, Tensor):
        raise not_of_type(name, "target", 2, "Tensor", target)
    if list(target.shape) != rows:
        raise ValueError(
            f"{name}: target must have one class for each row, {text(rows)}, but has size {text(target.shape)}\n"
            f"  The input is {text(x.shape)}; dim says where its classes are."
        )
    if target.device != x.device:
        raise other_device(target, "target", x)
    if target.dtype is not torch.int64:
        _targets.refuse_dtype(target)
        target = target.long()
    return target


def count_targets(
    target: Tensor,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    *,
    row_weight: Tensor | None = None,
    group: Any = None,
) -> Tensor:
    r"""What the mean over class indices divides by: a normalizer for steps of several batches or processes.

    .. math:: n = \sum_{i: y_i \ne \mathrm{ignore\_index}} r_i w_{y_i}

    Args:
        target: Class indices of any shape; those of all batches of a step may be concatenated, or the counts added.
        ignore_index: Rows with this target count for nothing.
        weight: The factor of each class, as in :func:`cross_entropy`.
        row_weight: The factor of each row, of the target's shape.
        group: A process group of torch.distributed, over which the count is summed: every process calls this. None: it
            is that of this process alone.

    Returns:
        A tensor of one number on the target's device: int64, or the weights' dtype (float32 at least).

    Raises:
        TypeError: arguments of the wrong type.  ValueError: sizes that do not fit.
        RuntimeError: a target that holds no class indices; weights on another device.

    Example::

        >>> count_targets(torch.tensor([0, 2, -100]))
        tensor(2)

    Source: why a step's mean needs the count of all its targets: https://huggingface.co/blog/gradient_accumulation
    """
    if has_torch_function_variadic(target, weight, row_weight):
        return handle_torch_function(
            count_targets,
            (target, weight, row_weight),
            target,
            ignore_index=ignore_index,
            weight=weight,
            row_weight=row_weight,
            group=group,
        )
    name = "count_targets"
    if not isinstance(target, Tensor):
        raise not_of_type(name, "target", 1, "Tensor", target)
    if target.dtype is not torch.int64:
        _targets.refuse_dtype(target)
        target = target.long()
    if type(ignore_index) is not int or ignore_index not in INT64:
        ignore_index = integer(name, "ignore_index", 2, ignore_index)
    counts = target != ignore_index
    total = counts
    if weight is not None:
        factor = _factor(name, "weight", weight, target)
        factor = factor if factor.shape[0] else factor.new_zeros(1)  # without classes every target is ignored
        total = total * factor[target.where(counts, 0)]
    if row_weight is not None:
        if isinstance(row_weight, Tensor) and row_weight.shape != target.shape:
            raise ValueError(
                f"{name}: row_weight must have the target's size {text(target.shape)}, not {text(row_weight.shape)}"
            )
        total = total * _factor(name, "row_weight", row_weight, target)
    total = total.sum()
    if group is not None:
        torch.distributed.all_reduce(total, group=group)
    return total


def _factor(name: str, argument: str, factor: Any, target: Tensor) -> Tensor:
    if not isinstance(factor, Tensor):
        raise not_of_type(name, argument, 3, "Tensor", factor)
    if factor.device != target.device:
        raise other_device(factor, argument, target)
    if argument == "weight" and factor.dim() != 1:
        raise ValueError(f"{name}: weight must have one number for each class, but has size {text(factor.shape)}")
    return factor.detach().to(torch.promote_types(factor.dtype, torch.float32))
