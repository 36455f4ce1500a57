"""What a loss costs by itself: time forward and backward, and memory beyond its inputs.

Memory is counted from the allocator's own record (torch.profiler): every byte that PyTorch's CPU allocator hands out
while the loss runs forward and backward, temporaries inside kernels and the gradient of the logits included, the inputs
excluded. What a kernel keeps on its stack or takes from malloc directly is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from torchloss.lab.train import Track


@dataclass
class Spread:
    """Median and the middle half of repeated timings, in seconds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread:
        low, _, high = quantiles(seconds, n=4)
        return cls(median(seconds), low, high)

    def overlaps(self, other: Spread) -> bool:
        """Whether the middle halves meet: then no difference is claimed."""
        return self.low <= other.high and other.low <= self.high


@dataclass
class Cost:
    """What one loss costs at one size; bytes are None where this PyTorch gives no record of its allocations."""

    forward: Spread
    backward: Spread
    both: Spread
    peak_bytes: int | None
    saved_bytes: int
    holds_logits: bool  # until backward, which keeps them alive if nothing else does


def compare(libraries: dict[str, ModuleType], rows: int, classes: int, repeats: int, track: Track) -> dict[str, Cost]:
    """Cross entropy of each library on the same random logits, taking turns."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=draw).requires_grad_()
    target = torch.randint(classes, (rows,), generator=draw)
    losses = {name: library.CrossEntropyLoss() for name, library in libraries.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    order: Sequence[str] = list(losses)
    for turn in track(range(-3, repeats), f"cost of the loss, {rows} x {classes}"):
        for name in order:
            taken = time(losses[name], logits, target)
            if turn >= 0:  # the first three warm up
                times[name].append(taken)
        order = order[::-1]
    return {name: cost(times[name], losses[name], logits, target) for name in losses}


def time(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Seconds of one forward and of one backward."""
    start = perf_counter()
    value = loss(logits, target)
    between = perf_counter()
    value.backward()
    end = perf_counter()
    logits.grad = None
    return between - start, end - between


def cost(times: list[tuple[float, float]], loss: nn.Module, logits: Tensor, target: Tensor) -> Cost:
    """Timings and memory together."""
    forward, backward = ([pair[part] for pair in times] for part in (0, 1))
    kept = saved_bytes(loss, logits, target)
    given = [kept.pop(known.untyped_storage().data_ptr(), 0) for known in (logits, target)]
    return Cost(
        Spread.of(forward),
        Spread.of(backward),
        Spread.of([sum(pair) for pair in times]),
        peak_bytes(loss, logits, target),
        sum(kept.values()),
        given[0] > 0,
    )


def peak_bytes(loss: nn.Module, logits: Tensor, target: Tensor) -> int | None:
    """The most bytes in use at once beyond the inputs, over one forward and backward."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would announce itself on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss(logits, target).backward()
    logits.grad = None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_use = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        in_use += event.nbytes()
        peak = max(peak, in_use)
    return peak if events else None


def saved_bytes(loss: nn.Module, logits: Tensor, target: Tensor) -> dict[int, int]:
    """What is kept from forward to backward: address and bytes of each storage."""
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        alive = loss(logits, target)  # else an address might serve twice
    del alive
    return kept
