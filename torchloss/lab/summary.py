"""What the demo found, as numbers with units: the results, where they were measured, and the table."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from torchloss.lab import rates
from torchloss.lab.cost import Cost, Spread
from torchloss.lab.notes import Notes
from torchloss.lab.robust import FRACTIONS, LOSSES, Robust
from torchloss.lab.train import NUDGED, OURS, TORCH, Run


@dataclass
class Setting:
    """What one needs to know to run it again."""

    command: str
    seed: int
    quick: bool
    threads: int = field(default_factory=torch.get_num_threads)
    cpu: str = field(default_factory=lambda: cpu_model())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    date: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(" ", "minutes"))
    seconds: float = 0.0
    core_share: float = 1.0  # of the one core that training wanted, what it got

    def busy(self) -> str:
        """A warning if the machine did other work meanwhile."""
        if self.core_share > 0.9:
            return ""
        return (
            f"This machine was busy: training got {self.core_share:.0%} of a core. Its timings are not to be trusted."
        )


@dataclass
class Results:
    """Everything that was measured."""

    setting: Setting
    digits: dict[str, Run]
    text: dict[str, Run]
    sample: str
    costs: dict[str, dict[str, Cost]]
    robust: Robust
    grid: rates.Grid
    notes: Notes


@dataclass
class Row:
    """One line of the table."""

    part: str
    quantity: str
    torch: str
    ours: str
    relation: str
    timed: bool = False


def table(results: Results) -> list[Row]:
    """The numbers in brief."""
    rows = training("digits", results.digits, "right on unseen digits", lambda share: f"{share:.2%}")
    rows += training("text", results.text, "bits per unseen byte", lambda bits: f"{bits:.4f}")
    for size, pair in results.costs.items():
        rows += costs(size, pair)
    rows += [outliers(results.robust, loss) for loss in LOSSES]
    return rows + [moves(results.grid, name) for name in rates.REDUCTIONS]


def training(part: str, runs: dict[str, Run], score_name: str, score) -> list[Row]:
    """One model trained with each library."""
    one, two, control = runs[TORCH], runs[OURS], runs[NUDGED]
    apart, noise = one.largest_difference(two), one.largest_difference(control)
    times, shares = (one.loss_seconds(), two.loss_seconds()), (one.loss_share(), two.loss_share())
    return [
        Row(part, "final training loss", f"{one.final_loss():.5f}", f"{two.final_loss():.5f}", ""),
        Row(part, "largest difference of curves", "", gap(apart), f"rounding alone: {gap(noise)}"),
        Row(part, score_name, score(one.score), score(two.score), ""),
        Row(part, "loss, time per step", seconds(times[0]), seconds(times[1]), ratio(*times), True),
        Row(part, "loss, share of step", f"{shares[0]:.1%}", f"{shares[1]:.1%}", ""),
    ]


def costs(size: str, pair: dict[str, Cost]) -> list[Row]:
    """The loss alone at one size."""
    one, two = pair[TORCH], pair[OURS]
    part = f"logits {size}"
    return [
        timing(part, "forward", one.forward, two.forward),
        timing(part, "backward", one.backward, two.backward),
        timing(part, "forward and backward", one.both, two.both),
        memory(part, "peak extra memory", one.peak_bytes, two.peak_bytes),
        memory(part, "kept for backward", one.saved_bytes, two.saved_bytes),
    ]


def timing(part: str, quantity: str, one: Spread, two: Spread) -> Row:
    """Two medians; a difference within the spread is not called one."""
    relation = "no clear difference" if one.overlaps(two) else ratio(one.median, two.median)
    return Row(part, quantity, seconds(one.median), seconds(two.median), relation, True)


def memory(part: str, quantity: str, one: int | None, two: int | None) -> Row:
    """Two sizes."""
    return Row(part, quantity, size_of(one), size_of(two), ratio(one, two) if one and two else "")


def outliers(robust: Robust, loss: str) -> Row:
    """Error with the most outliers."""
    one, two = (robust.mean_error(name, loss, len(FRACTIONS) - 1) for name in (TORCH, OURS))
    return Row("diabetes", f"{loss}: error with {FRACTIONS[-1]:.0%} outliers", f"{one:.3f}", f"{two:.3f}", "")


def moves(grid: rates.Grid, reduction: str) -> Row:
    """How far the usable learning rate moves over the batch sizes."""
    label = f"{reduction}: usable up to, B = {grid.batches[0]} to {grid.batches[-1]}"
    usable = grid.usable(reduction)
    return Row(
        "learning rate", label, "", f"{usable[0]:.2g} to {usable[-1]:.2g}", f"moves by {rates.move(usable):.3g}x"
    )


def ratio(one: float, two: float) -> str:
    """torchloss over torch.nn, in words."""
    if abs(two / one - 1) < 0.005:
        return "the same"
    factor = max(one, two) / min(one, two)
    return f"{factor:.2f}x" * (factor < 10) + f"{factor:,.0f}x" * (factor >= 10) + (" less" if two < one else " more")


def gap(value: float) -> str:
    """A difference."""
    return f"{value:.1e}" if value else "0"


def seconds(value: float) -> str:
    """With a unit that suits it."""
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.2f} ms"


def size_of(count: int | None) -> str:
    """Bytes with a unit that suits them."""
    if count is None:
        return "not measured"
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


def cpu_model() -> str:
    """The processor's name and the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores, {platform.system()}"


def versions() -> dict[str, str]:
    """The versions of everything the numbers may depend on."""
    found = {"Python": sys.version.split()[0]}
    for package in ("torchloss", "torch", "numpy", "scikit-learn", "matplotlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
