"""The fake kernels: the sizes, dtypes and strides that an op's outputs will have, for tracing without data."""

import torch
from torch import Tensor

from torchloss import _library  # noqa: F401

NONE = 0
POINTWISE = (
    "l1_loss",
    "mse_loss",
    "huber_loss",
    "smooth_l1_loss",
    "kl_div",
    "kl_div_log_target",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
# The numbers that a row's forward pass leaves for its backward pass.
ROWWISE = {
    "cross_entropy": lambda label_smoothing: 3 if label_smoothing else 2,
    "cross_entropy_probs": lambda _: 4,
    "nll_loss": lambda _: 0,
    "entropy": lambda _: 0,
    "softmax_entropy": lambda _: 3,
    "kl_div_with_logits": lambda _: 5,
}
ROW_MAPS = ("softmax", "log_softmax")


def _pointwise(name: str) -> None:
    def loss(input: Tensor, target, weight, pos_weight, reduction, parameter):
        return torch.empty_like(input) if reduction == NONE else input.new_empty(())

    def backward(grad, input, target, weight, pos_weight, reduction, parameter, target_grad):
        return torch.empty_like(input), torch.empty_like(input) if target_grad else input.new_empty(0)

    def double_backward(h, k, grad, input, target, weight, pos_weight, reduction, parameter):
        value = loss(input, target, weight, pos_weight, reduction, parameter)
        return value, torch.empty_like(input), torch.empty_like(input)

    _register(name, loss, backward, double_backward)


def _rowwise(name: str, saved) -> None:
    def value(input: Tensor, dim: int, reduction: int) -> tuple[Tensor, list[int]]:
        rows = [*input.shape[:dim], *input.shape[dim + 1 :]]
        return input.new_empty(rows if reduction == NONE else ()), rows

    def loss(input: Tensor, target, weight, dim, reduction, ignore_index, parameter):
        out, rows = value(input, dim, reduction)
        dtype = torch.promote_types(input.dtype, torch.float32)
        return out, input.new_empty([saved(parameter), *rows], dtype=dtype), input.new_empty((), dtype=dtype)

    def backward(
        grad, input, target, weight, stats, total, dim, reduction, ignore_index, parameter, target_grad
    ):
        return torch.empty_like(input), torch.empty_like(target) if target_grad else input.new_empty(0)

    def double_backward(
        h, k, grad, input, target, weight, stats, total, dim, reduction, ignore_index, parameter
    ):
        floating = target is not None and target.is_floating_point()
        gt = torch.empty_like(target) if floating else input.new_empty(0)
        return value(input, dim, reduction)[0], torch.empty_like(input), gt

    _register(name, loss, backward, double_backward)


def _row_map(name: str) -> None:
    def forward(input: Tensor, dim):
        return torch.empty_like(input)

    def backward(grad, output, dim):
        return torch.empty_like(output)

    def double_backward(h, grad, output, dim):
        return torch.empty_like(output), torch.empty_like(output)

    _register(name, forward, backward, double_backward)


def _register(name: str, forward, backward, double_backward) -> None:
    for suffix, fake in (("", forward), ("_backward", backward), ("_double_backward", double_backward)):
        torch.library.register_fake(f"torchloss::{name}{suffix}", fake)


for _name in POINTWISE:
    _pointwise(_name)
for _name, _saved in ROWWISE.items():
    _rowwise(_name, _saved)
for _name in ROW_MAPS:
    _row_map(_name)
