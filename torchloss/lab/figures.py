"""The report's figures, drawn by matplotlib and handed over as SVG in a data URI."""

from __future__ import annotations

import math
from base64 import b64encode
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from torchloss.lab import rates
from torchloss.lab.cost import Cost
from torchloss.lab.notes import Saturation
from torchloss.lab.robust import FRACTIONS, LOSSES, Robust
from torchloss.lab.train import NUDGED, OURS, TORCH, Run

COLOURS = {TORCH: "#e69f00", OURS: "#0072b2", NUDGED: "#888888"}
LOSS_COLOURS = dict(zip(LOSSES, ("#d55e00", "#009e73", "#0072b2"), strict=True))
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "torchloss",
    "axes.titlesize": 9.5,
}


def panels(columns: int, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with a row of axes."""
    figure = Figure((9.4, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def encode(figure: Figure) -> str:
    """As the source of an <img>."""
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(file.getvalue()).decode()


def curves(runs: dict[str, Run]) -> str:
    """The loss of every step, and the distance from torch.nn's curve."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = panels(2)
        left.plot(runs[TORCH].losses, color=COLOURS[TORCH], lw=3.5, alpha=0.6, label=TORCH)
        left.plot(runs[OURS].losses, color=COLOURS[OURS], lw=0.9, label=OURS)
        left.set(xlabel="step", ylabel="training loss", title="The two loss curves, one upon the other", ylim=(0, None))
        for name in (NUDGED, OURS):
            gaps = [abs(a - b) or math.nan for a, b in zip(runs[name].losses, runs[TORCH].losses, strict=True)]
            right.semilogy(gaps, ".", ms=2.5, color=COLOURS[name], label=name)
        right.set(xlabel="step", ylabel="|difference|", title=f"Distance from the curve of {TORCH}")
        left.legend(frameon=False)
        right.legend(frameon=False, markerscale=3)
        return encode(figure)


def times(digits: dict[str, Run], text: dict[str, Run]) -> str:
    """Where the time of a step goes."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(2, 1.9)
        for ax, runs, title in zip(axes, (digits, text), ("a step on digits", "a step on text"), strict=True):
            for y, name in enumerate((OURS, TORCH)):
                step = sorted(runs[name].step)[len(runs[name].step) // 2] * 1e3
                loss = runs[name].loss_seconds() * 1e3
                ax.barh(y, loss, color=COLOURS[name])
                ax.barh(y, step - loss, left=loss, color="#dddddd")
                ax.annotate(f" loss {loss:.3g} ms", (step, y), va="center")
            ax.set(
                yticks=(0, 1),
                yticklabels=(OURS, TORCH),
                xlabel="ms",
                title=f"{title}: the loss coloured, the rest grey",
            )
            ax.margins(x=0.45)
        return encode(figure)


def costs(pairs: dict[str, dict[str, Cost]]) -> str:
    """Time and memory of the loss alone, torchloss as a percentage of torch.nn."""
    with matplotlib.rc_context(STYLE):
        figure, axes = panels(3, 1.0 + 0.55 * len(pairs))
        titles = ("time, forward and backward", "peak extra memory", "memory kept for backward")
        for column, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            for y, pair in enumerate(pairs.values()):
                percent, note = relative(pair[TORCH], pair[OURS])[column]
                ax.barh(y, min(percent, 300), color=COLOURS[OURS], height=0.6, alpha=0.3 if note else 1)
                form = ",.0f" if percent >= 100 else ".3g"
                label = f" {percent:{form}} %{note}" if percent else note
                ax.annotate(label, (min(percent, 300), y), va="center")
            ax.axvline(100, color=COLOURS[TORCH], lw=3)
            ax.set(yticks=range(len(pairs)), yticklabels=list(pairs) if ax is axes[0] else [], title=title)
            ax.set_xlabel(f"% of {TORCH}")
            ax.set_xlim(0, 1.35 * max(100, ax.get_xlim()[1]))
        return encode(figure)


def relative(one: Cost, two: Cost) -> list[tuple[float, str]]:
    """Time, peak and kept memory of `two` in percent of `one`, each with a reservation if there is one."""
    doubt = "\n no clear difference" if one.both.overlaps(two.both) else ""
    sizes = [(one.peak_bytes, two.peak_bytes), (one.saved_bytes, two.saved_bytes)]
    memory = [
        (0.0, " not measured") if None in pair or not pair[0] else (100 * pair[1] / pair[0], "") for pair in sizes
    ]
    return [(100 * two.both.median / one.both.median, doubt), *memory]


def robust(result: Robust) -> str:
    """How hard a point pulls, and what that does to the error."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = panels(2)
        for loss, colour in LOSS_COLOURS.items():
            left.plot(result.residuals, result.pull[loss], color=colour, label=loss)
            errors = result.errors[OURS][loss]
            means = [result.mean_error(OURS, loss, k) for k in range(len(FRACTIONS))]
            percent = [100 * fraction for fraction in FRACTIONS]
            right.plot(percent, means, "o-", color=colour, label=loss, ms=4)
            right.fill_between(percent, [min(e) for e in errors], [max(e) for e in errors], color=colour, alpha=0.15)
        left.set(
            xlabel="prediction - target",
            ylabel="dL / d prediction",
            title="How hard one point pulls at the line",
            ylim=(-4, 4),
        )
        right.set(
            xlabel="% of training targets spoiled",
            ylabel="error on clean rows",
            title="Mean over seeds, band: all seeds",
        )
        right.set_ylim(bottom=0)
        left.legend(frameon=False)
        right.legend(frameon=False)
        return encode(figure)


def heat(grid: rates.Grid) -> str:
    """Final training loss over learning rate x batch size, a panel per reduction."""
    with matplotlib.rc_context(STYLE | {"axes.spines.top": True, "axes.spines.right": True}):
        figure, axes = panels(2, 3.0)
        for ax, reduction in zip(axes, rates.REDUCTIONS, strict=True):
            shown = [[min(x, math.log(10)) for x in row] for row in grid.typical(reduction)]
            image = ax.imshow(shown, cmap="viridis_r", norm=Normalize(0, math.log(10)), aspect="auto", origin="lower")
            heat_marks(ax, grid, reduction)
            ax.set(xticks=range(0, len(grid.rates), 2), yticks=range(len(grid.batches)), yticklabels=grid.batches)
            ax.set_xticklabels([power(rate) for rate in grid.rates[::2]])
            ax.set(xlabel="learning rate", ylabel="batch size B", title=f'reduction="{reduction}"')
        bar = figure.colorbar(image, ax=axes, label="training loss at the end")
        bar.set_ticks([0, 0.5, 1, 1.5, 2, math.log(10)], labels=["0", "0.5", "1", "1.5", "2", "2.3 = guessing"])
        axes[0].legend(*axes[0].get_legend_handles_labels(), loc="lower left", fontsize=7.5, framealpha=0.9)
        return encode(figure)


def heat_marks(ax: Axes, grid: rates.Grid, reduction: str) -> None:
    """The best rate of each batch size, and the largest that still works."""
    best = [grid.rates.index(rate) for rate in grid.best(reduction)]
    edges = [(grid.rates.index(rate) + 0.5, b) for b, rate in enumerate(grid.usable(reduction)) if not math.isnan(rate)]
    ax.plot(best, range(len(best)), "o", mfc="white", mec="black", ms=7, label="best rate")
    for k, (x, b) in enumerate(edges):
        ax.plot([x, x], [b - 0.5, b + 0.5], color="#d50000", lw=3, label=None if k else "largest usable rate")


def power(rate: float) -> str:
    """A learning rate as a tick label."""
    return f"$2^{{{round(math.log2(rate))}}}$"


def saturation(result: Saturation) -> str:
    """Where gradients die, on a logarithmic axis."""
    looks = {
        f"cross entropy, right, {TORCH}": (COLOURS[TORCH], "-", 4.0),
        "cross entropy, right, exact": ("black", ":", 2.2),
        f"cross entropy, right, {OURS}": (COLOURS[OURS], "-", 1.3),
        f"cross entropy, wrong, {OURS}": ("#009e73", "-", 1.6),
        f"squared error, wrong, {OURS}": ("#cc79a7", "--", 1.6),
    }
    with matplotlib.rc_context(STYLE):
        figure, (ax,) = panels(1, 3.6)
        for name, (colour, line, width) in looks.items():
            values = [pull or math.nan for pull in result.pulls[name]]
            ax.semilogy(result.margins, values, line, color=colour, lw=width, label=name)
            dead = result.dead_from(name)
            if dead is not None:
                last = [v for v in values if not math.isnan(v)][-1]
                ax.annotate(
                    f"exactly 0 from {dead:g}",
                    (dead - 0.5, last),
                    (6, -3),
                    textcoords="offset points",
                    fontsize=8,
                    color=colour,
                )
        ax.set(xlabel="margin by which one of ten logits leads", ylabel="|dL / d logit of the label|", ylim=(1e-20, 10))
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return encode(figure)
