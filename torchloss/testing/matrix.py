"""The published matrix: `python -m torchloss.testing.matrix > docs/conformance.md`.

Puts torchloss's, torch's and, where they are installed, other packages' losses to the conformance kit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

import torchloss
from torchloss.testing import CHECKS, Report, Row, check_loss, rivals
from torchloss.testing.losses import LOSSES, NEW

MARKS = {"pass": "✓", "wrong": "**wrong**", "raises": "raises", "not applicable": "–"}

PACKAGES = {"Liger": "liger-kernel", "CCE": "cut-cross-entropy", "QuACK": "quack-kernels"}

INTRODUCTION = """# Conformance: which loss passes which test

Made by `{command}` with {versions}, on {date}.

Each row is a check of the conformance kit (`torchloss.testing`), which takes any loss function. ✓: passed. **wrong**:
another result than the float64 reference, or a promise not kept. raises: an exception instead of a result. –: does not
apply. A check stops at its first failure; the edge cases count one by one. What failed is listed below each table.

Put your own loss to it, and get a script for each failure:

```
python -m torchloss check my_module:my_loss --like cross_entropy
```
"""


def columns() -> dict[str, Callable]:
    """The cross entropies that can be run here."""
    found = {
        "torchloss": torchloss.functional.cross_entropy,
        "torch `F.cross_entropy`": torch.nn.functional.cross_entropy,
    }
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        found["torch `F.linear_cross_entropy`, in chunks"] = rivals.linear_cross_entropy
    if find_spec("liger_kernel") and (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET")):
        found[f"Liger {version_of('liger-kernel')}"] = rivals.liger_cross_entropy
    if find_spec("cut_cross_entropy") and torch.cuda.is_available():
        found[f"CCE {version_of('cut-cross-entropy')}"] = rivals.cut_cross_entropy
    if find_spec("quack") and torch.cuda.is_available():
        found[f"QuACK {version_of('quack-kernels')}"] = rivals.quack_cross_entropy
    return found


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def folded(report: Report) -> dict[str, str]:
    """A cell for each check; the edge cases as a count."""
    cells = {row.name: MARKS[row.outcome] for row in report.rows if row.group != "edges"}
    edges = [row for row in report.rows if row.group == "edges" and row.outcome != "not applicable"]
    return cells | {"edge": f"{sum(row.outcome == 'pass' for row in edges)} of {len(edges)}"}


def table(reports: dict[str, Report]) -> Iterator[str]:
    cells = {name: folded(report) for name, report in reports.items()}
    yield "| check | " + " | ".join(cells) + " |"
    yield "|---|" + "---|" * len(cells)
    group = None
    for name, check in CHECKS.items():
        if any(name in c for c in cells.values()):
            if check.group != group:
                group = check.group
                yield f"| *{group}* |" + " |" * len(cells)
            yield f"| {check.promise} | " + " | ".join(c.get(name, "–") for c in cells.values()) + " |"


def failures(report: Report) -> Iterator[str]:
    for row in report.failures:
        yield f"- {row.name.replace('_', ' ')}: {one_line(row)}"


def one_line(row: Row) -> str:
    detail = row.detail.replace("|", "\\|").replace("`", "'").split("  ")[0]
    return f"`{detail[:160].rstrip()}` ({row.where})"


def cross_entropies() -> Iterator[str]:
    reports = {}
    for name, fn in columns().items():
        note(name)
        reports[name] = check_loss(fn, "cross_entropy", device=device_of(name))
    yield "\n## cross_entropy\n"
    yield from table(reports)
    for name, report in reports.items():
        if report.failures:
            yield f"\n### What failed: {name}\n"
            yield from failures(report)
    for short, package in PACKAGES.items():
        if not any(name.startswith(short) for name in reports):
            yield f"\n{package}: not run (it is not installed, or there is no GPU)."


def device_of(name: str) -> str:
    gpu_only = name.startswith(tuple(PACKAGES)) and not os.environ.get("TRITON_INTERPRET")
    return "cuda" if gpu_only else "cpu"


def others() -> Iterator[str]:
    yield "\n## The other losses\n"
    yield "| loss | torchloss: passed, failed | torch: passed, failed |"
    yield "|---|---|---|"
    details = []
    for like in sorted({loss.name for loss in LOSSES} - {"cross_entropy"}):
        cells = []
        for whose, functional in (("torchloss", torchloss.functional), ("torch", torch.nn.functional)):
            if whose == "torch" and like in NEW:
                cells.append("–")
                continue
            note(f"{whose} {like}")
            report = check_loss(getattr(functional, like), like)
            cells.append(f"{report.count('pass')}, {len(report.failures)}")
            if report.failures:
                details += [f"\n### What failed: {whose} `{like}`\n", *failures(report)]
        yield f"| `{like}` | {cells[0]} | {cells[1]} |"
    yield from details


def note(what: str) -> None:
    sys.stderr.write(f"{what} ...\n")


def main() -> None:
    interpreted = os.environ.get("TRITON_INTERPRET")
    command = f"{'TRITON_INTERPRET=1 ' if interpreted else ''}python -m torchloss.testing.matrix"
    versions = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    if interpreted:
        versions += ", Triton kernels run by Triton's interpreter on the CPU"
    print(INTRODUCTION.format(command=command, versions=versions, date=date.today()))
    for part in (cross_entropies(), others()):
        for line in part:
            print(line, flush=True)


if __name__ == "__main__":
    main()
