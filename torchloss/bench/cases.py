"""What is timed: a loss at one size, as forward + backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A function of torch.nn.functional and torchloss.functional, on an input of a shape.

    `passes` is the least number of times that a tensor as large as the input must be read or written, forward and
    backward together.
    """

    name: str
    shape: tuple[int, ...]
    target: Callable[[tuple[int, ...]], Tensor] | None
    passes: int

    def __str__(self) -> str:
        kind = " probabilities" if self.target is probabilities else ""
        return f"{self.name} {'x'.join(map(str, self.shape))}{kind}"

    def arguments(self, dtype: torch.dtype, device: str) -> list[Tensor]:
        torch.manual_seed(0)
        input = torch.randn(self.shape).to(device, dtype).requires_grad_()
        if self.target is None:
            return [input]
        target = self.target(self.shape)
        return [input, target.to(device, dtype) if target.is_floating_point() else target.to(device)]

    def limit_bytes(self, dtype: torch.dtype) -> int:
        return self.passes * torch.Size(self.shape).numel() * dtype.itemsize


def classes(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(shape[1], (shape[0], *shape[2:]))


def probabilities(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape).softmax(1)


# read; read, write                  read two; read two, write one
ROWS, POINTS = 3, 5

QUICK = [
    Case("cross_entropy", (8, 10), classes, ROWS),
    Case("cross_entropy", (4096, 1000), classes, ROWS),
    Case("cross_entropy", (512, 32000), classes, ROWS),
    Case("mse_loss", (64,), torch.randn, POINTS),
    Case("mse_loss", (1_000_000,), torch.randn, POINTS),
    Case("huber_loss", (10_000_000,), torch.randn, POINTS),
]

FULL = [
    *QUICK,
    Case("cross_entropy", (65536, 10), classes, ROWS),
    Case("cross_entropy", (8, 21, 256, 256), classes, ROWS),
    Case("cross_entropy", (512, 128256), classes, ROWS),
    Case("cross_entropy", (512, 32000), probabilities, ROWS + 2),
    Case("nll_loss", (4096, 1000), classes, 1),
    Case("l1_loss", (10_000_000,), torch.randn, POINTS),
    Case("smooth_l1_loss", (10_000_000,), torch.randn, POINTS),
    Case("kl_div", (10_000_000,), torch.rand, POINTS),
    Case("binary_cross_entropy_with_logits", (10_000_000,), torch.rand, POINTS),
]
