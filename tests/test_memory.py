"""What a step takes it gives back: the graph when backward is done with it, and all memory over 10,000 steps."""

import gc
import os
import sys
import weakref

import pytest
import torch
import torch.func as func
from calls import compute, compute_twice, ramp_like

import torchloss.functional
from torchloss.testing.losses import FEW, leaves

each_of_few = pytest.mark.parametrize("loss", FEW, ids=str)

STEPS = 10_000
SMALLEST = 64  # bytes: a tensor, a node of a graph or a Python object that leaked would take more


def resident():
    with open("/proc/self/statm") as fields:
        return int(fields.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(step, steps):
    """The bytes that the process has grown by, and the objects that Python holds more than before."""
    gc.collect()
    bytes_before, objects_before = resident(), sys.getallocatedblocks()
    for i in range(steps):
        step(i)
    gc.collect()
    return resident() - bytes_before, sys.getallocatedblocks() - objects_before


def check_growth(step, one_in=1):
    """Raises if step leaks something in one of so many calls.

    A leak grows in every quarter of the steps; the allocator takes a page, or 100, in one quarter and not in the next.
    """
    warm_up, _ = growth(step, 1000)
    quarters = [growth(step, STEPS // 4) for _ in range(4)]
    in_bytes, in_objects = map(min, zip(*quarters, strict=True))
    leaks = STEPS / 4 / one_in
    assert in_bytes < leaks * SMALLEST, f"bytes and objects in each quarter: {quarters}; {warm_up} bytes before"
    assert in_objects < leaks / 2, f"bytes and objects in each quarter: {quarters}; {warm_up} bytes before"


def problem(loss):
    x, t = leaves(loss, *loss.sample((4, 5)), torch.float32)
    return loss, x, t, loss.reductions[-1]


@pytest.mark.capability("10,000 steps in constant memory", losses=FEW)
def test_ten_thousand_steps():
    problems = [problem(loss) for loss in FEW]
    check_growth(lambda i: compute(*problems[i % len(FEW)]), one_in=len(FEW))


@pytest.mark.capability("10,000 steps in constant memory", losses=FEW)
@pytest.mark.slow
def test_ten_thousand_double_backwards():
    problems = [problem(loss) for loss in FEW]
    check_growth(lambda i: compute_twice(*problems[i % len(FEW)]), one_in=len(FEW))


@pytest.mark.capability("10,000 steps in constant memory", losses=FEW)
@pytest.mark.slow
def test_ten_thousand_vmaps():
    problems = [problem(loss) for loss in FEW]

    def step(i):
        loss, x, t, reduction = problems[i % len(FEW)]
        gradient = func.grad(lambda a: loss.ours(a, t, reduction).sum())
        func.vmap(gradient)(x.detach().expand(3, *x.shape))

    check_growth(step, one_in=len(FEW))


@pytest.mark.capability("10,000 errors in constant memory")
def test_ten_thousand_errors():
    """From Python's checks, from the kernels' and from a backward of the wrong size."""
    _, x, t, _ = problem(next(loss for loss in FEW if loss.name == "cross_entropy"))
    failing = (
        lambda: torchloss.functional.huber_loss(x, x, delta=-1.0),
        lambda: torchloss.functional.cross_entropy(x, t + 5),
        lambda: torchloss.functional.cross_entropy(x, t, reduction="median"),
        lambda: torch.ops.torchloss.huber_loss(x, x[:1], None, None, 1, 1.0),
        lambda: torchloss.functional.mse_loss(x, x).backward(torch.ones(3)),
    )

    def step(i):
        try:
            failing[i % len(failing)]()
        except (RuntimeError, ValueError, IndexError):
            return
        raise AssertionError("no error")

    check_growth(step, one_in=len(failing))


class Box:
    """Stands for a saved tensor."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # not an output, whose graph would hold the box


@pytest.mark.capability("backward frees the graph")
@each_of_few
def test_backward_frees_what_was_saved(loss):
    """At once, while the loss is still there and without the garbage collector; and so does dropping the loss."""
    boxes = []

    def pack(tensor):
        box = Box(tensor)
        boxes.append(weakref.ref(box))
        return box

    def forward():
        boxes.clear()
        _, x, t, reduction = problem(loss)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
            return x, loss.ours(x, t, reduction)

    gc.disable()
    try:
        x, y = forward()
        assert boxes and all(box() for box in boxes)
        y.backward(ramp_like(y), retain_graph=True)
        assert all(box() for box in boxes)
        y.backward(ramp_like(y))
        assert not any(box() for box in boxes)
        x, y = forward()
        del y
        assert not any(box() for box in boxes)
        x, y = forward()
        (grad,) = torch.autograd.grad(y, x, ramp_like(y), create_graph=True)
        del y, grad
        assert not any(box() for box in boxes)
    finally:
        gc.enable()
