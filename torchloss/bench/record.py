"""A run of the benchmark, as it is kept in a file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from torchloss.arguments import Refusal
from torchloss.bench.harness import Entry, Result

FORMAT = 2  # the first had neither rivals nor a limit for each direction


@dataclass
class Record:
    """The machine and the results of one run."""

    machine: dict[str, str]
    results: list[Result] = field(default_factory=list)
    date: str = field(default_factory=lambda: date.today().isoformat())
    format: int = FORMAT

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(strict(asdict(self)), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def strict(value: object) -> object:
    """JSON knows neither nan nor inf: as text."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> Record:
    """What `Record.write` wrote."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}") from None
    except ValueError:
        raise Refusal(f"{path} is not JSON") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise Refusal(f"{path} was not written by this version of `bench --json`")
    try:
        results = [Result(**r | {"entries": [Entry(**e) for e in r["entries"]]}) for r in fields["results"]]
        return Record(dict(fields["machine"]), results, fields["date"])
    except (KeyError, TypeError):
        raise Refusal(f"{path} is not whole") from None
