"""What only a GPU can show. The other tests run on CUDA too, where there is one: see DEVICES in testing/losses.py."""

import math

import pytest
import torch
from torch.testing import assert_close

import torchloss
from torchloss.testing.losses import DTYPES, LOSSES, leaves

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
    pytest.mark.skipif(not torchloss._library.has_cuda, reason="torchloss was built without CUDA"),
]


def weighted(y: torch.Tensor) -> torch.Tensor:
    return (y.float() * torch.arange(y.numel(), device=y.device).reshape(y.shape).cos()).sum()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_sanitizer(loss, dtype):
    """Small odd sizes through every kernel, for compute-sanitizer; against the CPU, so that no other kernel runs."""
    for shape in ((3, 7), (5, 33), (2, 1025), (1, 20_003), (2, 5, 3, 3)):
        if len(shape) > 2 and loss.family == "map":
            continue
        x, t = leaves(loss, *loss.sample(shape), dtype, "cuda")
        y = loss.ours(x, t, loss.reductions[-1])
        y.backward(torch.ones_like(y))
        x_, t_ = leaves(loss, x.detach().cpu(), None if t is None else t.detach().cpu(), dtype)
        y_ = loss.ours(x_, t_, loss.reductions[-1])
        y_.backward(torch.ones_like(y_))
        assert_close(y.cpu(), y_)
        assert_close(x.grad.cpu(), x_.grad)


# Where the way of a row changes: one by one, 16 bytes at a time, a warp, a block, several groups of pieces, more than
# shared memory holds; and rows that begin anywhere in 16 bytes.
SIZES = [15, 16, 33, 64, 257, 1024, 1025, 2047, 8192, 8195, 50257, 131072, 262147]


def views(x):
    """The same numbers: as they are; between others, so that their rows begin elsewhere; and with rows side by side."""
    yield x.clone()
    yield torch.nn.functional.pad(x, (1, 2))[:, 1:-2]
    if x.shape[1] < 10_000:
        yield x.t().contiguous().t()


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.family != "pointwise"], ids=str)
def test_every_way_of_a_row(loss, dtype, classes):
    """As on the CPU, whose kernels are others."""
    x, t = leaves(loss, *loss.sample((3, classes)), dtype)
    expected = loss.ours(x, t, loss.reductions[0])
    expected.backward(weighted_like(expected))
    for view in views(x.detach().cuda()):
        mine = view.requires_grad_()
        actual = loss.ours(mine, None if t is None else t.detach().cuda(), loss.reductions[0])
        actual.backward(weighted_like(actual))
        assert_close(actual.cpu(), expected)
        assert_close(mine.grad.cpu(), x.grad)


