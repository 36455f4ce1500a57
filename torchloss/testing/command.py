"""`python -m torchloss check`: the conformance kit on the command line."""

from __future__ import annotations

import faulthandler
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from torchloss.arguments import Refusal, device_of, dtypes_of, file_in_folder
from torchloss.testing import Problem, Report, Row, run, selected, table

COLOURS = {"pass": "green", "wrong": "bold red", "raises": "red", "not applicable": "dim"}


@dataclass
class Options:
    target: str
    like: str
    device: str
    dtype: str
    only: str
    slow: bool
    json: Path | None


def check(options: Options) -> bool:
    """Runs the checks and prints a row for each, then the scripts of those that failed. True if none did."""
    fn, name = load(options.target)
    problem = Problem(fn, options.like, rows_of(options.like), device_of(options.device), dtypes_of(options.dtype))
    names = checks_of(options)
    out = options.json and file_in_folder("--json", options.json, "rows.json")
    faulthandler.enable(sys.__stderr__)  # a crash names its place; the line above it names the check
    console = Console(highlight=False)
    rows: list[Row] = []
    for row in run(problem, names, name):
        if not rows or rows[-1].group != row.group:
            console.print(f"\n[bold]{row.group}[/bold]")
        show(console, row)
        rows.append(row)
    report = Report(options.target, options.like, options.device, rows)
    for row in report.failures:
        console.rule(row.name)
        console.print(Text(row.reproduction), soft_wrap=True)
    console.print(f"\n{report.summary}", soft_wrap=True)
    if out:
        out.write_text(report.to_json())
    return bool(report)


def show(console: Console, row: Row) -> None:
    console.print(Text(f"{row.outcome:15}", COLOURS[row.outcome]), Text(f"{row.name:38}"), row.promise, soft_wrap=True)
    if row.reproduction:
        console.print(Text(f"{'':16}{row.detail}  [{row.where}]", "dim"), soft_wrap=True)


def load(target: str) -> tuple[Callable, str]:
    """The function that `module:name` names, and what scripts call it. A class of modules becomes a function."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise Refusal(f"{target!r} is not of the form module:function, such as torch.nn.functional:cross_entropy")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        value = functools.reduce(getattr, name.split("."), importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        raise Refusal(f"no module is called {error.name!r} here; the folder you are in is searched too") from None
    except AttributeError as error:
        raise Refusal(str(error)) from None
    if not callable(value):
        raise Refusal(f"{target} is not a function but a {type(value).__name__}")
    if inspect.isclass(value):
        return as_function(value), "loss"
    return value, name.split(".")[-1]


def as_function(cls: type) -> Callable:
    """A class of modules as a function: options make the module, tensors call it."""

    def loss(*args, **options):
        return cls(**options)(*args)

    loss.source = (
        f"from {cls.__module__} import {cls.__qualname__}\n\n"
        f"def loss(*args, **options):\n    return {cls.__qualname__}(**options)(*args)"
    )
    return loss


def rows_of(like: str):
    try:
        return table(like)
    except ValueError as error:
        raise Refusal(f"--like: {error}") from None


def checks_of(options: Options) -> list[str]:
    try:
        return selected([w.strip() for w in options.only.split(",")] if options.only else None, options.slow)
    except ValueError as error:
        raise Refusal(f"--only: {error}") from None
