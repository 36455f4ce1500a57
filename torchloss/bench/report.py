"""The results as a table."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest

from torchloss.bench.harness import Entry, Result
from torchloss.bench.record import Record

COLUMNS = ("case", "rival", "ms", "ratio", "x limit", "GB/s", "of copy", "peak MB", "value", "gradient")
QUIET = 0.2  # processors that others may use
TITLE = (
    "ms: median (quartiles). ratio: a rival's time over torchloss's. limit: the least bytes at the memory's speed in\n"
    "the same rounds. GB/s: those bytes in the time taken; of copy: relative to a copy's. peak: memory above what was\n"
    "live. errors: against float64"
)


def spread(ms: list[float]) -> str:
    return f"{ms[2]:.3g} ({ms[1]:.3g}..{ms[3]:.3g})"


def error(value: float | str | None) -> str:
    return f"{value:.0e}" if isinstance(value, float) else str(value or "")


def cells(result: Result, entry: Entry) -> tuple[str, ...]:
    """A rival's line, from its name on."""
    if not entry.ms:
        return (entry.rival, "not measured", *[""] * (len(COLUMNS) - 3))
    ours = result.entry("torchloss")
    speed = (result.read_bytes + result.write_bytes) / entry.median / 1e6
    return (
        entry.rival,
        spread(entry.ms),
        f"{entry.median / ours.median:.2f}" if ours else "",
        f"{entry.median / result.limit_ms:.2f}",
        f"{speed:.3g}",
        f"{speed / result.copy_gbs:.0%}" if result.copy_gbs else "",
        "" if entry.peak_bytes is None else f"{entry.peak_bytes / 1e6:.3g}",
        error(entry.value_error),
        error(entry.gradient_error),
    )


def lines(result: Result) -> list[tuple[str, ...]]:
    """The case's lines: its rivals, then the limit; the case's name stands beside them."""
    where = f"{result.device} {result.direction}" + (f", {result.threads} threads" if result.device == "cpu" else "")
    names = [result.name, f"{'x'.join(map(str, result.shape))} {result.dtype}", where]
    rivals = [cells(result, entry) for entry in result.entries]
    memory = f"copy {result.copy_gbs:.3g}, read {result.read_gbs:.3g}"
    rivals.append(("limit", f"{result.limit_ms:.3g}", "", "", memory, "", "", "", ""))
    empty = ("",) * (len(COLUMNS) - 1)
    return [(name or "", *(line or empty)) for name, line in zip_longest(names, rivals)]


def missing(results: list[Result]) -> list[str]:
    """Why there are no figures: a line for each rival and reason."""
    reasons = Counter((e.rival, e.reason) for r in results for e in r.entries if not e.ms)
    return [f"not measured: {rival}: {reason} ({n} cases)" for (rival, reason), n in reasons.items()]


def disturbed(results: list[Result]) -> list[str]:
    """A warning, if other programs took part."""
    worst = [r.others for r in results if r.others > QUIET]
    if not worst:
        return []
    return [f"warning: in {len(worst)} of {len(results)} cases others kept up to {max(worst):.1f} processors busy"]


def losing(result: Result, line: tuple[str, ...]) -> bool:
    """Whether the rival of the line is faster than torchloss."""
    return bool(line[3]) and float(line[3]) < 1


def show(record: Record) -> None:
    """The machine, the table and what is missing in it."""
    print(", ".join(f"{name} {fact}" for name, fact in record.machine.items()))
    try:
        coloured(record)
    except ModuleNotFoundError:  # rich
        plain(record)
    for line in [*missing(record.results), *disturbed(record.results), *crossover(record.results)]:
        print(line)


def coloured(record: Record) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=TITLE, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:2] else "right")
    for result in record.results:
        for line in lines(result):
            table.add_row(*map(Text, line), style="red" if losing(result, line) else "")
        table.add_section()
    Console(width=None if Console().is_terminal else 160).print(table)


def plain(record: Record) -> None:
    rows = [COLUMNS, *(line for result in record.results for line in lines(result))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(TITLE)
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def crossover(results: list[Result]) -> list[str]:
    """From which size on the GPU is faster than the CPU, for each series, with and without the transfer."""
    found = []
    for series in sorted({r.series for r in results if r.series}):
        for variant in ("", "transfer"):
            cpu = {r.elements: r for r in results if r.series == series and r.device == "cpu"}
            gpu = [r for r in results if (r.series, r.device, r.variant) == (series, "cuda", variant)]
            found += [f"{series}: {first_faster(gpu, cpu)}, transfer {'in' if variant else 'ex'}cluded"] if gpu else []
    return found


def first_faster(gpu: list[Result], cpu: dict[int, Result]) -> str:
    for result in gpu:
        mine, theirs = result.entry("torchloss"), cpu.get(result.elements)
        theirs = theirs and theirs.entry("torchloss")
        if mine and theirs and mine.median < theirs.median:
            return f"CUDA is faster than the CPU from {result.elements} elements on"
    return "CUDA is not faster than the CPU at any size"