def weighted_like(y):
    return torch.arange(y.numel(), dtype=torch.float64).cos().view(y.shape).to(y.device, y.dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("rows", [1, 8, 33, 1000, 33_000, 70_000])
def test_totals_of_many_rows(rows, reduction):
    """In the rows' own launch, in another, in two others."""
    x = torch.randn(rows, 10, generator=torch.Generator().manual_seed(0))
    target = torch.arange(rows) % 10
    target[rows // 2 :: 3] = -100
    weight = torch.linspace(0.5, 2, 10)
    for options in ({}, {"weight": weight}):
        expected = torch.nn.functional.cross_entropy(x.double(), target, reduction=reduction, **double(options))
        options = {k: v.cuda() for k, v in options.items()}
        actual = torchloss.functional.cross_entropy(x.cuda(), target.cuda(), reduction=reduction, **options)
        assert_close(actual.cpu().double(), expected, rtol=1e-6, atol=0, equal_nan=True)


def double(options):
    return {k: v.double() for k, v in options.items()}


@pytest.mark.failure(76)
@pytest.mark.capability("CUDA graphs")
@pytest.mark.parametrize("shape", [(8, 10), (64, 100), (3, 5000)], ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_cuda_graph(loss, shape):
    """Captured once, replayed on other numbers: no synchronisation, no allocation of its own."""
    x, t = leaves(loss, *loss.sample(shape), torch.float32, "cuda")

    def step():
        x.grad = None
        weighted(loss.ours(x, t, loss.reductions[-1])).backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        x.copy_(loss.sample(shape, seed=9)[0])
    graph.replay()
    replayed = x.grad.clone()
    step()
    assert torch.equal(replayed, x.grad)


@pytest.mark.failure(74)
@pytest.mark.capability("the current stream")
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_another_stream(loss):
    """The kernels run on the current stream: behind a slow copy into their input, they see what was copied."""
    x, t = leaves(loss, *loss.sample((256, 100)), torch.float32, "cuda")
    expected = loss.ours(x, t, loss.reductions[-1]).detach()
    late, stream = torch.full_like(x, 0.5), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        with torch.no_grad():
            late.copy_(x)
        actual = loss.ours(late, t, loss.reductions[-1]).detach()
    stream.synchronize()
    assert torch.equal(actual, expected)


@pytest.mark.failure(77)
@pytest.mark.capability("same bits over runs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(8, 10), (1000, 300), (40_000, 10), (20, 50257)], ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bit_identical_over_runs(loss, shape, dtype):
    """Values and gradients, alone and while another stream keeps the GPU busy."""
    x, t = leaves(loss, *loss.sample(shape), dtype, "cuda")
    noise = torch.randn(4000, 4000, device="cuda")
    first = None
    for run in range(6):
        if run % 2:
            with torch.cuda.stream(torch.cuda.Stream()):
                noise @ noise
        x.grad = None
        y = loss.ours(x, t, loss.reductions[-1])
        y.backward(torch.ones_like(y))
        first = first or (y.detach(), x.grad)
        assert torch.equal(y, first[0]) and torch.equal(x.grad, first[1])


@pytest.mark.failure(1, 2)
@pytest.mark.capability("targets out of range")
@pytest.mark.parametrize("bad", [10, -1, 2**40])
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_bad_target_poisons_its_row(name, bad):
    """Never a plausible number, never a read out of bounds; with check_targets, an IndexError."""
    function = getattr(torchloss.functional, name)
    x = torch.randn(4, 10, device="cuda", requires_grad=True)
    target = torch.tensor([1, bad, 3, 4], device="cuda")
    loss = function(x, target, reduction="none")
    assert loss.isnan().tolist() == [False, True, False, False]
    loss.backward(torch.ones_like(loss))
    assert x.grad.isnan().any(1).tolist() == [False, True, False, False]
    with torchloss.check_targets(), pytest.raises(IndexError, match=f"Target {bad} is out of bounds"):
        function(x, target)


@pytest.mark.failure(73, 74)
@pytest.mark.capability("a second GPU")
def test_second_gpu():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = torch.randn(8, 10, device="cuda:1")
    target = torch.arange(8, device="cuda:1")
    loss = torchloss.functional.cross_entropy(x, target)
    assert loss.device == x.device
    assert_close(loss.cpu(), torchloss.functional.cross_entropy(x.cpu(), target.cpu()))


def huge(gigabytes):
    """Skips where there is no room."""
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes + 1:
        pytest.skip(f"needs {gigabytes} GB of the GPU's memory, of which {free:.1f} GB are free")


@pytest.mark.failure(46)
@pytest.mark.capability("2^31 + 10 elements in memory")
@pytest.mark.slow
def test_more_than_two_to_the_31():
    huge(9)
    x = torch.zeros(2**31 + 10, dtype=torch.bfloat16, device="cuda")
    x[-1] = 3
    assert torchloss.functional.mse_loss(x, torch.zeros_like(x), reduction="sum").item() == 9


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2**30 + 5), (2**22 + 3, 513), (2**28 + 3, 9)], ids=str)
def test_rows_of_more_than_two_to_the_31(shape):
    """The last row's loss and gradient are its own: nothing wrapped, nothing left out."""
    huge(18)
    rows, classes = shape
    x = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    x[-1, -1] = 3
    x.requires_grad_()
    target = torch.full((rows,), classes - 1, device="cuda")
    loss = torchloss.functional.cross_entropy(x, target, reduction="none")
    alike, last = math.log(classes), math.log(math.exp(3) + classes - 1)
    assert_close(loss[:1].double().cpu(), torch.tensor([alike]).double(), rtol=2**-8, atol=0)
    assert_close(loss[-1].double().item(), last - 3, rtol=2**-8, atol=0)
    (loss[-1] + loss[0]).backward()
    assert_close(x.grad[-1, -1].item(), math.exp(3 - last) - 1, rtol=2**-8, atol=0)
    assert_close(x.grad[-1, 0].item(), math.exp(-last), rtol=2**-8, atol=0)
    assert_close(x.grad[0, -1].item(), 1 / classes - 1, rtol=2**-8, atol=0)
    assert rows == 2 or not x.grad[1].any()
