"""`python -m torchloss demo`: run all experiments, write the report, show the table."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import torchloss
from torchloss.arguments import Refusal, file_in_folder
from torchloss.lab import cost, findings, rates, report, robust, story, train
from torchloss.lab.notes import notes
from torchloss.lab.summary import Results, Row, Setting, table

LIBRARIES = {train.TORCH: torch.nn, train.OURS: torchloss}


@dataclass(frozen=True)
class Options:
    """The command's options."""

    out: Path
    force: bool
    quick: bool
    threads: int
    seed: int
    json: bool

    def command(self) -> str:
        """The command that does this again."""
        words = ["python", "-m", "torchloss", "demo", "--out", str(self.out), "--seed", str(self.seed)]
        words += ["--threads", str(torch.get_num_threads())]
        return shlex.join(words + ["--quick"] * self.quick)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    digit_steps: int = 800
    text_steps: int = 400
    logits: tuple[tuple[int, int, int], ...] = (
        (64, 10, 200),
        (1024, 256, 200),
        (512, 32000, 25),
    )  # rows, classes, times
    fit_steps: int = 300
    fit_seeds: int = 5
    batches: tuple[int, ...] = (4, 16, 64, 256, 1024)
    rates: tuple[float, ...] = tuple(2.0**k for k in range(-11, 5))
    rate_steps: int = 120
    rate_seeds: int = 5


QUICK = Size(20, 3, ((64, 10, 5), (64, 1000, 5)), 40, 2, (4, 64), tuple(2.0**k for k in range(-7, 4, 2)), 80, 1)


def demo(options: Options) -> None:
    """Everything the command does."""
    if find_spec("pydoc_data") is None:
        raise Refusal(
            "this Python came without its help texts (pydoc_data), which the demo reads; "
            "install its full standard library"
        )
    out = checked(options.out, options.force)
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = Setting(options.command(), options.seed, options.quick)
    start = perf_counter()
    results = run(QUICK if options.quick else Size(), setting)
    setting.seconds = perf_counter() - start
    rows = table(results)
    try:
        report.write(out, report.page(setting, findings.lead(results, rows), rows, story.sections(results)))
    except OSError as error:
        sys.exit(f"torchloss: the report could not be written: {error}")
    if options.json:
        print(json.dumps(finite(asdict(results) | {"report": str(out)}), allow_nan=False))
    else:
        show(rows, out, setting)


def checked(out: Path, force: bool) -> Path:
    """The report's place, looked at before minutes are spent."""
    out = file_in_folder("--out", out.expanduser().resolve(), "report.html")
    if not force and report.foreign(out):
        raise Refusal(
            f"{out} exists and is not a report of this demo; choose another --out, or --force to overwrite it"
        )
    if not report.writable(out):
        raise Refusal(f"cannot write into {out.parent}; choose another --out")
    return out


def run(size: Size, setting: Setting) -> Results:
    """All experiments, under a progress bar where there is a terminal to show it."""
    seed = setting.seed
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:

        def track(work: range | list, name: str):
            return progress.track(work, description=name)

        costs = {f"{n} x {c}": cost.compare(LIBRARIES, n, c, times, track) for n, c, times in size.logits}
        torch.set_num_threads(1)  # so that what is learnt does not depend on --threads
        wall, busy = perf_counter(), process_time()
        digits = train.digits(LIBRARIES, size.digit_steps, seed, track)
        text, sample = train.text(LIBRARIES, size.text_steps, seed, track)
        outliers = robust.robust(LIBRARIES, size.fit_steps, size.fit_seeds, seed, track)
        seeds = [seed + k for k in range(size.rate_seeds)]
        grid = rates.grid(torchloss, list(size.batches), list(size.rates), size.rate_steps, seeds, track)
        setting.core_share = (process_time() - busy) / (perf_counter() - wall)
        return Results(setting, digits, text, sample, costs, outliers, grid, notes(LIBRARIES, seed))


def show(rows: list[Row], out: Path, setting: Setting) -> None:
    """The table and the report's path."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    view = Table("", "", title=f"torchloss against torch.nn ({setting.seconds:.0f} s)", title_justify="left")
    for name in ("torch.nn", "torchloss"):
        view.add_column(name, justify="right")
    view.add_column("compared")
    part = None
    for row in rows:
        if row.part != part:
            view.add_section()
        view.add_row(row.part if row.part != part else "", row.quantity, row.torch, row.ours, row.relation)
        part = row.part
    console.print(view)
    if setting.busy():
        print(setting.busy())
    print(f"report: {out}")


def finite(value: object) -> object:
    """JSON knows neither nan nor infinity: null instead."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
