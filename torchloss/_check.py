"""What every loss asks of its arguments.

A check that passes costs next to nothing; the text of an error is made when the error is raised. Each error has the
type that torch raises and begins with torch's words; then come what was wrong, where, and how to mend it.
"""

from __future__ import annotations

import numbers
import operator
import warnings
from functools import reduce as fold
from typing import Any, Literal

import torch
from torch import Tensor

Reduction = Literal["none", "mean", "sum"]

NONE, MEAN, SUM, MEAN_OR_ZERO = 0, 1, 2, 3  # as the ops know them; the last: 0, not NaN, of nothing
MEANS = (MEAN, MEAN_OR_ZERO)
CODES = {"none": NONE, "mean": MEAN, "sum": SUM}

WIDE = (torch.float32, torch.float64)  # autocast leaves these alone
FLOATING = (*WIDE, torch.bfloat16, torch.float16)
INT64 = range(-(2**63), 2**63)

_SCALAR_TYPES = {
    torch.float16: "Half",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.bfloat16: "BFloat16",
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.bool: "Bool",
    torch.uint16: "UInt16",
    torch.uint32: "UInt32",
    torch.uint64: "UInt64",
    torch.complex32: "ComplexHalf",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}


def scalar_type(dtype: torch.dtype) -> str:
    """The name of a dtype in torch's messages."""
    return _SCALAR_TYPES.get(dtype) or str(dtype).removeprefix("torch.").capitalize()


def warn(message: str, stacklevel: int) -> None:
    """warnings.warn, except while torch.compile is tracing, where it would break the graph."""
    if not torch.compiler.is_compiling():
        warnings.warn(message, stacklevel=stacklevel + 1)


# Reductions


def reduction_code(reduction: str) -> int:
    """The number that the ops know a reduction by."""
    if isinstance(reduction, str):
        if reduction in CODES:
            return CODES[reduction]
        if reduction == "elementwise_mean":
            warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.", stacklevel=3)
            return MEAN
    raise ValueError(f"{reduction} is not a valid value for reduction\n  Choose one of 'none', 'mean', 'sum'.")


def legacy_reduction(size_average: bool | None, reduce: bool | None) -> Reduction:
    """The reduction that the two deprecated arguments stand for."""
    if reduce is not None and not reduce:
        name = "none"
    else:
        name = "mean" if size_average is None or size_average else "sum"
    warn(f"size_average and reduce args will be deprecated, please use reduction='{name}' instead.", stacklevel=3)
    return name


# Arguments that are not tensors


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ in ("builtins", "torch") else f"{kind.__module__}.{kind.__name__}"


def not_a_tensor(function: str, **arguments: Any) -> AttributeError:
    """What the losses raise that ask an argument for its size: for the first of them that is no tensor."""
    name, value = next((n, v) for n, v in arguments.items() if not isinstance(v, Tensor))
    return AttributeError(
        f"'{type(value).__name__}' object has no attribute 'size'\n"
        f"  {function}: {name} must be a Tensor, not {_type_name(value)}. Use torch.as_tensor({name})."
    )


def not_of_type(function: str, name: str, position: int, wanted: str, value: Any) -> TypeError:
    fix = f"\n  Use torch.as_tensor({name})." if wanted == "Tensor" and value is not None else ""
    place = f" (position {position})" if position else ""  # keyword-only arguments have none
    return TypeError(f"{function}(): argument '{name}'{place} must be {wanted}, not {_type_name(value)}{fix}")


def number(function: str, name: str, position: int, value: Any) -> float:
    """A parameter that must be a number, or a tensor with one number in it."""
    if isinstance(value, (numbers.Real, torch.SymFloat, torch.SymInt)):
        return float(value)
    if isinstance(value, Tensor) and value.dim() == 0 and not value.requires_grad:
        return value.item()
    raise not_of_type(function, name, position, "float", value)


def integer(function: str, name: str, position: int, value: Any) -> int:
    if isinstance(value, (bool, float, str)):
        raise not_of_type(function, name, position, "int", value)
    try:
        value = operator.index(value)
    except TypeError:
        raise not_of_type(function, name, position, "int", value) from None
    if value not in INT64:
        raise ValueError(f"Overflow when unpacking long long\n  {function}: {name} = {value} does not fit into int64.")
    return value


def wrapped_dim(function: str, dim: Any, dims: int) -> int:
    """The dimension counted from the front. A tensor without dimensions counts as having one."""
    if type(dim) is not int:
        dim = integer(function, "dim", 1, dim)
    n = max(dims, 1)
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim + n if dim < 0 else dim


# Devices, gradients and dtypes


def other_device(tensor: Tensor, name: str, input: Tensor) -> RuntimeError:
    return RuntimeError(
        f"Expected all tensors to be on the same device, but got {name} is on {tensor.device}, different from other "
        f"tensors on {input.device}\n  Move it: {name}.to({str(input.device)!r})."
    )


def not_differentiable(function: str, name: str) -> RuntimeError:
    return RuntimeError(
        f"The function '{function}' is not differentiable with respect to argument '{name}'. This input cannot have "
        f"requires_grad True.\n  Pass {name}.detach() to treat it as a constant."
    )


def under_autocast(tensor: Tensor) -> bool:
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def widened(tensor: Tensor) -> Tensor:
    """The tensor as autocast hands it to an op that runs in float32."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype is not torch.float64 else tensor


def common_dtype(kernel: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the dtype that torch would promote them to; in float32 under autocast."""
    if under_autocast(tensors[0]):
        tensors = tuple(widened(t) for t in tensors)
    dtype = fold(torch.promote_types, (t.dtype for t in tensors))
    if dtype not in FLOATING:
        raise unsupported_dtype(kernel, dtype, tensors[0].device)
    return tuple(t.to(dtype) for t in tensors)


def unsupported_dtype(kernel: str, dtype: torch.dtype, device: torch.device) -> Exception:
    """`kernel` is the name that torch's message gives, with a place for the device's."""
    kernel = kernel.format(device.type)
    floating = "float32, float64, bfloat16 and float16"
    if dtype.is_complex:
        fix = "Complex numbers have no order, so these losses take real tensors: pass the real and imaginary parts."
    elif dtype.is_floating_point:
        fix = f"Supported are {floating}: pass input.float()."
    else:
        fix = f"A loss is a floating-point number and has a gradient; supported are {floating}: pass input.float()."
    return NotImplementedError(f"\"{kernel}\" not implemented for '{scalar_type(dtype)}'\n  {fix}")


def text(size: Any) -> str:
    """A size as torch's messages write it, [3, 4]."""
    return str(list(size))
