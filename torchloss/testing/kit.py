"""The conformance kit: every check of the battery, put to one loss.

A check is a function `check(f, x, t)`, its program, whose docstring says what holds if it passes. Where it is run (on
which losses of the table, shapes, dtypes) and what must come of it are told by the decorator. The program and its
inputs are also what a failure prints, as a script that shows it without the kit.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .losses import DTYPES, EVERY, Loss
from .report import Row
from .trial import Failure, Trial, Unsupported, bound

SHAPES = [
    (1, 1),
    (2, 3),
    (7, 1),
    (5, 3),
    (12,),
    (4, 10, 6),
    (7, 33),
    (3, 1000),
    (2, 67, 3, 5),
    (2, 5, 3, 4),
]

PRINTED = 128  # larger inputs are not printed number by number, but made again


@dataclass(frozen=True)
class Problem:
    """The function under test, and what it is tried on."""

    fn: Callable
    like: str
    losses: tuple[Loss, ...]  # rows of the table: the same function with other options
    device: str = "cpu"
    dtypes: tuple[torch.dtype, ...] = DTYPES

    @property
    def main(self) -> torch.dtype:
        """The dtype in which derivatives and modes are tried: the most exact."""
        return max(self.dtypes, key=lambda d: -torch.finfo(d).eps)

    @property
    def few(self) -> tuple[Loss, ...]:
        """One of each operator: for what takes long."""
        return tuple({loss.op: loss for loss in reversed(self.losses)}.values())


def inputs(loss: Loss, shape, dtype, device, seed=0, batch=0, leaves=True, target_grad=False):
    """A sample, or a stack of `batch` samples."""
    samples = [loss.sample(shape, seed + i) for i in range(batch or 1)]
    x, t = (None if s[0] is None else torch.stack(s) if batch else s[0] for s in zip(*samples, strict=True))
    x = x.to(device, dtype)
    t = t if t is None else t.to(device, dtype if t.is_floating_point() else None)
    return x.requires_grad_(leaves), t.requires_grad_() if target_grad else t


def exact(x: Tensor | None) -> Tensor | None:
    """The same numbers in float64, as a leaf of their own, or as int64."""
    if x is None or not x.is_floating_point():
        return x if x is None else x.long().contiguous()
    return x.detach().double().contiguous().requires_grad_(x.requires_grad)


def against_torch(
    program: Callable, loss: Loss, make: Callable, options: dict[str, Any], reference: Callable | None = None, **fields
) -> Trial:
    """A trial whose results must be those of torch's loss, run on the same numbers in float64."""

    def expected(_):
        wide = {k: exact(v) if torch.is_tensor(v) else v for k, v in options.items()}
        return (reference or program)(bound(loss.reference, wide), *map(exact, make()))

    return Trial(program, make, options, expected, **fields)


@dataclass(frozen=True)
class Check:
    """A program and where it is run. `run(problem)` gives its trials, the small ones first."""

    program: Callable
    group: str
    trials: Callable[[Problem], Iterable[Trial]]
    slow: bool = False
    row_each: bool = False  # a row for each trial, not one for all

    @property
    def name(self) -> str:
        return self.program.__name__

    @property
    def promise(self) -> str:
        return (self.program.__doc__ or "").strip().splitlines()[0]

    def run(self, problem: Problem, name: str = "") -> list[Row]:
        if not self.row_each:
            return [self._row(self.trials(problem), problem, name)]
        return [
            self._row([trial], problem, name, i)._replace(name=f"{self.name.replace('_', ' ')}: {trial.where}")
            for i, trial in enumerate(self.trials(problem))
        ]

    def _row(self, trials: Iterable[Trial], problem: Problem, name: str, first: int = 0) -> Row:
        """The first failure decides."""
        start, ran, unsupported = time.perf_counter(), 0, {}
        row = Row(self.name, self.group, self.promise, "not applicable")
        for i, trial in enumerate(trials, first):
            try:
                trial.run(problem.fn)
                ran += 1
            except Unsupported as reason:
                unsupported[str(reason)] = trial.where
            except Failure as failure:
                if trial.make()[0].numel() > PRINTED:
                    trial.big = made_again(self, problem, name or problem.like, i)
                row = row.failed(failure, trial, problem.fn, name or problem.like)
                break
        else:
            row = row._replace(outcome="pass" if ran else "not applicable", detail=f"{ran} trials" if ran else "")
            if unsupported:
                row = row._replace(detail=f"{row.detail}; without: {'; '.join(unsupported)}".lstrip("; "))
        return row._replace(seconds=time.perf_counter() - start)


CHECKS: dict[str, Check] = {}


def check(
    group: str,
    *,
    shapes: Iterable[tuple[int, ...]] = ((4, 5),),
    dtypes: Callable[[Problem], Iterable[torch.dtype]] = lambda p: (p.main,),
    reductions: str = "all",  # or "last": the last one of each loss, sum (or none, of a row mapped to a row)
    where: Callable[[Loss], bool] = lambda loss: True,
    few: bool = False,
    leaves: bool = True,
    target_grad: bool = False,
    batch: int = 0,
    reference: Callable | bool = True,  # what gives the expected results with torch's loss: the program itself, or
    tolerance: Callable | None = None,  # another one, or nothing, where the program asserts what must hold
    slow: bool = False,
    row_each: bool = False,
    trials: Callable[[Problem], Iterable[Trial]] | None = None,
):
    """Registers a program as a check."""

    def register(program: Callable) -> Callable:
        def product(p: Problem) -> Iterator[Trial]:
            for shape in shapes:
                for loss in p.few if few else p.losses:
                    if not where(loss):
                        continue
                    for dtype in dtypes(p):
                        for reduction in loss.reductions if reductions == "all" else loss.reductions[-1:]:
                            yield trial_of(p, loss, shape, dtype, reduction)

        def trial_of(p, loss, shape, dtype, reduction):
            make = functools.partial(inputs, loss, shape, dtype, p.device, 3, batch, leaves, target_grad)
            options = loss.options(shape, reduction, dtype, p.device)

            fields = {
                "where": f"{loss}, reduction={reduction}, {tuple(shape)}, {dtype}",
                "tolerance": tolerance,
                "dtype": dtype,
            }
            if not reference:
                return Trial(program, make, options, **fields)
            return against_torch(program, loss, make, options, reference if callable(reference) else program, **fields)

        CHECKS[program.__name__] = Check(program, group, trials or product, slow, row_each)
        return program

    return register


def made_again(check: Check, p: Problem, name: str, i: int) -> str:
    """The lines that make the inputs of a check's i-th trial again."""
    rows = f"[losses.EVERY[i] for i in {[EVERY.index(loss) for loss in p.losses]}]"
    return (
        "from torchloss.testing import CHECKS, Problem, losses\n\n"
        f"problem = Problem({name}, {p.like!r}, {rows}, {p.device!r}, {p.dtypes})\n"
        f'x, t = list(CHECKS["{check.name}"].trials(problem))[{i}].make()'
    )
