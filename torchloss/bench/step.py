"""One call of a loss as training or evaluation makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchloss.bench.cases import Case


class Step(NamedTuple):
    """What is on the clock, and what has to be made for each call off the clock."""

    run: Callable[[], Any]
    prepare: Callable[[], None] | None = None


def step_of(
    case: Case,
    function: Callable,
    x: Tensor,
    targets: list[Tensor],
    options: dict[str, Any],
    overwritten: bool = False,
) -> Step:
    """A step that gives the value and, forward and backward, the gradient in x."""
    if case.variant == "transfer":
        return transferring(case, function, x, targets, options)
    x = x.detach().requires_grad_(case.direction == "both")
    if overwritten:
        return overwriting(function, x, targets, options)
    if case.direction == "forward":
        return Step(lambda: (function(x, *targets, **options), None))
    upstream = incoming(case, x)

    def run() -> tuple[Tensor, Tensor | None]:
        value = function(x, *targets, **options)
        value.backward(upstream)
        gradient, x.grad = x.grad, None  # whose memory is given back within the call, not in the next rival's
        return value, gradient

    return Step(run)


def incoming(case: Case, x: Tensor) -> Tensor | None:
    """The gradient that comes into backward: dense for a map, 1 for a mean."""
    if case.loss.family != "map":
        return None
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.device, x.dtype)


def overwriting(function: Callable, x: Tensor, targets: list[Tensor], options: dict[str, Any]) -> Step:
    """With fresh logits for each call: not a leaf, as they come out of a layer."""
    fresh: list[Tensor] = []

    def prepare() -> None:
        fresh[:] = [x.clone()]

    def run() -> tuple[Tensor, Tensor | None]:
        value = function(fresh[0], *targets, **options)
        if not x.requires_grad:
            return value, None
        return value, torch.autograd.grad(value, fresh)[0]  # and not on into the clone

    return Step(run, prepare)


def transferring(case: Case, function: Callable, x: Tensor, targets: list[Tensor], options: dict[str, Any]) -> Step:
    """With tensors that start and end in the CPU's memory."""

    def run() -> tuple[Tensor, Tensor | None]:
        there = x.to(case.device)
        others = [t.to(case.device) for t in targets]
        if case.direction == "forward":
            return function(there, *others, **options).cpu(), None
        value = function(there.requires_grad_(), *others, **options)
        value.backward(incoming(case, there))
        return value.cpu(), there.grad.cpu()

    return Step(run)
