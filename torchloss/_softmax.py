"""softmax and log_softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from torchloss._check import FLOATING, WIDE, under_autocast, unsupported_dtype, warn, wrapped_dim
from torchloss._nested import handle_torch_function
from torchloss.autograd import LogSoftmaxFunction, SoftmaxFunction, run


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    r"""The probabilities that belong to logits.

    .. math:: y_j = \frac{e^{x_j}}{\sum_i e^{x_i}}, \qquad
              \frac{\partial y_j}{\partial x_i} = y_j (\delta_{ij} - y_i)

    A drop-in for :func:`torch.nn.functional.softmax`. No loss needs it: :func:`cross_entropy` takes the logits.

    Args:
        input: Logits of any shape; float32, float64, bfloat16 or float16, or anything if ``dtype`` is given.
        dim: The dimension of the classes, along which the result sums to 1. Leaving it out is deprecated.
        dtype: The dtype that the input is converted to first.

    Returns:
        A tensor of the input's shape and dtype. A logit of -inf has probability 0; a row of nothing else, or with an
        infinite or NaN logit, is NaN. Under autocast it is float32 on CUDA and the input's dtype on the CPU, as in
        torch.

    Raises:
        IndexError: dim is out of range.
        TypeError: dim is no int, or dtype is no dtype.
        NotImplementedError: an integer or complex dtype.

    Example::

        >>> softmax(torch.tensor([0.0, 0.0, -torch.inf]), dim=0)
        tensor([0.5000, 0.5000, 0.0000])

    Source: J. S. Bridle, Probabilistic interpretation of feedforward classification network outputs, 1990.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(softmax, (input,), input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)
    if dim is None:
        dim = _implicit_dim("softmax", input.dim(), _stacklevel)
    return _map(SoftmaxFunction, "softmax", input, dim, dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    r"""The logarithms of the probabilities that belong to logits.

    .. math:: z_j = x_j - \log \sum_i e^{x_i}, \qquad
              \frac{\partial z_j}{\partial x_i} = \delta_{ij} - e^{z_i}

    A drop-in for :func:`torch.nn.functional.log_softmax`. Followed by :func:`nll_loss` it is
    :func:`cross_entropy`, which is more accurate where the right class leads by far.

    Args:
        input: Logits of any shape; float32, float64, bfloat16 or float16, or anything if ``dtype`` is given.
        dim: The dimension of the classes, along which the result's exponentials sum to 1. Leaving it out is deprecated.
        dtype: The dtype that the input is converted to first.

    Returns:
        A tensor of the input's shape and dtype. A logit of -inf stays -inf; a row of nothing else, or with an infinite
        or NaN logit, is NaN. Under autocast it is float32 on CUDA and the input's dtype on the CPU, as in torch.

    Raises:
        IndexError: dim is out of range.
        TypeError: dim is no int, or dtype is no dtype.
        NotImplementedError: an integer or complex dtype.

    Example::

        >>> log_softmax(torch.tensor([1000.0, 1000.0]), dim=0)
        tensor([-0.6931, -0.6931])

    Source: J. S. Bridle, Probabilistic interpretation of feedforward classification network outputs, 1990.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(log_softmax, (input,), input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)
    if dim is None:
        dim = _implicit_dim("log_softmax", input.dim(), _stacklevel)
    return _map(LogSoftmaxFunction, "log_softmax", input, dim, dtype)


def _implicit_dim(name: str, dims: int, stacklevel: int) -> int:
    warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X as an argument.",
        stacklevel=stacklevel,
    )
    return 0 if dims in (0, 1, 3) else 1


def _map(function: Any, name: str, input: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    if not isinstance(input, Tensor):
        raise AttributeError(
            f"'{type(input).__name__}' object has no attribute '{name}'\n  {name}: input must be a Tensor."
        )
    if dtype is not None:
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{name}(): argument 'dtype' must be torch.dtype, not {type(dtype).__name__}")
        input = input.to(dtype)
    dims = input.dim()
    dim = wrapped_dim(name, dim, dims)
    if input.dtype not in WIDE:
        if input.dtype not in FLOATING:
            row = "_lastdim" if dim >= dims - 1 else ""
            raise unsupported_dtype(f"{name}{row}_kernel_impl", input.dtype, input.device)
        if dtype is None and not input.is_cpu and under_autocast(input):
            input = input.float()
    if dims == 0:
        return run(function, input.reshape(1), 0).reshape(())
    return run(function, input, dim)
