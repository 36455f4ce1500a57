"""The same bits every time: on any number of threads, beside others, in another process, in deterministic mode."""

import contextlib
import hashlib
import multiprocessing
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from calls import compute, compute_twice, ramp_like, same_bits, sample

from torchloss.testing.losses import DEVICES, FEW, LOSSES, leaves

each_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)
each_of_few = pytest.mark.parametrize("loss", FEW, ids=str)
each_device = pytest.mark.parametrize("device", DEVICES)

LARGE = {"pointwise": (100_001,), "rowwise": (300, 331), "map": (300, 331)}  # shared by several threads


@contextlib.contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.capability("same bits over runs and threads")
@each_device
@each_loss
def test_the_same_bits_every_time(loss, device):
    """On any number of threads, and while others do the same."""
    x, t = sample(loss, LARGE[loss.family], device, torch.float32)
    results = {r: compute(loss, x, t, r) for r in loss.reductions}

    def again(_=None):
        return all(same_bits(results[r], compute(loss, x, t, r)) for r in results)

    assert all(again() for _ in range(3))
    for n in (1, 2, 4):
        with threads(n):
            assert again(), n
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, range(16)))


# Python threads


@pytest.mark.capability("eight Python threads at once")
@each_of_few
def test_threads_with_inputs_of_their_own(loss):
    """Each gets the bits that it gets alone, though all are in the same kernels at the same time."""
    problems = [sample(loss, (64, 100 + seed), dtype=torch.float32, seed=seed) for seed in range(8)]
    alone = [compute_twice(loss, x, t, loss.reductions[-1]) for x, t in problems]
    start = threading.Barrier(8)

    def run(i):
        start.wait(10)
        return all(same_bits(alone[i], compute_twice(loss, *problems[i], loss.reductions[-1])) for _ in range(10))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(8)))


@pytest.mark.failure(54)
@pytest.mark.capability("eight Python threads at once")
@each_of_few
def test_threads_share_a_graph(loss):
    """One forward, eight backwards of it at once."""
    x, t = leaves(loss, *loss.sample((64, 100)), torch.float32)
    y = loss.ours(x, t, loss.reductions[-1])
    backward = lambda _=None: torch.autograd.grad(y, x, ramp_like(y), retain_graph=True)  # noqa: E731
    alone = backward()
    with ThreadPoolExecutor(8) as pool:
        assert all(same_bits(alone, other) for other in pool.map(backward, range(32)))


@pytest.mark.capability("backward on another thread")
@each_of_few
def test_backward_on_another_thread(loss):
    expected = compute(loss, *loss.sample((5, 7)), loss.reductions[-1])
    x, t = leaves(loss, *loss.sample((5, 7)))
    y = loss.ours(x, t, loss.reductions[-1])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(y.backward, ramp_like(y)).result()
    assert same_bits(expected, [y.detach(), x.grad, *([t.grad] if loss.target_grad else [])])


class Deeper(torch.autograd.Function):
    """f(x), whose backward runs the backward of another of these, `depth` times."""

    @staticmethod
    def forward(ctx, x, f, depth):
        ctx.f, ctx.depth = f, depth
        ctx.save_for_backward(x)
        return f(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = Deeper.apply(x, ctx.f, ctx.depth - 1) if ctx.depth else ctx.f(x)
        return *torch.autograd.grad(y, x, grad), None, None


@pytest.mark.capability("backward on another thread")
@each_of_few
def test_backward_on_a_thread_of_the_engine(loss):
    """Past 60 nested backwards torch goes on in a thread of its own."""
    x, t = sample(loss, (5, 7))
    seen = set()

    def f(x):
        seen.add(threading.get_native_id())
        return loss.ours(x, t, loss.reductions[-1])

    expected = compute(loss, x, t, loss.reductions[-1])
    x.requires_grad_()
    y = Deeper.apply(x, f, 70)
    y.backward(ramp_like(y))
    assert len(seen) > 1, "all ran in this thread"
    assert same_bits(expected[1:2], [x.grad])


# Processes. GNU's OpenMP does not survive a fork: once its threads have run, a forked child that wants them waits for
# ever, in torch's operators as in these. Start children with "spawn", or keep them to one thread, as a DataLoader does.


def digest():
    """A digest of every result of the FEW, large enough for several threads."""
    bits = hashlib.sha256()
    for loss in FEW:
        for result in compute(loss, *sample(loss, LARGE[loss.family], dtype=torch.float32), loss.reductions[-1]):
            bits.update(result.numpy().tobytes())
    return bits.hexdigest()


def digest_on_one_thread():
    torch.set_num_threads(1)
    return digest()


def torchs_own():
    return torch.ones(1_000_000).log_softmax(0).sum().item()


def put(results, f):
    torch.set_num_threads(2)
    results.put(f())


def in_child(method, f, seconds):
    """What f returns in a new process, or "hangs"."""
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=put, args=(results, f), daemon=method == "fork")
    child.start()
    try:
        return results.get(timeout=seconds)
    except queue.Empty:
        return "hangs"
    finally:
        child.kill()
        child.join()


def families():
    """What a spawned process finds, and those that it forks."""
    found = {"forked first": in_child("fork", digest, 60), "spawned": digest()}
    found["forked, one thread"] = in_child("fork", digest_on_one_thread, 60)
    return found


@pytest.mark.failure(81)
@pytest.mark.capability("spawned and forked processes", losses=FEW)
def test_the_same_bits_in_other_processes():
    found = in_child("spawn", families, 120)
    assert found == dict.fromkeys(("forked first", "spawned", "forked, one thread"), digest())


def forks_after_threads():
    digest(), torchs_own()
    return [in_child("fork", f, 5) for f in (digest, torchs_own)]


@pytest.mark.failure(81)
@pytest.mark.slow
def test_fork_after_threads_hangs_as_torchs_own_operators_do():
    ours, theirs = in_child("spawn", forks_after_threads, 120)
    assert (ours == "hangs") == (theirs == "hangs")
    assert ours in ("hangs", digest())


# Deterministic mode


@contextlib.contextmanager
def deterministic():
    """Memory that torch hands out is filled with NaN, so that what a kernel forgot to write shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.failure(6, 77)
@pytest.mark.capability("deterministic mode")
@each_device
@each_loss
def test_deterministic_mode(loss, device):
    """It works, and gives the same bits."""
    for shape in ((3, 7), (2, 33), (4, 5, 3), (2, 300), (0, 4)):
        for dtype in (torch.float64, torch.bfloat16):
            x, t = sample(loss, shape, device, dtype)
            for reduction in loss.reductions:
                expected = compute_twice(loss, x, t, reduction)
                with deterministic():
                    assert torch.empty(3).isnan().all()
                    assert same_bits(expected, compute_twice(loss, x, t, reduction)), (shape, dtype, reduction)
