"""What the losses of rows share: their options, the weights of rows, and how the result is formed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchloss._check import WIDE, not_of_type, number, other_device, text
from torchloss._reduction import result_dtype
from torchloss.autograd import RowConfig, loss_of_rows
from torchloss.autograd.chain import in_eager_mode
from torchloss.autograd.in_place import loss_in_place, refuse_in_place

OFF = (0.0, 0.0, 1.0)


def logit_options(name: str, z_loss: Any, softcap: Any, logit_scale: Any) -> tuple[float, float, float]:
    """The three options of a loss of logits, as the ops take them: a softcap of 0 is none."""
    if softcap is None and type(z_loss) is type(logit_scale) is float and (z_loss, logit_scale) == (0.0, 1.0):
        return OFF
    z_loss = constant(name, "z_loss", z_loss)
    if not 0 <= z_loss < math.inf:
        raise ValueError(
            f"{name}: z_loss must be 0 or more and finite, but got {z_loss}\n"
            "  It is the weight of lse**2 beside the loss, such as 1e-4; 0 switches it off."
        )
    return z_loss, *transform(name, softcap, logit_scale)


def transform(name: str, softcap: Any, logit_scale: Any) -> tuple[float, float]:
    """What is done to logits before anything else: x' = logit_scale * softcap * tanh(x / softcap)."""
    softcap = 0.0 if softcap is None else constant(name, "softcap", softcap)
    if not 0 <= softcap < math.inf:
        raise ValueError(
            f"{name}: softcap must be 0 or more and finite, but got {softcap}\n"
            "  It is the largest magnitude of a logit, such as 30.0; None or 0 switches it off."
        )
    logit_scale = constant(name, "logit_scale", logit_scale)
    if not 0 < logit_scale < math.inf:
        raise ValueError(
            f"{name}: logit_scale must be above 0 and finite, but got {logit_scale}\n"
            "  The logits are multiplied by it: it is the reciprocal of a temperature."
        )
    return softcap, logit_scale


def constant(name: str, argument: str, value: Any) -> float:
    """A number, or a tensor with one number in it, that no gradient is asked of."""
    if type(value) is float:
        return value
    if isinstance(value, Tensor) and value.requires_grad:
        raise RuntimeError(
            f"{name}: {argument} has no gradient, but requires one\n  Pass {argument}.detach(), or multiply the logits "
            "by it yourself."
        )
    if isinstance(value, bool):
        raise TypeError(f"{name}(): argument '{argument}' must be float, not bool")
    return number(name, argument, 0, value)


def checked_row_weight(name: str, row_weight: Any, input: Tensor, dim: int) -> Tensor:
    """A factor for each row, in the compute type."""
    if not isinstance(row_weight, Tensor):
        raise not_of_type(name, "row_weight", 0, "Tensor", row_weight)
    rows = [*input.shape[:dim], *input.shape[dim + 1 :]]
    if list(row_weight.shape) != rows:
        raise ValueError(
            f"{name}: row_weight must have one number for each row, {text(rows)}, but has size "
            f"{text(row_weight.shape)}\n  The input is {text(input.shape)} with the classes in dimension {dim}. For a "
            "factor of each class there is weight."
        )
    if row_weight.is_complex():
        raise TypeError(f"{name}: row_weight must be real, not {row_weight.dtype}")
    if row_weight.device != input.device:
        raise other_device(row_weight, "row_weight", input)
    return row_weight.to(torch.promote_types(input.dtype, torch.float32))


def row_loss(
    name: str,
    function: Any,
    x: Tensor,
    t: Tensor | None,
    w: Tensor | None,
    config: RowConfig,
    row_weight: Tensor | None,
    normalizer: Any,
    out_dtype: torch.dtype | None,
    in_place: bool = False,
    own: torch.dtype | None = None,
) -> Tensor:
    """The loss in its dtype. The arguments are checked, but for row_weight and out_dtype.

    `own` is the dtype of the input before it was widened, if it was.
    """
    if row_weight is not None:
        row_weight = checked_row_weight(name, row_weight, x, config.dim)
    own = x.dtype if own is None else own
    dtype = own if out_dtype is None else result_dtype(name, out_dtype, own)
    dtype = None if dtype in WIDE else dtype  # as it is computed
    if in_place and x.requires_grad and in_eager_mode():
        refuse_in_place(name, x, t)
        loss = loss_in_place(function, x, t, w, config, row_weight, normalizer)
        return loss if dtype is None else loss.to(dtype)
    return loss_of_rows(function, x, t, w, config, row_weight, normalizer, dtype)
