"""`python -m torchloss bench compare`: what changed between two runs, and what is noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchloss.bench.harness import Entry, Result
from torchloss.bench.record import Record, read

CONTROL = "eager"  # torchloss did not change it: if it moved, the machine did, or torch
MAY_DIFFER = ("torchloss", "torchloss's commit", "load")


@dataclass(frozen=True)
class Change:
    """A rival's times for a case in both runs."""

    case: str
    rival: str
    old: Entry
    new: Entry
    control: float = 1.0  # the ratio of CONTROL's times, which everything else is divided by

    @property
    def ratio(self) -> float:
        return self.new.median / self.old.median

    def verdict(self, threshold: float) -> str:
        """Slower or faster only beyond the threshold and the quartiles, both as it is and relative to the control."""
        _, low, _, high = self.old.ms
        _, new_low, _, new_high = self.new.ms
        least, most = sorted((1.0, self.control))
        if self.ratio > most * (1 + threshold) and new_low > most * high:
            return "slower"
        if self.ratio * (1 + threshold) < least and new_high < least * low:
            return "faster"
        return ""


def changes(old: Record, new: Record) -> Iterator[Change]:
    """For every case and rival that both runs have."""
    before = {(r.key, r.series): r for r in old.results}
    for result in new.results:
        earlier = before.get((result.key, result.series))
        for entry in result.entries if earlier else []:
            was = earlier.entry(entry.rival)
            if was and entry.ms:
                yield Change(result.key, entry.rival, was, entry, control(entry.rival, earlier, result))


def control(rival: str, old: Result, new: Result) -> float:
    was, now = old.entry(CONTROL), new.entry(CONTROL)
    return now.median / was.median if was and now and rival != CONTROL else 1.0


def differences(old: Record, new: Record) -> list[str]:
    """What else differs between the runs."""
    names = [*old.machine, *(n for n in new.machine if n not in old.machine)]
    found = [(n, old.machine.get(n, "unknown"), new.machine.get(n, "unknown")) for n in names if n not in MAY_DIFFER]
    found.append(("threads", threads(old), threads(new)))
    return [f"{name}: {was}, then {now}" for name, was, now in found if was != now]


def threads(record: Record) -> str:
    return ",".join(map(str, sorted({r.threads for r in record.results})))


def compare(old: Path, new: Path, threshold: float) -> int:
    """Prints every change. 1 if torchloss became slower somewhere, else 0."""
    first, second = read(old), read(new)
    for difference in differences(first, second):
        print(f"warning: not the same in both runs: {difference}")
    found = list(changes(first, second))
    if not found:
        print("the two runs have no case in common")
    for change in found:
        print(line(change, threshold))
    verdicts = [(c.rival, c.verdict(threshold)) for c in found]
    slower, faster = (verdicts.count(("torchloss", v)) for v in ("slower", "faster"))
    moved = sum(bool(v) for rival, v in verdicts if rival == CONTROL)
    print(f"torchloss: {slower} slower, {faster} faster, of {sum(c.rival == 'torchloss' for c in found)}")
    if moved:
        print(f"warning: {CONTROL} moved in {moved} cases, so the machine did, or torch")
    return int(slower > 0)


def line(change: Change, threshold: float) -> str:
    relative = "" if change.rival == CONTROL else f"{change.ratio / change.control:5.2f} relative to {CONTROL}"
    return (
        f"{change.case:66} {change.rival:10} {change.old.median:9.4g} -> {change.new.median:9.4g} ms  "
        f"{change.ratio:5.2f}  {relative:24}  {change.verdict(threshold)}"
    ).rstrip()
