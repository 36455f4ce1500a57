"""One trial of a loss: a short program, the tensors given to it, what must come of it, and all that as a script."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

# How far float64, float32 ... results may be from those of the reference: rtol, and atol in units of the largest entry.
TOLERANCE = {
    torch.float64: (1e-9, 1e-11),
    torch.float32: (1e-5, 1e-5),
    torch.bfloat16: (2**-7, 2**-7),
    torch.float16: (2**-10, 2**-10),
}


class Unsupported(Exception):
    """Raise it from the function under test to say that it does not offer such a call: the trial does not apply."""


@dataclass
class Failure(Exception):
    kind: str  # "wrong": another result than expected; "raises": an exception instead of a result
    detail: str


Inputs = tuple[Tensor, "Tensor | None"]


@dataclass
class Trial:
    """`program(f, x, t)` run on a loss f: it returns tensors that must be `expected`, or asserts what must hold.

    `make` gives new inputs each time. `expected` is computed from the program's own results where these matter.
    """

    program: Callable[..., Any]
    make: Callable[[], Inputs]
    options: dict[str, Any] = field(default_factory=dict)
    expected: Callable[[list], Any] | None = None
    error: type[Exception] | None = None
    where: str = ""
    dtype: torch.dtype | None = None  # of the results; that of what is expected otherwise
    tolerance: Callable[[Tensor, Tensor], Tensor] | None = None  # of (ours, exact): how far each entry may be off
    warns: str | None = None  # how a warning must begin
    big: str | None = None  # the code that makes the inputs, where they are too large to print

    def run(self, fn: Callable) -> None:
        """Raises Failure, or Unsupported."""
        results, error = self.results(fn)
        if self.error is not None:
            if not isinstance(error, self.error):
                what = f"{type(error).__name__}: {error}" if error else describe(results)
                raise Failure("wrong", f"expected {self.error.__name__}, got {what}")
            return
        if isinstance(error, AssertionError):
            raise Failure("wrong", first_lines(error)) from error
        if error is not None:
            raise Failure("raises", f"{type(error).__name__}: {first_lines(error)}") from error
        if self.expected is not None:
            for i, (mine, right) in enumerate(zip(results, self.expectation(results), strict=True)):
                self._compare(f"result {i}: " if len(results) > 1 else "", mine, right)

    def results(self, fn: Callable) -> tuple[list, Exception | None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                results = flat(self.program(bound(fn, self.options), *self.make()))
            except Unsupported:
                raise
            except Exception as error:
                if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
                    raise Unsupported(str(error)) from error
                if type(error).__module__.startswith("torch._dynamo"):  # what the compiler tells of an Unsupported
                    self._ask(fn)
                return [], error
        if self.warns and not any(str(w.message).startswith(self.warns) for w in caught):
            return [], AssertionError(f"no warning that begins with: {self.warns}")
        return results, None

    def _ask(self, fn: Callable) -> None:
        """Raises Unsupported if the plain call does."""
        try:
            bound(fn, self.options)(*self.make())
        except Unsupported:
            raise
        except Exception:
            pass

    def expectation(self, results: list) -> list:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return flat(self.expected(results))

    def _compare(self, which: str, mine: Any, right: Any) -> None:
        if right is None:  # anything
            return
        if mine is None:
            raise Failure("wrong", f"{which}None, expected {describe([right])}")
        if mine.shape != right.shape:
            raise Failure("wrong", f"{which}shape {tuple(mine.shape)}, expected {tuple(right.shape)}")
        if mine.dtype != (dtype := self.dtype or right.dtype):
            raise Failure("wrong", f"{which}{mine.dtype}, expected {dtype}")
        ours, exact = mine.detach().double().cpu(), right.detach().double().cpu()
        exact = torch.where(exact.abs() > torch.finfo(dtype).max, exact.sign() * torch.inf, exact)  # as rounding does
        allowed = (self.tolerance or default_tolerance)(mine, exact)
        bad = ~((ours == exact) | (ours.isnan() & exact.isnan()) | ((ours - exact).abs() <= allowed))
        if bad.any():
            at = tuple(bad.nonzero()[0].tolist())
            share = f", {int(bad.sum())} of {bad.numel()} entries" if bad.numel() > 1 else ""
            raise Failure("wrong", f"{which}{ours[at].item():.9g}, expected {exact[at].item():.9g} at {at}{share}")


def bound(fn: Callable, options: dict[str, Any]) -> Callable:
    """The loss as a function of an input and a target, or of an input and None."""

    def f(x: Tensor, t: Tensor | None = None) -> Tensor:
        return fn(x, **options) if t is None else fn(x, t, **options)

    f.options = options
    return f


def default_tolerance(mine: Tensor, exact: Tensor) -> Tensor:
    rtol, atol = TOLERANCE[mine.dtype]
    finite = exact[exact.isfinite()].abs()
    largest = finite.max() if finite.numel() else 0
    return rtol * exact.abs().nan_to_num(0, 0, 0) + atol * largest + 8 * torch.finfo(mine.dtype).eps


def flat(results: Any) -> list:
    """A tensor, None, or tuples of such, as a list."""
    if results is None or torch.is_tensor(results):
        return [results]
    return [leaf for part in results for leaf in flat(part)]


def first_lines(error: BaseException, n: int = 2) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:n])[:300] if lines else type(error).__name__


def describe(results: list) -> str:
    """The results on one line, the long ones cut."""
    parts = []
    for r in results:
        if not torch.is_tensor(r):
            parts.append(repr(r))
            continue
        values = r.detach().reshape(-1)[:6].tolist()
        parts.append(f"{values if r.dim() else values[0]}{' ...' * (r.numel() > 6)} {str(r.dtype)[6:]}")
    return "; ".join(parts)
