"""Class indices, class weights and probabilities: what they must be, and what is said when they are not."""

from __future__ import annotations

import os
import re
from types import TracebackType

import torch
from torch import Tensor

from torchloss._check import not_differentiable, not_of_type, other_device, scalar_type, text, under_autocast, widened

checking = os.environ.get("TORCHLOSS_CHECK_TARGETS", "") not in ("", "0")


class check_targets:
    """Switch a thorough check of the losses' values on or off, for debugging; it waits for the device.

    On the CPU a class index outside ``[0, C)`` always raises :class:`IndexError`. On a GPU looking for one would stall
    the stream on every call, so there its row becomes NaN instead: never a read out of bounds, never a plausible
    number. With this switch on, every device raises, and names the element. The same holds for the probabilities that
    :func:`~torchloss.functional.binary_cross_entropy` takes.

    Off by default, on from the start with ``TORCHLOSS_CHECK_TARGETS=1`` in the environment. Like
    :class:`torch.autograd.set_detect_anomaly` it acts when called, for the whole process, and undoes itself as a
    context manager. Inside :func:`torch.compile` it does nothing.

    Example::

        >>> torchloss.check_targets(True)
        >>> with torchloss.check_targets():
        ...     loss = torchloss.functional.cross_entropy(logits.cuda(), target.cuda())
    """

    def __init__(self, enabled: bool = True) -> None:
        global checking
        self.before = checking
        checking = bool(enabled)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        global checking
        checking = self.before


def wanted() -> bool:
    """Whether the values are to be checked here and now."""
    return checking and not torch.compiler.is_compiling()


def class_indices(input: Tensor, target: Tensor, dim: int) -> Tensor:
    """The target as the ops want it: int64, one for each row of the input."""
    size = input.shape
    rows = size[:dim] if dim + 1 == len(size) else size[:dim] + size[dim + 1 :]
    if target.shape != rows:
        if input.dim() != 1 or target.shape != (1,):
            raise _wrong_shape(input, target, dim)
        target = target.reshape(())
    if target.dtype is not torch.int64:
        refuse_dtype(target)
        target = target.long()
    if target.device != input.device:
        raise other_device(target, "target", input)
    return target


def refuse_dtype(target: Tensor) -> None:
    """Raises if these are no class indices."""
    if target.dtype in (torch.int64, torch.uint8, torch.int32):
        return
    fix = "Class indices are whole numbers: pass target.long()."
    if target.dtype.is_floating_point:
        fix += " (Class probabilities are floating point, but have the shape of the input.)"
    raise RuntimeError(f"expected target dtype to be Long or Byte, but got {scalar_type(target.dtype)}\n  {fix}")


def _wrong_shape(input: Tensor, target: Tensor, dim: int) -> Exception:
    n, want = input.dim(), [*input.shape[:dim], *input.shape[dim + 1 :]]
    kind = RuntimeError
    if n == 1:
        kind, message = ValueError, f"For 1D input, 1D target must have size 1, but got target size: {_first(target)}"
        if target.dim() > 1:
            kind, message = RuntimeError, "0D or 1D target tensor expected, multi-target not supported"
    elif input.shape[0] != _first(target):
        kind = ValueError
        message = f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({_first(target)})."
    elif n == 2:
        message = "0D or 1D target tensor expected, multi-target not supported"
    elif n != 4:
        message = f"Expected target size {want}, got {text(target.shape)}"
    elif target.dim() == 3:
        message = f"size mismatch (got input: {text(input.shape)} , target: {text(target.shape)}"
    else:
        message = (
            "only batches of spatial targets supported (3D tensors) but got targets of dimension: "
            f"{target.dim()} (sizes {text(target.shape)})"
        )
    return kind(f"{message}\n  {_shape_hint(input, target, dim, want)}")


def _first(target: Tensor) -> int:
    return target.shape[0] if target.dim() else 0


def _shape_hint(input: Tensor, target: Tensor, dim: int, want: list[int]) -> str:
    size, got = list(input.shape), list(target.shape)
    if len(size) > 2 and size[:-1] == got:
        move = "input.transpose(1, 2)" if len(size) == 3 else "input.movedim(-1, 1)"
        letters = "N, T, C" if len(size) == 3 else "N, d1, ..., C"
        return f"The input is ({letters}) = {size}, but the classes go in dimension 1: pass {move}."
    if got == [*want, 1]:
        return "The target has a dimension of size 1 too many: pass target.squeeze(-1)."
    if len(got) == len(size) and got[:dim] + got[dim + 1 :] == want and got[dim] == 1:
        return f"The target has a dimension of size 1 too many: pass target.squeeze({dim})."
    if not got and want == [1]:
        return "The target lacks the dimension of the batch: pass target.unsqueeze(0)."
    if len(size) == 2 and target.numel() == size[0]:
        return f"The input has one row for each of the {size[0]} targets: pass target.flatten()."
    return f"The input is {size} with the classes in dimension {dim}, so class indices must be {want}, not {got}."


