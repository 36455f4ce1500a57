"""The fake kernels: the sizes, dtypes and strides that an op's outputs will have, for tracing without data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchloss import _library  # noqa: F401

NONE = 0


def _register(name: str, forward: Callable, backward: Callable, double_backward: Callable) -> None:
    for suffix, fake in (("", forward), ("_backward", backward), ("_double_backward", double_backward)):
        torch.library.register_fake(f"torchloss::{name}{suffix}", _on_one_device(name + suffix, fake))


def _on_one_device(name: str, fake: Callable) -> Callable:
    """A single meta tensor sends a call here: its other tensors may not be elsewhere, or missing."""
    arguments = getattr(torch.ops.torchloss, name).default._schema.arguments
    required = [i for i, a in enumerate(arguments) if isinstance(a.type, torch.TensorType)]

    def checked(*args: Any) -> Any:
        for i in required:
            if args[i] is None:
                raise RuntimeError(f"{name}: expected a tensor for {arguments[i].name}")
        devices = {str(a.device) for a in args if isinstance(a, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{name}: expected all tensors on one device, not on {' and '.join(sorted(devices))}")
        return fake(*args)

    return checked


def pointwise(name: str) -> None:
    def loss(input: Tensor, target, weight, pos_weight, reduction, parameter) -> Tensor:
        return torch.empty_like(input) if reduction == NONE else input.new_empty(())

    def backward(grad, input, *_: Any) -> tuple[Tensor, Tensor]:
        target_grad = _[-1]
        return torch.empty_like(input), torch.empty_like(input) if target_grad else input.new_empty(0)

    def double_backward(h, k, grad, input, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return loss(input, *args), torch.empty_like(input), torch.empty_like(input)

    _register(name, loss, backward, double_backward)


def _value(input: Tensor, dim: int, reduction: int) -> tuple[Tensor, list[int]]:
    """A loss of rows, and the sizes of the dimensions that are not of classes."""
    rows = [*input.shape[:dim], *input.shape[dim + 1 :]]
    return input.new_empty(rows if reduction == NONE else ()), rows


def _loss_of_rows(saved: Callable[[float], int]) -> Callable:
    """`saved` tells how many numbers a row's forward pass leaves for its backward pass, given the parameter."""

    def loss(input: Tensor, target, weight, dim, reduction, ignore_index, parameter) -> tuple[Tensor, Tensor, Tensor]:
        out, rows = _value(input, dim, reduction)
        dtype = torch.promote_types(input.dtype, torch.float32)
        return out, input.new_empty([saved(parameter), *rows], dtype=dtype), input.new_empty((), dtype=dtype)

    return loss


def rowwise(name: str, saved: Callable[[float], int]) -> None:
    def backward(grad, input, target, *_: Any) -> tuple[Tensor, Tensor]:
        target_grad = _[-1]
        return torch.empty_like(input), torch.empty_like(target) if target_grad else input.new_empty(0)

    def double_backward(h, k, grad, input, target, weight, stats, total, dim, reduction, *_: Any):
        floating = target is not None and target.is_floating_point()
        grad_target = torch.empty_like(target) if floating else input.new_empty(0)
        return _value(input, dim, reduction)[0], torch.empty_like(input), grad_target

    _register(name, _loss_of_rows(saved), backward, double_backward)


def cross_entropy_and_gradient(saved: Callable[[float], int]) -> None:
    name, loss = "cross_entropy_and_gradient", _loss_of_rows(saved)

    def fake(input: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *loss(input, *args), torch.empty_like(input)

    torch.library.register_fake(f"torchloss::{name}", _on_one_device(name, fake))


def row_map(name: str) -> None:
    def forward(input: Tensor, dim) -> Tensor:
        return torch.empty_like(input)

    def backward(grad, output, dim) -> Tensor:
        return torch.empty_like(output)

    def double_backward(h, grad, output, dim) -> tuple[Tensor, Tensor]:
        return torch.empty_like(output), torch.empty_like(output)

    _register(name, forward, backward, double_backward)
