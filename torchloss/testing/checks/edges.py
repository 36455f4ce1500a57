"""The table of edge cases, a row for each."""

from collections.abc import Iterator

import torch

from ..edge_cases import CASES, matches
from ..kit import Problem, check
from ..trial import Trial


def edges(p: Problem) -> Iterator[Trial]:
    for case in CASES:
        if case.function != p.like or (case.error and p.device != "cpu" and case.error[0] is IndexError):
            continue
        if case.input.dtype in (torch.float64, torch.float32, torch.float16) and case.input.dtype not in p.dtypes:
            continue
        if getattr(p.fn, "finite_only", False) and not case.input.isfinite().all():
            continue

        def make(case=case):
            x, t = (None if a is None else a.detach().to(p.device, copy=True) for a in (case.input, case.target))
            if x.is_floating_point():
                x.requires_grad_()
            if case.target_grad is not None:
                t.requires_grad_()
            return x, t

        def expected(results, case=case):
            wanted = (case.value, case.grad, case.target_grad)
            pairs = list(zip(results, wanted, strict=True))
            value, *grads = [None if right is None else matches(mine, right) for mine, right in pairs]
            return [value if value is None or case.dtype is None else value.to(case.dtype), *grads]

        options = {k: v.to(p.device) if torch.is_tensor(v) else v for k, v in case.options.items()}
        error = case.error and case.error[0]
        yield Trial(edge, make, options, expected, error, case.name, tolerance=edge_tolerance, warns=case.warns)


def edge_tolerance(mine, exact):
    """Zeros are exact."""
    return max(torch.finfo(mine.dtype).eps * 16, 1e-12) * exact.abs().nan_to_num(0, 0, 0)


@check("edges", trials=edges, row_each=True)
def edge(f, x, t):
    """torch's value and gradient, or its exception."""
    y = f(x, t)
    if y.requires_grad:
        y.sum().backward()
    return y, x.grad, None if t is None else t.grad
