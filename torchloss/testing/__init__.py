"""What the losses are tested with, for your own losses too.

    from torchloss.testing import check_loss

    report = check_loss(my_cross_entropy, like="cross_entropy")
    print(report)  # a row per check, and for each that failed a script that shows it
    assert report

On the command line: ``python -m torchloss check my_module:my_cross_entropy --like cross_entropy``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from . import checks, losses  # noqa: F401
from .kit import CHECKS, Problem, inputs
from .losses import DTYPES, LOSSES
from .report import Report, Row
from .trial import Unsupported

__all__ = ["CHECKS", "Problem", "Report", "Row", "Unsupported", "check_loss", "inputs", "losses", "table"]


def check_loss(
    fn: Callable,
    like: str,
    *,
    device: str = "cpu",
    dtypes: Iterable[torch.dtype] = DTYPES,
    only: Iterable[str] | None = None,
    slow: bool = False,
    stop_at_first_failure: bool = False,
    name: str | None = None,
) -> Report:
    """Put a loss to every check of the battery.

    Args:
        fn: the loss, called as ``torchloss.functional``'s of the name ``like`` is, which is as torch's where torch has
            it: ``fn(input, target, reduction=..., ...)``. An option that it refuses with a ``TypeError``, or any call
            for which it raises :class:`Unsupported`, does not apply.
        like: the name of the loss that it should be.
        device: where the inputs lie.
        dtypes: the dtypes that it takes. Derivatives are tried in the most exact one, float64 if it is there.
        only: the names of the checks, or of groups of them, to run; all by default.
        slow: also those that start a C++ compiler.
        stop_at_first_failure: leave out what comes after a failure.
        name: what the scripts of failures call the loss; its own name by default.

    Returns:
        The rows: name, promise, outcome (``"pass"``, ``"wrong"``, ``"raises"``, ``"not applicable"``), what was wrong
        and a script that reproduces it. The report is true if none failed.

    Raises:
        ValueError: if there is no such loss or no such check.
    """
    problem = Problem(fn, like, table(like), str(device), tuple(dtypes))
    name = name or str(getattr(fn, "__name__", like)).replace("<lambda>", "loss")
    rows: list[Row] = []
    for row in run(problem, selected(only, slow), name):
        rows.append(row)
        if stop_at_first_failure and row.outcome in ("wrong", "raises"):
            break
    return Report(name, like, str(device), rows)


def run(problem: Problem, names: Iterable[str], name: str = "") -> Iterator[Row]:
    """The rows of some checks, one by one."""
    for check in names:
        yield from CHECKS[check].run(problem, name)


def table(like: str) -> tuple[losses.Loss, ...]:
    rows = tuple(loss for loss in LOSSES if loss.name == like)
    if not rows:
        raise ValueError(f"no loss is called {like!r}; there are: {', '.join(sorted({row.name for row in LOSSES}))}")
    return rows


def selected(only: Iterable[str] | None = None, slow: bool = False) -> list[str]:
    """The names of the checks to run."""
    if only is None:
        return [name for name, check in CHECKS.items() if slow or not check.slow]
    only = [only] if isinstance(only, str) else list(only)
    groups = {check.group for check in CHECKS.values()}
    for word in only:
        if word not in CHECKS and word not in groups:
            raise ValueError(f"no check or group of checks is called {word!r}; groups: {', '.join(sorted(groups))}")
    return [n for n, c in CHECKS.items() if n in only or (c.group in only and (slow or not c.slow))]
