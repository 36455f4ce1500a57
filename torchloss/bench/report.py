"""The results as a table."""

from __future__ import annotations

from torchloss.bench.harness import Entry, Result
from torchloss.bench.record import Record

COLUMNS = ("case", "rival", "ms", "ratio", "x limit", "GB/s", "peak MB", "value", "gradient")
TITLE = (
    "ms: median (quartiles). ratio: a rival's time over torchloss's. limit: the least bytes at the memory's speed in\n"
    "the same rounds. GB/s: those bytes in the time taken. peak: memory above what was live. errors: against float64"
)


def spread(ms: list[float]) -> str:
    return f"{ms[2]:.3g} ({ms[1]:.3g}..{ms[3]:.3g})"


def error(value: float | str | None) -> str:
    return f"{value:.0e}" if isinstance(value, float) else str(value or "")


def cells(result: Result, entry: Entry) -> tuple[str, ...]:
    """A rival's line, from its name on."""
    if not entry.ms:
        return (entry.rival, f"not measured: {entry.reason}", *[""] * (len(COLUMNS) - 3))
    ours = result.entry("torchloss")
    return (
        entry.rival,
        spread(entry.ms),
        f"{entry.median / ours.median:.2f}" if ours else "",
        f"{entry.median / result.limit_ms:.2f}",
        f"{(result.read_bytes + result.write_bytes) / entry.median / 1e6:.3g}",
        "" if entry.peak_bytes is None else f"{entry.peak_bytes / 1e6:.3g}",
        error(entry.value_error),
        error(entry.gradient_error),
    )


def lines(result: Result) -> list[tuple[str, ...]]:
    """The case's lines: its rivals, then the limit."""
    name = f"{result.case}, {result.threads} threads" if result.device == "cpu" else result.case
    first, *rest = [cells(result, entry) for entry in result.entries]
    memory = f"copy {result.copy_gbs:.3g}, read {result.read_gbs:.3g}"
    last = ("limit", f"{result.limit_ms:.3g}", "", "", memory, "", "", "")
    return [(name, *first), *(("", *line) for line in [*rest, last])]


def losing(result: Result, line: tuple[str, ...]) -> bool:
    return bool(line[3]) and float(line[3]) < 1


def show(record: Record) -> None:
    """As a table; as lines where rich is not installed."""
    print(", ".join(f"{name} {fact}" for name, fact in record.machine.items()))
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        plain(record)
        return
    table = Table(title=TITLE, title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:2] else "right", no_wrap=name != "case")
    for result in record.results:
        for line in lines(result):
            table.add_row(*map(Text, line), style="red" if losing(result, line) else "")
        table.add_section()
    Console(width=None if Console().is_terminal else 170).print(table)


def plain(record: Record) -> None:
    print(TITLE, "  ".join(COLUMNS), sep="\n")
    for result in record.results:
        case, *_ = head = lines(result)[0]
        print(case)
        for line in [head, *lines(result)[1:]]:
            print("   ", "  ".join(filter(None, line[1:])))


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
