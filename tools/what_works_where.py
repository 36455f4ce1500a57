#!/usr/bin/env python3
"""Writes docs/what-works-where.md from the outcome of the tests that show a capability.

    tools/what_works_where.py                    # runs them, the slow ones too: a quarter of an hour on two cores
    tools/what_works_where.py --report FILE      # reads what `pytest tests --junitxml=FILE` wrote

A test names what it shows by @pytest.mark.capability("..."), and the losses by its parameters: tests/conftest.py writes
both into the report. Exits with 1 if a test failed; the page then says so.
"""

import argparse
import datetime
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import torch

from torchloss.testing.losses import FEW

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "what-works-where.md"
OTHERS = "others"
COLUMNS = [*map(str, FEW), OTHERS]

HEAD = """# What works where

What a cell says is the outcome of the tests of that row and that loss; `make docs` runs them and writes this page.
The column "{others}" stands for the other rows of the table of losses, and for tests of no loss in particular.
An empty cell has no test.

torch {torch}, Python {python}, {isa} on {machine}, {gpu}; {date}.
{passed} tests passed, {failed} failed, {skipped} were not run.
"""


def run_tests(report: Path, more: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "tests", "-m", "capability", f"--junitxml={report}", *more]
    subprocess.run(command, cwd=ROOT)


def outcome(case: ET.Element) -> str:
    """passed, failed, or why it was skipped."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    return "passed" if skipped is None else skipped.get("message", "skipped")


def read(report: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    """device -> capability -> column -> outcomes."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for case in ET.parse(report).iter("testcase"):
        properties = defaultdict(list)
        for p in case.iter("property"):
            properties[p.get("name")].append(p.get("value"))
        for name in properties["capability"]:
            row = found[properties["device"][0]][name]
            for loss in properties["loss"] or [OTHERS]:
                row[loss if loss in COLUMNS else OTHERS].append(outcome(case))
    return found


def cell(outcomes: list[str], reasons: list[str]) -> str:
    """One word for some tests; the reasons of skipped ones are numbered."""
    skipped = sorted(set(outcomes) - {"passed", "failed"})
    reasons += [r for r in skipped if r not in reasons]
    notes = "".join(f"[{reasons.index(r) + 1}]" for r in skipped)
    if "failed" in outcomes:
        return f"**no** {notes}".strip()
    if "passed" in outcomes:
        return f"yes {notes}".strip()
    return f"not run {notes}".strip() if outcomes else ""


def table(rows: dict[str, dict[str, list[str]]], reasons: list[str]) -> str:
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for name, row in sorted(rows.items(), key=lambda item: item[0].lower()):
        lines.append(f"| {name} | " + " | ".join(cell(row[c], reasons) for c in COLUMNS) + " |")
    return "\n".join(lines)


def page(found: dict[str, dict[str, dict[str, list[str]]]], counts: dict[str, int]) -> str:
    parts = [
        HEAD.format(
            others=OTHERS,
            torch=torch.__version__,
            python=platform.python_version(),
            isa=torch.backends.cpu.get_cpu_capability(),
            machine=platform.machine(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
            date=datetime.date.today(),
            **counts,
        )
    ]
    reasons: list[str] = []
    for device, title in (("cpu", "On the CPU"), ("cuda", "On a GPU")):
        if device in found:
            parts.append(f"## {title}\n\n{table(found[device], reasons)}\n")
    if reasons:
        parts.append("Why tests were not run:\n\n" + "\n".join(f"{i}. {r}" for i, r in enumerate(reasons, 1)) + "\n")
    return "\n".join(parts)


def count(report: Path) -> dict[str, int]:
    shown = [
        c for c in ET.parse(report).iter("testcase") if c.find("properties/property[@name='capability']") is not None
    ]
    all_of = [outcome(c) for c in shown]
    passed, failed = all_of.count("passed"), all_of.count("failed")
    return {"passed": passed, "failed": failed, "skipped": len(all_of) - passed - failed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="an XML report of pytest; without it the tests are run")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        report = arguments.report or Path(folder, "report.xml")
        if not arguments.report:
            run_tests(report, more)
        counts = count(report)
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text(page(read(report), counts))
    print(f"{arguments.output}: {counts}")
    return counts["failed"] > 0


if __name__ == "__main__":
    sys.exit(main())
