"""What only a GPU can show. The other tests run on CUDA too, where there is one: see DEVICES in testing/losses.py."""

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
    for shape in ((3, 7), (5, 33), (2, 1025), (2, 5, 3, 3)):
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


@pytest.mark.failure(76)
@pytest.mark.capability("CUDA graphs")
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_cuda_graph(loss):
    """Captured once, replayed on other numbers: no synchronisation, no allocation of its own."""
    x, t = leaves(loss, *loss.sample((64, 100)), torch.float32, "cuda")

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
        x.copy_(loss.sample((64, 100), seed=9)[0])
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
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_bit_identical_over_runs(loss):
    x, t = leaves(loss, *loss.sample((1000, 300)), torch.float32, "cuda")
    results = [loss.ours(x, t, loss.reductions[-1]).detach() for _ in range(5)]
    assert all(torch.equal(r, results[0]) for r in results)


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


@pytest.mark.failure(46)
@pytest.mark.capability("2^31 + 10 elements in memory")
@pytest.mark.slow
def test_more_than_two_to_the_31():
    x = torch.zeros(2**31 + 10, dtype=torch.bfloat16, device="cuda")
    x[-1] = 3
    assert torchloss.functional.mse_loss(x, torch.zeros_like(x), reduction="sum").item() == 9
