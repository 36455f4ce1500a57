"""The benchmark as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch

from torchloss.arguments import devices_of, dtypes_of, file_in_folder
from torchloss.bench.harness import Timing, machine, run


@dataclass
class Options:
    device: str
    quick: bool
    dtype: str
    threads: int
    json: Path | None


def row(t: Timing) -> tuple[str, ...]:
    def spread(ms: tuple[float, float, float]) -> str:
        return f"{ms[1]:.3g} ({ms[0]:.3g}..{ms[2]:.3g})"

    return (
        t.case,
        t.dtype,
        t.device,
        spread(t.torch_ms),
        spread(t.torchloss_ms),
        f"{t.speedup:.2f}x",
        f"{t.limit_ms:.3g}",
        f"{t.torch_error:.0e}",
        f"{t.torchloss_error:.0e}",
    )


COLUMNS = ("case", "dtype", "device", "torch", "torchloss", "faster", "limit", "torch error", "torchloss error")
TITLE = "forward + backward, ms: median (quartiles); error of the gradient against float64"


def show(timings: list[Timing]) -> None:
    """As a table; as lines where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        print(TITLE, *("  ".join(r) for r in (COLUMNS, *map(row, timings))), sep="\n")
        return
    table = Table(title=TITLE)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:3] else "right")
    for timing in timings:
        table.add_row(*row(timing), style="red" if timing.speedup < 1 else "")
    Console(width=None if Console().is_terminal else 160).print(table)


def bench(options: Options) -> None:
    on, of = devices_of(options.device), dtypes_of(options.dtype)
    if options.json:
        file_in_folder("--json", options.json, "bench.json")
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = machine(on[-1])
    print(", ".join(f"{k} {v}" for k, v in facts.items()))
    timings = run(on, of, options.quick)
    show(timings)
    if "cuda" not in on:
        print("CUDA: not measured, " + ("PyTorch sees no GPU here" if options.device == "all" else "not asked for"))
    if options.json:
        record = {"date": date.today().isoformat(), "machine": facts, "timings": [asdict(t) for t in timings]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
        print(f"written to {options.json}")
