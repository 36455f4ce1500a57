"""Jagged nested tensors: the maps and the losses of elements are those of the values; the others say what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, overrides

from torchloss._check import text, wrapped_dim
from torchloss.autograd.pointwise import NAMES as OF_ELEMENTS
from torchloss.autograd.row_map import NAMES as MAPS


def is_nested(a: Any) -> bool:
    return isinstance(a, Tensor) and a.is_nested


def handle_torch_function(function: Callable, relevant: tuple, *args: Any, **kwargs: Any) -> Any:
    """torch.overrides' function of this name, which has nothing to call for nested tensors."""
    if not torch._C._is_torch_function_mode_enabled() and any(map(is_nested, relevant)):
        return of_nested(function, args, kwargs)
    return overrides.handle_torch_function(function, relevant, *args, **kwargs)


def of_nested(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    name = function.__name__
    if name not in (*MAPS, *OF_ELEMENTS):
        raise NotImplementedError(
            f"{name} does not take nested tensors: pass their values, input.values() and target.values()."
        )
    same = check_alike(name, args, {k: v for k, v in kwargs.items() if is_nested(v)})
    if name in MAPS:
        kwargs = kwargs | {"dim": dim_of_values(name, same, kwargs["dim"])}
    elif kwargs["reduction"] == "batchmean" and kwargs["normalizer"] is None:
        samples = same.shape[0] if kwargs["empty"] == "nan" else max(same.shape[0], 1)
        kwargs = kwargs | {"reduction": "sum", "normalizer": torch.tensor(float(samples))}
    kwargs = {k: v.values() if is_nested(v) else v for k, v in kwargs.items()}
    result = function(*(a.values() for a in args), **kwargs)
    if result.dim() == 0:
        return result
    return torch.nested.nested_tensor_from_jagged(result, same.offsets(), jagged_dim=same._ragged_idx)


def check_alike(name: str, args: tuple, more: dict[str, Tensor]) -> Tensor:
    """One of the nested tensors, whose samples are those of the others."""
    if not all(map(is_nested, args)):
        raise ValueError(f"{name}: the input and the target must both be nested, or neither: pass input.values().")
    for a in (*args, *more.values()):
        if a.layout is not torch.jagged or a.lengths() is not None:
            raise NotImplementedError(f"{name}: nested tensors must be jagged and without holes: pass .contiguous().")
        if a.shape != args[0].shape:
            raise ValueError(
                f"{name}: nested tensors must have the same size and offsets, not {text(args[0].shape)} and "
                f"{text(a.shape)}: build one with the other's, "
                "torch.nested.nested_tensor_from_jagged(values, other.offsets())."
            )
    return args[0]


def dim_of_values(name: str, input: Tensor, dim: Any) -> int:
    """The dimension of the values, in which the samples lie one after the other."""
    d = 0 if dim is None else wrapped_dim(name, dim, input.dim())
    if d in (0, input._ragged_idx):
        raise NotImplementedError(
            f"{name} of a nested tensor is not over its samples or their lengths, dim={dim}: pass "
            "input.to_padded_tensor(-torch.inf), or another dim."
        )
    return d - 1
