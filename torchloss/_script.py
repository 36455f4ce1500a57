"""What torch.jit.script compiles in the place of the functions, whose checks it cannot read.

It asks a function or a module for its `__prepare_scriptable__`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: int | None = None) -> Tensor:
    x = input if dtype is None else input.to(dtype)
    return torch.ops.torchloss.softmax(x, row_dim(x, dim))


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: int | None = None) -> Tensor:
    x = input if dtype is None else input.to(dtype)
    return torch.ops.torchloss.log_softmax(x, row_dim(x, dim))


def row_dim(input: Tensor, dim: int | None) -> int:
    if dim is None:
        return 0 if input.dim() in (0, 1, 3) else 1
    return dim + input.dim() if dim < 0 else dim


def refuse(name: str) -> Any:
    raise RuntimeError(
        f"torch.jit.script cannot compile torchloss.{name}: use torch.jit.trace or torch.export, or leave it out of "
        "the scripted model."
    )


def prepare(function: Callable) -> None:
    """Gives a function of torchloss.functional what torch.jit.script asks it for."""
    name = function.__name__
    scripted = {"softmax": softmax, "log_softmax": log_softmax}.get(name)
    function.__prepare_scriptable__ = lambda: scripted or refuse(f"functional.{name}")
