"""(c) A straight-line fit to the diabetes data whose training targets are partly wrong: L2, L1 and Huber."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from torchloss.lab import data
from torchloss.lab.train import OURS, Track

LOSSES = {"L2": "MSELoss", "L1": "L1Loss", "Huber": "HuberLoss"}
FRACTIONS = (0.0, 0.05, 0.1, 0.2)
SHIFT = 10.0  # a spoiled target lies this many standard deviations too high


@dataclass
class Robust:
    """errors[library][loss][fraction][seed]: mean absolute error on clean, unseen rows; pull[loss][r]: dL/dr."""

    errors: dict[str, dict[str, list[list[float]]]]
    residuals: list[float]
    pull: dict[str, list[float]]

    def seeds(self) -> int:
        """How many splits stand behind a mean error."""
        return len(self.errors[OURS]["L2"][0])

    def mean_error(self, library: str, loss: str, fraction: int) -> float:
        """Mean over the seeds."""
        errors = self.errors[library][loss][fraction]
        return sum(errors) / len(errors)

    def largest_difference(self, one: str, other: str) -> float:
        """The largest distance between two libraries over all fits."""
        first, second = (torch.tensor([self.errors[name][loss] for loss in LOSSES]) for name in (one, other))
        return (first - second).abs().max().item()


def robust(libraries: dict[str, ModuleType], steps: int, seeds: int, seed: int, track: Track) -> Robust:
    """Every loss of every library on every fraction of outliers; a seed is a split and a choice of outliers."""
    rows = [data.diabetes(seed + k) for k in range(seeds)]
    spoiled = [spoil(part.targets, fraction, seed + k) for fraction in FRACTIONS for k, part in enumerate(rows)]
    inputs = torch.stack([part.inputs for part in rows]).repeat(len(FRACTIONS), 1, 1)
    errors: dict[str, dict[str, list[list[float]]]] = {name: {} for name in libraries}
    for name, loss in track([(name, loss) for name in libraries for loss in LOSSES], "(c) outliers"):
        lines = fit(getattr(libraries[name], LOSSES[loss])(), inputs, torch.stack(spoiled), steps)
        clean = [score(line, rows[k % seeds]) for k, line in enumerate(lines)]
        errors[name][loss] = [clean[k * seeds : (k + 1) * seeds] for k in range(len(FRACTIONS))]
    residuals = torch.linspace(-4, 4, 161)
    ours = libraries[OURS]
    return Robust(errors, residuals.tolist(), {loss: pull(getattr(ours, LOSSES[loss]), residuals) for loss in LOSSES})


def spoil(targets: Tensor, fraction: float, seed: int) -> Tensor:
    """A copy of the targets, that fraction of them shifted upwards."""
    chosen = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))[
        : round(fraction * len(targets))
    ]
    targets = targets.clone()
    targets[chosen] += SHIFT
    return targets


def fit(loss: torch.nn.Module, inputs: Tensor, targets: Tensor, steps: int) -> Tensor:
    """K lines, one per (inputs[k], targets[k]), in one go: the losses are added, but no two of them share a weight."""
    lines = torch.zeros(len(inputs), inputs.shape[2] + 1, requires_grad=True)
    optimiser = torch.optim.Adam([lines], lr=0.1)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        predictions = torch.baddbmm(lines[:, -1:, None], inputs, lines[:, :-1, None]).squeeze(2)
        sum(loss(p, t) for p, t in zip(predictions.unbind(), targets.unbind(), strict=True)).backward()
        optimiser.step()
        slower.step()
    return lines.detach()


def score(line: Tensor, rows: data.Split) -> float:
    """Mean absolute error on the unseen rows."""
    return (rows.test_inputs @ line[:-1] + line[-1] - rows.test_targets).abs().mean().item()


def pull(loss: type[torch.nn.Module], residuals: Tensor) -> list[float]:
    """How hard a point at that distance pulls at the line: the gradient with respect to its prediction."""
    prediction = residuals.clone().requires_grad_()
    loss(reduction="sum")(prediction, torch.zeros_like(residuals)).backward()
    return prediction.grad.tolist()
