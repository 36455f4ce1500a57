"""`python -m torchloss bench`: what is asked for, checked, measured and shown."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from torchloss.arguments import Refusal, devices_of, dtypes_of, file_in_folder
from torchloss.bench import harness
from torchloss.bench.cases import DIRECTIONS, SETS, Case, cases
from torchloss.bench.machine import machine
from torchloss.bench.record import Record
from torchloss.bench.report import show
from torchloss.bench.rivals import RIVALS


@dataclass
class Options:
    """The command's options; what is empty is the set's own choice."""

    set: str = "main"
    only: str = ""
    device: str = "all"
    dtype: str = ""
    direction: str = ""
    threads: str = ""
    rivals: str = ""
    seconds: float = 0.0
    json: Path | None = None
    svg: Path | None = None
    minutes: float = 0.0  # after which no other case is begun


def bench(options: Options) -> None:
    """Measures and shows. What was measured before an interrupt is shown and written too."""
    devices, threads = devices_of(options.device), threads_of(options.threads)
    (name,) = names_of("--set", options.set, SETS)
    chosen = SETS[name]
    dtypes = dtypes_of(options.dtype) if options.dtype else ()
    rivals = names_of("--rivals", options.rivals, RIVALS) or chosen.rivals
    todo = cases(chosen, devices, dtypes, names_of("--direction", options.direction, DIRECTIONS))
    todo = [case for case in todo if matches(options.only, str(case))]
    if not todo:
        raise Refusal(f"--only {options.only!r} leaves no case of the set {name}")
    for option, path in (("--json", options.json), ("--svg", options.svg)):
        if path:
            file_in_folder(option, path, f"bench.{option[2:]}")
    if options.svg:
        require_matplotlib()
    record = Record(machine(devices))
    try:
        limits = (options.seconds or chosen.seconds, chosen.exact, 60 * options.minutes)
        run(record, todo, threads, (rivals, bool(options.rivals)), limits)
    except KeyboardInterrupt:
        print("interrupted: what follows is what was measured before", file=sys.stderr)
    finish(record, options)


def finish(record: Record, options: Options) -> None:
    """Shows and writes the record."""
    show(record)
    if not any(r.device == "cuda" for r in record.results):
        seen = torch.cuda.is_available()
        print("CUDA: not measured, " + ("not asked for" if seen else "PyTorch sees no GPU here"))
    if options.json:
        record.write(options.json)
        print(f"written to {options.json}")
    if options.svg:
        from torchloss.bench.figure import draw

        draw(record, options.svg)
        print(f"drawn in {options.svg}")


def run(record: Record, todo: list[Case], threads: list[int], rivals: tuple, limits: tuple) -> None:
    """Measures every case with every number of threads, a GPU's with the first alone."""
    names, asked = rivals
    seconds, exact, most = limits
    before, start = torch.get_num_threads(), monotonic()
    todo = [(n, case) for n in threads for case in todo if case.device == "cpu" or n == threads[0]]
    try:
        for done, (n, case) in enumerate(todo):
            if most and monotonic() - start > most:
                print(f"out of time: {len(todo) - done} of {len(todo)} cases are not measured, from {case} on")
                break
            torch.set_num_threads(n)
            progress(f"{done + 1}/{len(todo)} {case}")
            mine = [r for r in names if asked or runs_on(r, case.device)]
            record.results.append(harness.quietly(harness.measure, case, mine, seconds, case.elements <= exact))
    finally:
        torch.set_num_threads(before)
        progress("")


def runs_on(rival: str, device: str) -> bool:
    return device == "cuda" or rival in ("torchloss", "eager", "compile")


def progress(text: str) -> None:
    """A line that the next overwrites, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def names_of(option: str, names: str, known: object) -> tuple[str, ...]:
    chosen = tuple(filter(None, names.split(",")))
    unknown = [n for n in chosen if n not in known]
    if unknown:
        raise Refusal(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
    return chosen


def threads_of(numbers: str) -> list[int]:
    """Numbers of threads, PyTorch's own if none or 0 is given."""
    try:
        chosen = [int(n) for n in numbers.split(",")] if numbers else [0]
    except ValueError:
        chosen = [-1]
    if min(chosen) < 0:
        raise Refusal(f"--threads: {numbers!r} is not numbers with commas, such as 1,2,4")
    return [n or torch.get_num_threads() for n in chosen]


def matches(only: str, case: str) -> bool:
    """Whether the text is in the case's name, or matches it as a regular expression."""
    try:
        return only in case or re.search(only, case) is not None
    except re.error:
        return False


def require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise Refusal('--svg needs matplotlib: pip install "torchloss[bench]"') from None
