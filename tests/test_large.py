"""More than 2^31 elements: as views over little memory, and, of the slow tests, in 4.3 GB of it."""

import math
import subprocess
import sys

import pytest
import torch
from calls import compute, sample
from torch.testing import assert_close

import torchloss.functional
from torchloss.testing.losses import LOSSES


@pytest.mark.failure(37, 46)
def test_sum_of_more_than_2_31_elements():
    row = torch.linspace(-2, 2, 2**16 + 3)
    x = row.expand(2**15 + 1, -1)
    sum = torchloss.functional.mse_loss(x, torch.zeros(()).expand_as(x), reduction="sum")
    assert x.numel() > 2**31
    assert_close(sum.double(), (row.double() ** 2).sum() * len(x), rtol=1e-6, atol=0)


@pytest.mark.failure(46)
def test_rows_of_more_than_2_31_elements():
    row = torch.linspace(-2, 2, 2**15 + 1)
    x, y = row.expand(2**16 + 3, -1), torch.tensor(len(row) - 1)
    loss = torchloss.functional.cross_entropy(x, y.expand(len(x)))
    assert x.numel() > 2**31
    assert_close(loss.double(), row.double().logsumexp(0) - row[-1].double(), rtol=1e-6, atol=0)


def test_classes_without_end_that_are_not_adjacent():
    """A staging buffer brings rows together, so that each has a lane of the vector: but not rows of any length."""
    code = """if True:
        import resource, torch, torchloss.functional as T
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        x, y = torch.zeros(16, 1), torch.zeros(16).long()
        T.cross_entropy(x.expand(16, 4000), y)
        before = peak()
        loss = T.cross_entropy(x.expand(16, 5_000_000), y)
        print(loss.item(), (peak() - before) // 1024)
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loss, megabytes = map(float, out.split())
    assert math.isclose(loss, math.log(5_000_000), rel_tol=1e-6)
    assert megabytes < 100  # 1280 for two threads, if all were brought together


@pytest.mark.failure(47, 49)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_strides_beyond_2_31(loss, dim):
    """Three rows, or three classes, each a gigabyte and more from the next; only what is touched takes memory."""
    x, t = sample(loss, (3, 40) if dim == 0 else (40, 3), dtype=torch.bfloat16)
    far = 2**30 + 7
    try:
        places = [torch.empty(2 * far + 40, dtype=torch.bfloat16) for _ in range(2)]
    except RuntimeError as error:
        pytest.skip(f"no address space: {error}")
    stride = (far, 1) if dim == 0 else (1, far)
    x_ = places[0].as_strided(x.shape, stride).copy_(x)
    t_ = places[1].as_strided(t.shape, stride).copy_(t) if t is not None and t.is_floating_point() else t
    for reduction in loss.reductions:
        for ours, dense in zip(compute(loss, x_, t_, reduction), compute(loss, x, t, reduction), strict=True):
            assert_close(ours, dense)


# One real tensor of 2^31 + 10 bfloat16 numbers. It repeats a pattern, which makes its sums known without a second such
# tensor; what it holds last weighs so much that a sum without it would be seen to be wrong.

N, PERIOD = 2**31 + 10, 65521  # a prime: an index that wrapped would find other numbers
ROUNDING = {"rtol": 2**-8, "atol": 0}  # of bfloat16


@pytest.fixture
def pattern():
    return torch.randn(PERIOD, generator=torch.Generator().manual_seed(0)).bfloat16()


def repeated(pattern, n):
    x = pattern.new_empty(n)
    whole = n // len(pattern) * len(pattern)
    x[:whole].view(-1, len(pattern)).copy_(pattern)
    x[whole:].copy_(pattern[: n - whole])
    return x


def sum_repeated(pattern, start, stop):
    """The sum of what lies from start to stop where the pattern repeats."""
    sums = torch.cat([pattern.new_zeros(1), pattern.cumsum(0)])
    until = lambda n: n // len(pattern) * sums[-1] + sums[n % len(pattern)]  # noqa: E731
    return until(stop) - until(start)


def places(n):
    """The first numbers, the last ones, and those on both sides of 2^30 and 2^31."""
    return [slice(max(0, at - 20), min(n, at + 20)) for at in (0, 2**30, 2**31, n) if at <= n]


def need_memory(gigabytes):
    with open("/proc/meminfo") as lines:
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6
    if available < gigabytes:
        pytest.skip(f"{available:.0f} GB of memory are available, {gigabytes} are needed")


large = pytest.mark.capability("2^31 + 10 elements in memory")


@pytest.mark.failure(46)
@large
@pytest.mark.slow
def test_mse_of_a_large_tensor(pattern):
    need_memory(12)
    numbers = repeated(pattern, N + 1)
    numbers[-10::2] = 2.0**14
    x, t = numbers[1:].requires_grad_(), numbers[:-1]  # neighbours, in the same memory
    loss = torchloss.functional.mse_loss(x, t, reduction="sum")
    p = pattern.double()
    expected = sum_repeated((p.roll(-1) - p).square(), 0, N - 10) + numbers[-11:].double().diff().square().sum()
    assert_close(loss.detach().double(), expected, **ROUNDING)
    loss.backward()
    for at in places(N):
        assert_close(x.grad[at].double(), 2 * (x.detach()[at].double() - t[at].double()), **ROUNDING)


@pytest.mark.failure(46)
@large
@pytest.mark.slow
def test_cross_entropy_of_two_long_rows(pattern):
    need_memory(12)
    classes = N // 2
    logits = repeated(pattern, N).view(2, classes)
    logits[:, -1] = 21.25  # about the logarithm of the others' sum
    target = torch.tensor([2**30 + 1, 7])
    p = pattern.double().exp()
    others = torch.stack([sum_repeated(p, r * classes, (r + 1) * classes - 1) for r in range(2)])
    log_sums = (others + logits[:, -1].double().exp()).log()

    x = logits.detach().requires_grad_()
    loss = torchloss.functional.cross_entropy(x, target, reduction="none")
    assert_close(loss.detach().double(), log_sums - logits.gather(1, target[:, None])[:, 0].double(), **ROUNDING)
    loss.backward(torch.tensor([1.0, -2.0]).bfloat16())
    for row, upstream in ((0, 1), (1, -2)):
        for at in places(classes):
            share = (logits[row, at].double() - log_sums[row]).exp()
            share[torch.arange(at.start, at.stop) == target[row]] -= 1
            assert_close(x.grad[row, at].double(), upstream * share, **ROUNDING)


@pytest.mark.failure(47)
@large
@pytest.mark.slow
def test_cross_entropy_of_many_short_rows(pattern):
    need_memory(12)
    classes = 50
    rows = N // classes
    logits = repeated(pattern, N)[: rows * classes].view(rows, classes)
    target = repeated(torch.arange(PERIOD) % (classes + 1) - 1, rows)
    target[target < 0] = -100
    assert logits.numel() > 2**31
    of_a_period = torch.nn.functional.cross_entropy(logits[:PERIOD].double(), target[:PERIOD], reduction="none")
    total = torchloss.functional.cross_entropy(logits, target, reduction="sum")
    assert_close(total.double(), sum_repeated(of_a_period, 0, rows), **ROUNDING)

    x = logits.detach().requires_grad_()
    loss = torchloss.functional.cross_entropy(x, target, reduction="none")
    loss.backward(torch.ones_like(loss))
    for at in (slice(0, 40), slice(2**30 // classes, 2**30 // classes + 40), slice(rows - 40, rows)):
        x_ = logits[at].double().requires_grad_()
        loss_ = torch.nn.functional.cross_entropy(x_, target[at], reduction="none")
        loss_.sum().backward()
        assert_close(loss.detach()[at].double(), loss_.detach(), **ROUNDING)
        assert_close(x.grad[at].double(), x_.grad, **ROUNDING)


@pytest.mark.failure(48)
@pytest.mark.slow
def test_more_than_2_31_rows():
    need_memory(10)
    rows = 2**31 + 3
    bits = torchloss.functional.entropy(torch.tensor([0.5, 0.5]).expand(rows, 2), base=2, reduction="sum")
    assert_close(bits.item(), float(rows), rtol=1e-6, atol=0)