def first_where(mask: Tensor) -> list[int]:
    """The place of the first true element."""
    return mask.nonzero()[0].tolist()


def at(name: str, index: list[int]) -> str:
    return f"{name}{index}" if index else name


def refuse_bad_classes(input: Tensor, target: Tensor, dim: int, ignore_index: int) -> None:
    """Raises if a target names no class. Waits for the device."""
    bad = _bad(input, target, dim, ignore_index)
    if bad.any():
        raise _out_of_bounds(input, target, dim, ignore_index, first_where(bad))


def explain_bad_class(error: Exception, input: Tensor, target: Tensor, dim: int, ignore_index: int) -> None:
    """Raises torch's IndexError where a CPU op has refused a target."""
    found = re.search(r"Target (-?\d+) is out of bounds\.", str(error))
    if not found:
        return
    try:
        place = first_where(_bad(input, target, dim, ignore_index))
        better = _out_of_bounds(input, target, dim, ignore_index, place)
    except (RuntimeError, IndexError):  # under vmap nobody can look at the values
        better = IndexError(found.group())
    raise better from None


def _bad(input: Tensor, target: Tensor, dim: int, ignore_index: int) -> Tensor:
    return ((target < 0) | (target >= input.shape[dim])) & (target != ignore_index)


def _out_of_bounds(input: Tensor, target: Tensor, dim: int, ignore_index: int, place: list[int]) -> IndexError:
    value, classes = target[tuple(place)].item(), input.shape[dim]
    valid = f"valid 0..{classes - 1}, or ignore_index = {ignore_index}"
    fix = [f"Padding? pass ignore_index={value}."]
    if value == classes:
        fix.insert(0, "Labels starting at 1? use target - 1.")
    return IndexError(
        f"Target {value} is out of bounds.\n"
        f"  {at('target', place)} = {value}, but input has C = {classes} classes ({valid}).\n"
        f"  {'   '.join(fix)}"
    )


# Class weights


def class_weight(name: str, weight: Tensor, input: Tensor, dim: int) -> Tensor:
    check_class_weight(name, weight, input, dim, "")
    if weight.dtype is not input.dtype:
        if under_autocast(input):
            weight = widened(weight)
        if weight.dtype is not input.dtype:
            want, got = scalar_type(input.dtype), scalar_type(weight.dtype)
            raise RuntimeError(
                f"expected scalar type {want} but found {got}\n  The weight must have the dtype of the input: pass "
                f"weight.to({input.dtype})."
            )
    if weight.requires_grad and torch.is_grad_enabled():
        raise not_differentiable("nll_loss_forward" if input.dim() < 3 else "nll_loss2d_forward", "weight")
    return weight


def check_class_weight(name: str, weight: Tensor, input: Tensor, dim: int, prefix: str) -> None:
    if not isinstance(weight, Tensor):
        raise not_of_type(name if name == "cross_entropy_loss" else "nll_loss_nd", "weight", 3, "Tensor", weight)
    classes = input.shape[dim]
    if weight.shape != (classes,):
        every = "all" if input.dim() > 2 and not prefix else f"all {classes} classes"
        of = "" if input.dim() > 2 and not prefix else f" but got weight tensor of shape: {text(weight.shape)}"
        raise RuntimeError(
            f"{prefix}weight tensor should be defined either for {every} or no classes{of}\n  The input is "
            f"{text(input.shape)} with {classes} classes in dimension {dim}, so the weight must be [{classes}]."
        )
    if weight.device != input.device:
        raise other_device(weight, "weight", input)


# Probabilities


_FIX = {
    "input": "Are these logits? Then use binary_cross_entropy_with_logits. Are they rounded? input.clamp(0, 1).",
    "target": "Labels are 0, 1 or between. Are they class indices? Then use cross_entropy.",
}


def _outside(tensor: Tensor, name: str) -> RuntimeError | None:
    bad = ~((tensor >= 0) & (tensor <= 1))  # NaN is outside too
    if not bad.any():
        return None
    place = first_where(bad)
    value = tensor[tuple(place)].item()
    return RuntimeError(
        f"all elements of {name} should be between 0 and 1\n  {at(name, place)} = {value:.9g}. {_FIX[name]}"
    )


def refuse_outside(tensor: Tensor, name: str) -> None:
    error = _outside(tensor, name)
    if error is not None:
        raise error


def explain_outside(error: RuntimeError, input: Tensor, target: Tensor) -> None:
    """Says where, after a CPU op has refused a number outside [0, 1]."""
    if "should be between 0 and 1" not in str(error):
        return
    try:
        better = _outside(input, "input") or _outside(target, "target") or error
    except RuntimeError:  # under vmap nobody can look at the values
        better = error
    raise better from None
