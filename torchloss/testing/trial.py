"""One trial of a loss: a short program, the tensors given to it, what must come of it, and all that as a script."""

from __future__ import annotations

import functools
import inspect
import textwrap
import types
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
    big: str | None = None  # the code that makes the inputs, where they are too large to print

    def run(self, fn: Callable) -> None:
        """Raises Failure, or Unsupported."""
        results, error = self._results(fn)
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
            for i, (mine, right) in enumerate(zip(results, self._expected(results), strict=True)):
                self._compare(f"result {i}: " if len(results) > 1 else "", mine, right)

    def _results(self, fn: Callable) -> tuple[list, Exception | None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return flat(self.program(bound(fn, self.options), *self.make())), None
            except Unsupported:
                raise
            except Exception as error:
                if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
                    raise Unsupported(str(error)) from error
                return [], error

    def _expected(self, results: list) -> list:
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

    def script(self, fn: Callable, name: str) -> str:
        """The trial as a program of its own, to be pasted into a bug report."""
        results, error = [], None
        try:
            results, error = self._results(fn)
        except Unsupported as e:
            error = e
        lines = ["import torch", "from math import inf, nan", imported(fn, name), ""]
        lines += [*sources(self.program), self.big or self._inputs(), ""]
        call = ", ".join(["x", *["t"] * (self.make()[1] is not None), *(f"{k}={v}" for k, v in self._options(lines))])
        lines += ["def f(x, t):", f"    return {name}({call})", "", f"print({self.program.__name__}(f, x, t))"]
        outcome = f"raises {type(error).__name__}: {first_lines(error)}" if error else describe(results)
        lines += [comment("is:        " + outcome)]
        if self.error is not None:
            lines += [comment(f"should be: {self.error.__name__}")]
        elif self.expected is not None and not error:
            lines += [comment("should be: " + describe(self._expected(results)))]
        elif self.expected is not None:
            lines += ["# should be: a result"]
        return "\n".join(lines) + "\n"

    def _inputs(self) -> str:
        x, t = self.make()
        return f"x = {literal(x)}" + ("\nt = None" if t is None else f"\nt = {literal(t)}")

    def _options(self, lines: list[str]) -> list[tuple[str, str]]:
        """The keyword arguments as code; tensors become lines of their own."""
        pairs = []
        for key, value in self.options.items():
            if torch.is_tensor(value):
                lines.append(f"{key} = {literal(value)}")
            pairs.append((key, key if torch.is_tensor(value) else repr(value)))
        if any(torch.is_tensor(v) for v in self.options.values()):
            lines.append("")
        return pairs


def bound(fn: Callable, options: dict[str, Any]) -> Callable:
    """The loss as a function of an input and a target, or of an input and None."""

    def f(x: Tensor, t: Tensor | None = None) -> Tensor:
        return fn(x, **options) if t is None else fn(x, t, **options)

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


def comment(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="#     "))


def literal(x: Tensor) -> str:
    """Code that makes the tensor again, contiguous or not."""
    grad = ", requires_grad=True" if x.requires_grad else ""
    device = f', device="{x.device}"' if x.device.type != "cpu" else ""
    values = x.detach().cpu()
    made = f"torch.tensor({numbers(values)}, dtype={x.dtype}"
    if x.numel() == 0:
        made = f"torch.empty({tuple(x.shape)}, dtype={x.dtype}"
    if x.is_contiguous():
        return f"{made}{device}{grad})"
    ends = ".requires_grad_()" if grad else ""
    spread = f"torch.empty_strided({tuple(x.shape)}, {x.stride()}, dtype={x.dtype}{device})"
    if 0 in x.stride() or max(x.stride()) > 2**20:
        return f"{made}{device}){ends}  # here with the strides {x.stride()}"
    return f"{spread}.copy_({made})){ends}"


def numbers(x: Tensor) -> str:
    """As nested lists, with the digits that the dtype needs."""
    if not x.is_floating_point() or x.dtype == torch.float64:
        return str(x.tolist())
    if x.dim():
        return f"[{', '.join(map(numbers, x))}]"
    return f"{x.item():.9g}"


def imported(fn: Callable, name: str) -> str:
    """The line that imports the function, if it can be imported; what its `source` says otherwise."""
    if hasattr(fn, "source"):
        return fn.source
    if (
        isinstance(fn, functools.partial)
        or "<" in getattr(fn, "__qualname__", "<")
        or not getattr(fn, "__module__", None)
    ):
        return f"{name} = ...  # the function under test"
    module = "torch.nn.functional" if fn.__module__ == "torch._C._nn" else fn.__module__
    return f"from {module} import {fn.__qualname__}" + ("" if name == fn.__qualname__ else f" as {name}")


def sources(program: Callable) -> list[str]:
    """The source of a program, after that of what it uses of this package, after the imports of what it uses else."""
    imports: dict[str, str] = {}
    found: dict[str, str] = {}

    def visit(thing: Any) -> None:
        functions = [f for f in vars(thing).values() if inspect.isfunction(f)] if inspect.isclass(thing) else [thing]
        for function in functions:
            for name in names_in(function.__code__):
                if name in function.__globals__ and name not in found and name not in imports:
                    add(name, function.__globals__[name])
        source = textwrap.dedent(inspect.getsource(thing))
        start = source.index("class " if inspect.isclass(thing) else "def ")  # without decorators
        found.pop(thing.__name__, None)
        found[thing.__name__] = source[start:] + "\n"

    def add(name: str, value: Any) -> None:
        if inspect.ismodule(value):
            imports[name] = f"import {value.__name__}" + ("" if name == value.__name__.split(".")[0] else f" as {name}")
        elif not callable(value):
            found[name] = f"{name} = {value!r}\n"
        elif value.__module__.startswith("torchloss.testing"):
            found[name] = ""
            visit(value)
            if inspect.isclass(value):
                for base in value.__bases__:
                    if (
                        base.__module__ != "builtins"
                        and base.__name__ not in imports
                        and base.__module__ != "torch.nn.modules.module"
                    ):
                        add(base.__name__, base)
        else:
            imports[name] = f"from {value.__module__} import {name}"

    visit(inspect.unwrap(program))
    return [*imports.values(), "", *found.values()]


def names_in(code: types.CodeType) -> set[str]:
    inner = [names_in(c) for c in code.co_consts if inspect.iscode(c)]
    return set(code.co_names).union(*inner)
