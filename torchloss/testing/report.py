"""What the conformance kit found: a row per check."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from .script import script
from .trial import Failure, Trial

SIGNS = {"pass": "pass", "wrong": "FAIL (wrong)", "raises": "FAIL (raises)", "not applicable": "n/a"}


class Row(NamedTuple):
    """A check's outcome: "pass", "wrong" (another result), "raises" (an exception instead of one), "not applicable"."""

    name: str
    group: str
    promise: str
    outcome: str
    detail: str = ""
    where: str = ""  # the trial that failed
    reproduction: str = ""  # as a script
    seconds: float = 0.0

    def failed(self, failure: Failure, trial: Trial, fn: Callable, name: str) -> Row:
        shown = script(trial, fn, name)
        return self._replace(outcome=failure.kind, detail=failure.detail, where=trial.where, reproduction=shown)


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


@dataclass
class Report:
    """The rows of one function; true if none failed."""

    subject: str
    like: str
    device: str
    rows: list[Row]
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.outcome in ("wrong", "raises")]

    def __bool__(self) -> bool:
        return not self.failures

    def count(self, outcome: str) -> int:
        return sum(row.outcome == outcome for row in self.rows)

    @property
    def summary(self) -> str:
        return (
            f"{self.subject} like {self.like} on {self.device}: {self.count('pass')} passed, {len(self.failures)} "
            f"failed ({self.count('wrong')} with a wrong result), {self.count('not applicable')} not applicable"
        )

    def __str__(self) -> str:
        width = max((len(row.name) for row in self.rows), default=0)
        lines, group = [], None
        for row in self.rows:
            if row.group != group:
                group = row.group
                lines.append(f"{group}:")
            lines.append(f"  {row.name:{width}}  {SIGNS[row.outcome]:13}  {row.promise}")
            if row.reproduction:
                lines += [f"  {'':{width}}  {row.detail}  [{row.where}]"]
        for row in self.failures:
            lines += ["", f"--- {row.name}: {row.promise}", row.reproduction.rstrip()]
        return "\n".join([*lines, "", self.summary])

    def to_json(self) -> str:
        found = {"subject": self.subject, "like": self.like, "device": self.device, "versions": self.versions}
        return json.dumps(found | {"rows": [row._asdict() for row in self.rows]}, indent=1)
