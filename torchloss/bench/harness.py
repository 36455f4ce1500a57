"""How it is timed: in rounds, each function once per round, so that what disturbs the machine disturbs them alike."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

import torchloss
from torchloss.bench.cases import FULL, QUICK, Case


@dataclass
class Timing:
    """Of one case on one device: milliseconds forward + backward, as median and quartiles; error against float64."""

    case: str
    dtype: str
    device: str
    limit_ms: float  # the least bytes over the bandwidth of a copy, measured in the same run
    torch_ms: tuple[float, float, float]
    torchloss_ms: tuple[float, float, float]
    torch_error: float  # of the gradient, relative to its largest entry
    torchloss_error: float

    @property
    def speedup(self) -> float:
        return self.torch_ms[1] / self.torchloss_ms[1]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step(function: Callable[..., Tensor], arguments: list[Tensor]) -> Callable[[], Tensor]:
    """Forward and backward of the default reduction; gives the gradient."""

    def run() -> Tensor:
        arguments[0].grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # kl_div's, of its mean
            function(*arguments).backward()
        return arguments[0].grad

    return run


def interleaved(steps: dict[str, Callable[[], object]], device: str, seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of each step, over at least 7 rounds and about so many seconds."""
    for run in steps.values():  # warm up, and see how long one call takes
        run()
    synchronize(device)
    start = perf_counter()
    for run in steps.values():
        run()
    synchronize(device)
    round_time = perf_counter() - start
    calls = max(1, int(2e-3 / max(round_time, 1e-9)))  # small steps are timed many at once
    times: dict[str, list[float]] = {name: [] for name in steps}
    rounds = min(200, max(7, int(seconds / max(round_time * calls, 1e-9))))
    for _ in range(rounds):
        for name, run in steps.items():
            start = perf_counter()
            for _ in range(calls):
                run()
            synchronize(device)
            times[name].append((perf_counter() - start) * 1e3 / calls)
    return times


def quartiles(times: list[float]) -> tuple[float, float, float]:
    low, _, high = quantiles(times, n=4)
    return low, median(times), high


def error(gradient: Tensor, exact: Tensor) -> float:
    return ((gradient.double().cpu() - exact).abs().max() / exact.abs().max()).item()


def measure(case: Case, dtype: torch.dtype, device: str, seconds: float) -> Timing:
    theirs, ours = getattr(F, case.name), getattr(torchloss.functional, case.name)
    arguments = case.arguments(dtype, device)
    exact_arguments = [a.detach().cpu().double() if a.is_floating_point() else a.cpu() for a in arguments]
    exact_arguments[0].requires_grad_()
    exact = step(theirs, exact_arguments)()
    source = torch.empty(max(case.limit_bytes(dtype) // 2, 1), dtype=torch.int8, device=device)
    copy = torch.empty_like(source)
    steps = {"torch": step(theirs, arguments), "torchloss": step(ours, arguments)}
    errors = {name: error(run(), exact) for name, run in steps.items()}
    times = interleaved({**steps, "copy": lambda: copy.copy_(source)}, device, seconds)
    return Timing(
        str(case),
        str(dtype).removeprefix("torch."),
        device,
        median(times["copy"]),
        quartiles(times["torch"]),
        quartiles(times["torchloss"]),
        errors["torch"],
        errors["torchloss"],
    )


def machine(device: str) -> dict[str, str]:
    """What the figures depend on."""
    facts = {
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "torchloss": torchloss.__version__,
        "python": platform.python_version(),
    }
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
    return facts


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run(devices: list[str], dtypes: list[torch.dtype], quick: bool) -> list[Timing]:
    """Measures every case."""
    return [
        measure(case, dtype, device, seconds=0.3 if quick else 2.0)
        for case in (QUICK if quick else FULL)
        for dtype in dtypes
        for device in devices
    ]
