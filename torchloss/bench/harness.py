"""How it is timed: in rounds, each rival once per round, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter

import torch
from torch import Tensor

from torchloss.bench.cases import Case
from torchloss.bench.machine import Others
from torchloss.bench.memory import peak_bytes
from torchloss.bench.rivals import RIVALS, Missing, overwrites, reason
from torchloss.bench.step import Step, step_of

ROUNDS = (9, 300)  # at least and at most
# Seconds that a turn takes at least, by several calls: the clock has its cost, and a GPU that was idle waits for its
# first launch.
TURN = {"cpu": 1e-3, "cuda": 1e-2}
# A turn of calls shorter than this begins with one off the clock: what the rival before left of the allocator's memory
# is not theirs.
SHORT = 1e-2
MOST_COPIED = 4_000_000_000  # bytes to measure the memory's speed with


@dataclass
class Entry:
    """A rival's figures for a case, or the reason why it has none."""

    rival: str
    reason: str = ""
    ms: list[float] = field(default_factory=list)  # minimum, quartile, median, quartile
    peak_bytes: int | None = None  # above what was live before the call
    value_error: float | None = None  # against float64, relative to the largest entry
    gradient_error: float | None = None

    @property
    def median(self) -> float:
        return self.ms[2]


@dataclass
class Result:
    """A case with everybody's figures, and the memory limit measured in the same rounds."""

    case: str
    series: str
    name: str
    shape: list[int]
    dtype: str
    device: str
    direction: str
    variant: str
    threads: int
    read_bytes: int
    write_bytes: int
    rounds: int = 0
    others: float = 0.0  # processors that other programs kept busy meanwhile
    copy_gbs: float = 0.0
    read_gbs: float = 0.0
    limit_ms: float = 0.0
    entries: list[Entry] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The same in every run: what is compared with what."""
        return f"{self.case} {self.threads} threads"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def entry(self, rival: str) -> Entry | None:
        """The rival's figures, if it has some."""
        return next((e for e in self.entries if e.rival == rival and e.ms), None)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def turn(step: Step, calls: int, device: str) -> float:
    """Seconds per call. What a step needs beforehand is made off the clock."""
    if device == "cuda":
        return turn_of_a_gpu(step, calls)
    if not step.prepare:
        start = perf_counter()
        for _ in range(calls):
            step.run()
        synchronize(device)
        return (perf_counter() - start) / calls
    total = 0.0
    for _ in range(calls):
        step.prepare()
        synchronize(device)
        start = perf_counter()
        step.run()
        synchronize(device)
        total += perf_counter() - start
    return total / calls


def turn_of_a_gpu(step: Step, calls: int) -> float:
    """By the GPU's own clock, which does not count how long the CPU takes to see that all is done."""
    marks = []
    for _ in range(calls if step.prepare else 1):
        if step.prepare:
            step.prepare()
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
        for _ in range(1 if step.prepare else calls):
            step.run()
        marks.append(torch.cuda.Event(enable_timing=True))
        marks[-1].record()
    marks[-1].synchronize()
    return sum(a.elapsed_time(b) for a, b in zip(marks[::2], marks[1::2], strict=True)) / 1e3 / calls


