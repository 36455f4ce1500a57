"""A trial as a script of its own, to be pasted into a bug report."""

from __future__ import annotations

import functools
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .trial import Trial, Unsupported, describe, first_lines


def script(trial: Trial, fn: Callable, name: str) -> str:
    """The trial as a program of its own, to be pasted into a bug report."""
    results, error = [], None
    try:
        results, error = trial.results(fn)
    except Unsupported as e:
        error = e
    lines = ["import torch", "from math import inf, nan", imported(fn, name), ""]
    lines += [*sources(trial.program), trial.big or inputs_of(trial), ""]
    call = ", ".join(["x", *["t"] * (trial.make()[1] is not None), *(f"{k}={v}" for k, v in options_of(trial, lines))])
    lines += ["def f(x, t):", f"    return {name}({call})", ""]
    if "f.options" in inspect.getsource(trial.program):
        lines += [f"f.options = {{{', '.join(f'{k!r}: {v}' for k, v in options_of(trial, []))}}}", ""]
    lines += [f"print({trial.program.__name__}(f, x, t))"]
    outcome = f"raises {type(error).__name__}: {first_lines(error)}" if error else describe(results)
    lines += [comment("is:        " + outcome)]
    if trial.error is not None:
        lines += [comment(f"should be: {trial.error.__name__}")]
    elif trial.expected is not None and not error:
        lines += [comment("should be: " + describe(trial.expectation(results)))]
    elif trial.expected is not None:
        lines += ["# should be: a result"]
    return "\n".join(lines) + "\n"


def inputs_of(trial: Trial) -> str:
    x, t = trial.make()
    return f"x = {literal(x)}" + ("\nt = None" if t is None else f"\nt = {literal(t)}")


def options_of(trial: Trial, lines: list[str]) -> list[tuple[str, str]]:
    """The keyword arguments as code; tensors become lines of their own."""
    pairs = []
    for key, value in trial.options.items():
        if torch.is_tensor(value):
            lines.append(f"{key} = {literal(value)}")
        pairs.append((key, key if torch.is_tensor(value) else repr(value)))
    if any(torch.is_tensor(v) for v in trial.options.values()):
        lines.append("")
    return pairs


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
    if 0 in x.stride():
        once = x.detach()[tuple(slice(0, None if step else 1) for step in x.stride())].contiguous()
        return f"{literal(once)}.expand({tuple(x.shape)}){ends}"
    spread = f"torch.empty_strided({tuple(x.shape)}, {x.stride()}, dtype={x.dtype}{device})"
    if max(x.stride()) > 2**20:
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
        if value is torch:
            pass
        elif inspect.ismodule(value):
            imports[name] = f"import {value.__name__}" + ("" if name == value.__name__.split(".")[0] else f" as {name}")
        elif not callable(value):
            found[name] = f"{name} = {value!r}\n"
        elif value.__module__.startswith("torchloss.testing"):
            found[name] = ""
            visit(value)
            if inspect.isclass(value):
                for base in value.__bases__:
                    if base.__module__ != "builtins" and base.__name__ not in imports:
                        add(base.__name__, base)
        else:
            imports[name] = f"from {value.__module__} import {name}"

    visit(inspect.unwrap(program))
    return [*imports.values(), "", *found.values()]


def names_in(code: types.CodeType) -> set[str]:
    inner = [names_in(c) for c in code.co_consts if inspect.iscode(c)]
    return set(code.co_names).union(*inner)
