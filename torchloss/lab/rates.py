"""(d) Which learning rates work? Digits under plain SGD over learning rate x batch size, the loss as mean and as sum.

All learning rates of one batch size are trained at once: K copies of the weights in one tensor, one matrix product for
all, and one loss per copy. The K losses are added; no two share a weight, so every copy gets its own gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from statistics import median
from types import ModuleType

import torch
from torch import Tensor, nn

from torchloss.lab import data
from torchloss.lab.train import Track, classifier

REDUCTIONS = ("mean", "sum")
USABLE = 1.0  # a final training loss below this counts as trained; guessing gives ln 10 = 2.3


@dataclass
class Grid:
    """losses[reduction][batch][rate][seed]: training loss over all digits after the last step, nan where it blew up."""

    batches: list[int]
    rates: list[float]
    steps: int
    losses: dict[str, list[list[list[float]]]]

    def seeds(self) -> int:
        """How many runs stand behind a cell."""
        return len(self.losses["mean"][0][0])

    def typical(self, reduction: str) -> list[list[float]]:
        """[batch][rate] median over the seeds; a run that blew up counts as infinitely bad."""
        return [
            [median(math.inf if math.isnan(x) else x for x in cell) for cell in row] for row in self.losses[reduction]
        ]

    def best(self, reduction: str) -> list[float]:
        """Per batch size, the learning rate with the lowest typical loss."""
        return [self.rates[row.index(min(row))] for row in self.typical(reduction)]

    def usable(self, reduction: str) -> list[float]:
        """Per batch size, the largest learning rate whose typical loss is below USABLE; nan if there is none."""
        rows = self.typical(reduction)
        return [
            max((rate for rate, x in zip(self.rates, row, strict=True) if x < USABLE), default=math.nan) for row in rows
        ]

    def twins(self) -> list[tuple[float, float]]:
        """Final losses that ought to agree: sum at rate r and batch B takes the very steps of mean at rate r B."""
        pairs = []
        for b, batch in enumerate(self.batches):
            for r, rate in enumerate(self.rates):
                if rate * batch in self.rates:
                    same = self.rates.index(rate * batch)
                    pairs += zip(self.losses["sum"][b][r], self.losses["mean"][b][same], strict=True)
        return [(x, y) for x, y in pairs if max(x, y) < USABLE]


def move(rates: list[float]) -> float:
    """The factor between the largest and the smallest; nan if there is a nan."""
    return math.nan if any(map(math.isnan, rates)) else max(rates) / min(rates)


def grid(
    losses: ModuleType, batches: list[int], rates: list[float], steps: int, seeds: list[int], track: Track
) -> Grid:
    """Train the whole grid; a seed is a split, a start and an order of batches, the same for every cell."""
    result = Grid(batches, rates, steps, {name: [[[] for _ in rates] for _ in batches] for name in REDUCTIONS})
    cases = list(product(REDUCTIONS, range(len(batches)), seeds))
    for reduction, b, seed in track(cases, "(d) learning rates"):
        finals = train(losses.CrossEntropyLoss(reduction=reduction), batches[b], torch.tensor(rates), steps, seed)
        for cell, final in zip(result.losses[reduction][b], finals.tolist(), strict=True):
            cell.append(final)
    return result


def train(loss: nn.Module, batch: int, rates: Tensor, steps: int, seed: int) -> Tensor:
    """K copies of the classifier, one per learning rate; their training losses at the end."""
    rows = data.digits(seed)
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    copies = [w.detach().expand(len(rates), *w.shape).clone().requires_grad_() for w in classifier().parameters()]
    for _ in range(steps):
        pick = torch.randperm(len(rows.inputs), generator=draw)[:batch]
        logits = forward(copies, rows.inputs[pick])
        total = sum(loss(copy, rows.targets[pick]) for copy in logits.unbind())
        with torch.no_grad():
            for weights, gradient in zip(copies, torch.autograd.grad(total, copies), strict=True):
                weights -= gradient * rates.view(-1, *[1] * (weights.dim() - 1))
    with torch.no_grad():
        return torch.stack([nn.functional.cross_entropy(z, rows.targets) for z in forward(copies, rows.inputs)])


def forward(copies: list[Tensor], inputs: Tensor) -> Tensor:
    """classifier() of every copy: (K, rows, 10)."""
    weight, bias, head, head_bias = copies
    hidden = torch.relu(inputs @ weight.mT + bias[:, None])
    return hidden @ head.mT + head_bias[:, None]