def interleaved(steps: dict[str, Step], device: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of each step, a list as long as there were rounds in about so many seconds."""
    gc.collect()
    gc.disable()
    try:
        for step in steps.values():
            turn(step, 1, device)
        once = {name: turn(step, 1, device) for name, step in steps.items()}
        calls = {name: max(1, min(1000, int(TURN[device] / max(t, 1e-9)))) for name, t in once.items()}
        whole = sum(calls[name] * t for name, t in once.items())
        rounds = min(ROUNDS[1], max(ROUNDS[0], int(seconds / whole)))
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                if once[name] < SHORT:
                    turn(step, 1, device)
                times[name].append(turn(step, calls[name], device) * 1e3)
        return times
    finally:
        gc.enable()


def summary(times: list[float]) -> list[float]:
    low, _, high = quantiles(times, n=4)
    return [min(times), low, median(times), high]


def bandwidth_steps(size: int, device: str) -> dict[str, Step]:
    """Reading and copying so many bytes, of memory that was touched before."""
    floats = max(size // 4, 2)
    source = torch.ones(floats, device=device)
    half, other = source[: floats // 2], torch.ones(floats // 2, device=device)
    return {"copy": Step(lambda: other.copy_(half)), "read": Step(lambda: source.amax())}


def limit(read: int, write: int, copy_ms: float, read_ms: float) -> float:
    """The milliseconds that the bytes take: copied as far as there are as many of both, else only read (or written)."""
    both = 2 * min(read, write) / (read + write)
    return both * copy_ms + (1 - both) * (read_ms if read > write else copy_ms)


def error(result: Tensor | None, exact: Tensor | None) -> float | None:
    """The largest error relative to the largest entry."""
    if result is None or exact is None:
        return None
    difference = exact - result.detach().cpu()
    return (difference.abs_().max() / exact.abs().max()).item()


def exact_results(case: Case, x: Tensor, targets: list[Tensor], options: dict) -> tuple[Tensor, Tensor | None]:
    """The value and the gradient in float64, by torch's function on the CPU."""

    def exactly(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", torch.float64) if tensor.is_floating_point() else tensor.cpu()

    options = {k: exactly(v) if isinstance(v, Tensor) else v for k, v in options.items()}
    step = step_of(case, case.loss.reference, exactly(x), [exactly(t) for t in targets], options)
    value, gradient = step.run()
    return value.detach(), gradient


def measure(case: Case, rivals: Iterable[str], seconds: float, errors: bool = True) -> Result:
    """Everything of one case."""
    x, targets, options = case.arguments()
    read, write = case.traffic(x, targets, options)
    result = Result(
        str(case), case.series, case.name, list(case.shape), case.type, case.device, case.direction, case.variant,
        torch.get_num_threads(), read, write,
    )  # fmt: skip
    exact = exact_results(case, x, targets, options) if errors else (None, None)
    steps: dict[str, Step] = {}
    for rival in rivals:
        entry = Entry(rival)
        result.entries.append(entry)
        try:
            steps[rival] = prepared(case, rival, entry, (x, targets, options), exact)
        except Exception as problem:  # whatever it is, the others are measured
            entry.reason = reason(problem)
    del exact
    others = Others()
    copied = min(read + write, MOST_COPIED)
    times = interleaved({**steps, **bandwidth_steps(copied, case.device)}, case.device, seconds)
    result.others = others.busy()
    for entry in result.entries:
        if entry.rival in times:
            entry.ms = summary(times[entry.rival])
    copy_ms, read_ms = (median(times[name]) * (read + write) / copied for name in ("copy", "read"))
    result.rounds = len(times["copy"])
    result.copy_gbs, result.read_gbs = ((read + write) / ms / 1e6 for ms in (copy_ms, read_ms))
    result.limit_ms = limit(read, write, copy_ms, read_ms)
    return result


def prepared(case: Case, rival: str, entry: Entry, arguments: tuple, exact: tuple) -> Step:
    """The rival's step, after its errors and its memory are written into the entry."""
    function: Callable = RIVALS[rival](case)
    x, targets, options = arguments
    step = step_of(case, function, x, targets, options, overwrites(rival, case))
    if step.prepare:
        step.prepare()
    value, gradient = step.run()
    if case.direction == "both" and gradient is None:
        raise Missing("gave no gradient")
    entry.value_error, entry.gradient_error = error(value, exact[0]), error(gradient, exact[1])
    del value, gradient
    entry.peak_bytes = peak_bytes(step, case.device)
    return step


def quietly(function: Callable, *arguments):
    """Without the warnings of torch's losses, such as kl_div's of its mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)
