"""What every loss does with its terms: reduction, normalizer, empty and out_dtype.

A reduced loss leaves its op in the compute type: float32 for inputs of 16 bits. It is divided there, and rounded once.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from torchloss._check import CODES, MEAN, MEAN_OR_ZERO, NONE, other_device, reduction_code, text

Empty = Literal["nan", "zero"]


def reduction_of(
    function: str,
    reduction: str,
    empty: Empty = "nan",
    normalizer: float | Tensor | None = None,
    input: Tensor | None = None,
) -> tuple[int, float | Tensor | None]:
    """The number that the ops know a reduction by, and the normalizer, both checked."""
    code = CODES[reduction] if type(reduction) is str and reduction in CODES else reduction_code(reduction)
    if empty != "nan":
        if empty != "zero":
            raise ValueError(
                f"{empty!r} is not a valid value for empty\n  {function}: choose 'nan' or 'zero'; it is what the mean "
                "of nothing is."
            )
        if code == MEAN:
            code = MEAN_OR_ZERO
    if normalizer is not None:
        normalizer = _checked_normalizer(function, code, normalizer, input)
    return code, normalizer


def _checked_normalizer(function: str, code: int, normalizer: Any, input: Tensor | None) -> float | Tensor:
    if code == NONE:
        raise ValueError(
            f"{function}: a normalizer divides a sum, and with reduction='none' there is none\n"
            "  Pass reduction='sum' or 'mean', or divide the result: loss / normalizer."
        )
    if isinstance(normalizer, Tensor):
        if normalizer.dim() != 0:
            raise ValueError(
                f"{function}: normalizer must be one number: a tensor without dimensions, not of size "
                f"{text(normalizer.shape)}\n  Pass normalizer.sum(), or reshape a single number with .reshape(())."
            )
        if normalizer.dtype is torch.bool or normalizer.is_complex():
            raise TypeError(
                f"{function}(): argument 'normalizer' must be a real number, not a tensor of {normalizer.dtype}\n"
                f"  Pass {'normalizer.real' if normalizer.is_complex() else 'normalizer.float()'}."
            )
        if isinstance(input, Tensor) and normalizer.device != input.device and normalizer.device.type != "cpu":
            raise other_device(normalizer, "normalizer", input)
        return normalizer
    if isinstance(normalizer, (torch.SymInt, torch.SymFloat)):
        return normalizer
    if isinstance(normalizer, bool) or not isinstance(normalizer, numbers.Real):
        raise TypeError(
            f"{function}(): argument 'normalizer' must be float or Tensor, not {type(normalizer).__name__}\n"
            "  It is what the sum is divided by, such as the number of targets of a step."
        )
    if not 0 < normalizer <= sys.float_info.max:
        raise ValueError(
            f"{function}: normalizer must be above 0 and finite, but got {normalizer}\n"
            "  It is what the sum is divided by, such as the number of targets of a step. Where there may be none, "
            "pass max(count, 1)."
        )
    return float(normalizer)


def divided(total: Tensor, normalizer: float | Tensor | None) -> Tensor:
    """The sum of the terms over a normalizer, if there is one, in the sum's dtype."""
    if normalizer is None:
        return total
    return quotient(total, normalizer.to(total.dtype) if isinstance(normalizer, Tensor) else normalizer)


def quotient(a: Tensor, b: Tensor | float) -> Tensor:
    return _of_numbers(torch.div, a, b)


def product(a: Tensor, b: Tensor | float) -> Tensor:
    return _of_numbers(torch.mul, a, b)


def _of_numbers(op: Callable, a: Tensor, b: Any) -> Tensor:
    """A quotient or product, also under a vmap of no samples.

    There torch 2.13 fails where one factor is a number for each sample and the other is shared, unless both have a
    dimension.
    """
    if a.dim() or torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return op(a, b)
    if not isinstance(b, Tensor):
        return op(a.unsqueeze(0), b).squeeze(0)
    return op(a.unsqueeze(0), b.unsqueeze(0)).squeeze(0) if b.dim() == 0 else op(a.unsqueeze(0), b)


def result_dtype(function: str, out_dtype: torch.dtype | None, *own: torch.dtype) -> torch.dtype:
    """The dtype of a loss. `own` are those of its input: as it is computed with, and as it was given."""
    if out_dtype is None:
        return own[0]
    if not isinstance(out_dtype, torch.dtype):
        raise TypeError(
            f"{function}(): argument 'out_dtype' must be torch.dtype, not {type(out_dtype).__name__}\n"
            "  Pass torch.float32, or None for the dtype of the input."
        )
    wide = own[0].itemsize == 2 and out_dtype is torch.float32
    if not wide and (out_dtype not in own or not out_dtype.is_floating_point):
        choices = "None or torch.float32" if own[0].itemsize == 2 else "None"
        raise ValueError(
            f"{function}: out_dtype {out_dtype} is not supported for an input of {own[0]}\n  Pass {choices}; another "
            f"dtype is loss.to({out_dtype})."
        )
    return out_dtype
