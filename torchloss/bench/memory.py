"""How much memory a call needs at its worst moment, above what is live before it."""

from __future__ import annotations

import os
from itertools import accumulate

import torch
from torch.autograd.profiler import profile

from torchloss.bench.step import Step

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints that it starts and stops


def peak_bytes(step: Step, device: str) -> int | None:
    """By PyTorch's allocators: all they gave and took back during the call, results included.

    What a library takes for itself, such as a small buffer for its threads, they do not see.
    """
    if step.prepare:
        step.prepare()
    return on_cuda(step) if device == "cuda" else on_cpu(step)


def on_cuda(step: Step) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = step.run()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def on_cpu(step: Step) -> int | None:
    """From the profiler's record of every allocation, in the order in which they were made."""
    with profile(profile_memory=True) as record:
        kept = step.run()
    del kept
    events = [e for e in record.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(accumulate(changes, initial=0))
