"""The fake kernels: the sizes, dtypes and strides that an op's outputs will have, for tracing without data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition

from torchloss import _library  # noqa: F401
from torchloss._check import NONE


def _register(name: str, forward: Callable, backward: Callable, double_backward: Callable) -> None:
    for suffix, fake in (("", forward), ("_backward", backward), ("_double_backward", double_backward)):
        _register_one(name + suffix, fake)


def _register_one(name: str, fake: Callable) -> None:
    fake = _on_one_device(name, fake)
    torch.library.register_fake(f"torchloss::{name}", fake)
    # The table of what FakeTensor takes before a decomposition (_decompositions.py), which would guard on sizes.
    register_decomposition(getattr(torch.ops.torchloss, name).default, type="meta")(fake)


def _on_one_device(name: str, fake: Callable) -> Callable:
    """A single meta tensor sends a call here: its other tensors may not be elsewhere, or missing."""
    op = getattr(torch.ops.torchloss, name).default
    arguments = op._schema.arguments
    required = [i for i, a in enumerate(arguments) if isinstance(a.type, torch.TensorType)]

    def checked(*args: Any) -> Any:
        args = *args, *(a.default_value for a in arguments[len(args) :])  # the dispatcher leaves these out
        for i in required:
            if args[i] is None:
                raise RuntimeError(f"{name}: expected a tensor for {arguments[i].name}")
        devices = {str(a.device) for a in args if isinstance(a, Tensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{name}: expected all tensors on one device, not on {' and '.join(sorted(devices))}")
        return fake(*args)

    return checked


def pointwise(name: str) -> None:
    names = [a.name for a in getattr(torch.ops.torchloss, name).default._schema.arguments]

    def loss(*args: Any) -> Tensor:
        a = dict(zip(names, args, strict=True))
        x = a["input"]
        if a["reduction"] == NONE:
            return torch.empty_like(x)
        return x.new_empty((), dtype=torch.promote_types(x.dtype, torch.float32))

    def backward(grad, input, *args: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(input), torch.empty_like(input) if args[-2] else input.new_empty(0)

    def double_backward(h, k, grad, input, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        each = grad.shape == input.shape and grad.dtype == input.dtype
        grad_grad = torch.empty_like(input) if each else grad.new_empty(())
        return grad_grad, torch.empty_like(input), torch.empty_like(input)

    _register(name, loss, backward, double_backward)


def rowwise(name: str, sizes: Any) -> None:
    """`sizes` tells how many numbers a row's forward pass leaves, and how many values it has."""
    names = [a.name for a in getattr(torch.ops.torchloss, name).default._schema.arguments]

    def rows(input: Tensor, dim: int) -> list[int]:
        return [*input.shape[:dim], *input.shape[dim + 1 :]]

    def loss(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        a = dict(zip(names, args, strict=False))
        input, shape = a["input"], rows(a["input"], a["dim"])
        dtype = torch.promote_types(input.dtype, torch.float32)
        value = [sizes.values, *shape] if sizes.values > 1 else () if a.get("reduction") else shape
        return tuple(input.new_empty(s, dtype=dtype) for s in (value, [sizes.saved, *shape], ()))

    def backward(grad, input, *args: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(input), torch.empty_like(args[0]) if args[-1] else input.new_empty(0)

    def double_backward(h, k, grad, input, *args: Any):
        grad_target = torch.empty_like(args[0]) if sizes.floating_target else input.new_empty(0)
        return torch.empty_like(grad, memory_format=torch.contiguous_format), torch.empty_like(input), grad_target

    _register(name, loss, backward, double_backward)
    if not hasattr(torch.ops.torchloss, f"{name}_with_gradient"):
        return
    at = 1 + sum(sizes.has[1:])  # where row_weight and normalizer are

    def over_input(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        return loss(*args[:at], *args[at + 2 :])

    def with_gradient(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *over_input(*args), torch.empty_like(args[0])

    _register_one(f"{name}_with_gradient", with_gradient)
    _register_one(f"{name}_with_gradient_", over_input)
    _register_one(f"{name}_backward_into", lambda *_: None)


def row_map(name: str) -> None:
    def forward(input: Tensor, dim) -> Tensor:
        return torch.empty_like(input)

    def backward(grad, output, dim) -> Tensor:
        return torch.empty_like(output)

    def double_backward(h, grad, output, dim) -> tuple[Tensor, Tensor]:
        return torch.empty_like(output), torch.empty_like(output)

    _register(name, forward, backward, double_backward)
