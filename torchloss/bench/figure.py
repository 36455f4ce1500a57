"""The results as a drawing: bars for cases, curves for series, the memory limit in both."""

from __future__ import annotations

from math import floor, log10
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchloss.bench.harness import Result
from torchloss.bench.record import Record

COLOURS = {
    "torchloss": "#0072b2",
    "eager": "#e69f00",
    "compile": "#009e73",
    "liger": "#cc79a7",
    "quack": "#d55e00",
    "cce": "#56b4e9",
    "apex": "#999999",
}
LINES = {("cpu", ""): "-", ("cuda", ""): "--", ("cuda", "transfer"): ":"}
STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "torchloss",
    "svg.fonttype": "none",
}


def draw(record: Record, path: Path) -> None:
    """The same record gives the same file."""
    with matplotlib.rc_context(STYLE):
        series = sorted({r.series for r in record.results if r.series})
        figure = curves(record.results, series) if series else bars(record.results)
        figure.suptitle(title(record), fontsize=7)
        figure.savefig(path, format="svg", metadata={"Date": None})


def title(record: Record) -> str:
    names = ("gpu", "processor", "torch", "torchloss")
    return ", ".join(f"{n} {record.machine[n]}" for n in names if n in record.machine) + f", {record.date}"


def bars(results: list[Result]) -> Figure:
    """A group of bars per case, with the quartiles and the limit as a line across them."""
    figure = Figure((8, 1.2 + 0.16 * sum(len(r.entries) + 1 for r in results)), layout="constrained")
    ax, y, ticks = figure.subplots(), 0, []
    for result in results:
        top = y
        for entry in (e for e in result.entries if e.ms):
            low, middle, high = entry.ms[1:]
            error = [[max(middle - low, 0)], [max(high - middle, 0)]]
            label = entry.rival if entry.rival not in ax.get_legend_handles_labels()[1] else None
            ax.barh(y, middle, 0.9, color=COLOURS[entry.rival], xerr=error, error_kw={"lw": 0.6}, label=label)
            y += 1
        if y > top:
            label = None if ticks else "limit"
            ax.plot([result.limit_ms] * 2, [top - 0.6, y - 0.4], color="black", lw=1.2, label=label)
        ticks.append(((top + y - 1) / 2, f"{result.case}, {result.threads} threads"))
        y += 1
    ax.set_yticks(*zip(*ticks, strict=True))
    ax.set(xlabel="ms", xscale="log", xlim=(10 ** floor(log10(min(r.limit_ms for r in results))), None))
    ax.invert_yaxis()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=8, frameon=False)
    return figure


def curves(results: list[Result], series: list[str]) -> Figure:
    """A panel per series: how the time grows with the size."""
    figure = Figure((4 * len(series), 4), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(series), squeeze=False)[0], series, strict=True):
        mine = [r for r in results if r.series == name]
        for kind in dict.fromkeys((r.device, r.variant, r.direction, r.threads) for r in mine):
            grow(ax, kind, [r for r in mine if (r.device, r.variant, r.direction, r.threads) == kind])
        ax.set(title=name, xlabel="elements", ylabel="ms", xscale="log", yscale="log")
        ax.legend(frameon=False, fontsize=6)
    return figure


def grow(ax: Axes, kind: tuple[str, str, str, int], results: list[Result]) -> None:
    """The curve of each rival on one device, and the limit's."""
    device, variant, direction, threads = kind
    where = " ".join(filter(None, (device, variant, direction, f"{threads} threads" if device == "cpu" else "")))
    for rival in dict.fromkeys(e.rival for r in results for e in r.entries if e.ms):
        points = [(r.elements, r.entry(rival)) for r in results if r.entry(rival)]
        sizes, entries = zip(*points, strict=True)
        line = LINES.get((device, variant), "-")
        ax.plot(sizes, [e.median for e in entries], line, color=COLOURS[rival], lw=1.2, label=f"{rival}, {where}")
        ax.fill_between(sizes, [e.ms[1] for e in entries], [e.ms[3] for e in entries], color=COLOURS[rival], alpha=0.2)
    if not variant:
        limits = [r.limit_ms for r in results]
        ax.plot([r.elements for r in results], limits, color="black", lw=0.8, label=f"limit, {where}")
