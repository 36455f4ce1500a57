"""Failures of other losses that no other test would see here. docs/failures.md lists all, with the tests of each."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import torchloss.functional as T
from torchloss.testing.checks.precision import one_rounding
from torchloss.testing.checks.values import upstream
from torchloss.testing.losses import DEVICES, FEW, LOSSES, NEW, leaves

failure = pytest.mark.failure
each_device = pytest.mark.parametrize("device", DEVICES)
each_reduction = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
of_classes = pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])


def value_and_gradient(f, x, from_above=torch.ones_like):
    x = x.detach().requires_grad_()
    y = f(x)
    y.backward(from_above(y))
    return y.detach(), x.grad


def check_rounded(ours, exact):
    """As in float64, but for the rounding of the dtype."""
    for mine, right in zip(ours, exact, strict=True):
        assert mine.shape == right.shape
        mine, right = mine.cpu(), right.cpu()
        near = (mine.double() - right).abs() <= one_rounding(mine, right)
        assert (near | (mine == right)).all(), (mine, right)


# Targets


@failure(4)
@of_classes
@each_reduction
def test_a_bad_target_leaves_nothing_behind(name, reduction):
    f, x, good = getattr(T, name), torch.randn(3, 4), torch.tensor([0, -1, 3])
    before = f(x, good, ignore_index=-1, reduction=reduction)
    with pytest.raises(IndexError, match="Target -4 is out of bounds"):
        f(x, torch.tensor([0, -4, 3]), ignore_index=-1, reduction=reduction)
    assert torch.equal(f(x, good, ignore_index=-1, reduction=reduction), before)


@failure(5)
@each_device
@of_classes
@each_reduction
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8], ids=str)
def test_any_number_may_be_ignored(dtype, reduction, name, device):
    """255 marks unlabelled pixels, and is the largest uint8."""
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, device=device)
    y = torch.tensor([0, 255, 2, 1, 255, 255, 1, 0], device=device).reshape(2, 2, 2)
    live = (y != 255)[:, None]
    call = lambda f, t, r: lambda x: getattr(f, name)(x, t, ignore_index=255, reduction=r)  # noqa: E731
    value, grad = value_and_gradient(call(T, y.to(dtype), reduction), x)
    exact, slope = value_and_gradient(call(F, y.where(live[:, 0], 0), "none"), x)  # none of them ignored
    exact, slope = exact.where(live[:, 0], 0), slope.where(live, 0)
    assert_close(value, {"none": exact, "mean": exact.sum() / 5, "sum": exact.sum()}[reduction])
    assert_close(grad, slope / 5 if reduction == "mean" else slope)


@failure(7)
@each_device
def test_an_ignored_class_stays_in_the_denominator(device):
    """Its rows count for nothing; as a class that the others are not, it still counts."""
    x, y = torch.randn(6, 3, dtype=torch.float64, device=device), torch.tensor([0, 1, 2, 1, 0, 2], device=device)
    value, grad = value_and_gradient(lambda x: T.cross_entropy(x, y, ignore_index=1, reduction="none"), x)
    exact, slope = value_and_gradient(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    live = y != 1
    assert not value[~live].any() and not grad[~live].any()
    assert_close(value[live], exact[live])
    assert_close(grad[live], slope[live])
    assert (grad[live][:, 1] > 0).all()


@failure(15)
@each_device
@of_classes
def test_a_batch_without_targets_moves_no_weight(name, device):
    """Though its mean is NaN; and the sum over a count of at least 1 is 0."""
    net = torch.nn.Linear(5, 4, device=device)
    before, t = [p.detach().clone() for p in net.parameters()], torch.full((3,), -100, device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    x = net(torch.randn(3, 5, device=device))
    mean = getattr(T, name)(x, t)
    mean.backward(retain_graph=True)
    optimizer.step()
    assert mean.isnan() and all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    mean = getattr(T, name)(x, t, reduction="sum") / (t != -100).sum().clamp(min=1)
    assert mean == 0 and mean.requires_grad


OTHER = {
    "reduction": "sum",
    "weight": None,
    "pos_weight": torch.tensor([3.0, 1.0, 0.5]),
    "ignore_index": 1,
    "label_smoothing": 0.3,
    "delta": 0.2,
    "beta": 0.2,
    "log_target": True,
    "base": 2.0,
    "temperature": 3.0,
    "z_loss": 0.3,
    "softcap": 1.0,
    "logit_scale": 0.5,
    "normalizer": 7.0,
    "row_weight": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "dim": 0,
    "dtype": torch.float64,
    "size_average": False,
    "reduce": False,
}


@failure(17)
@pytest.mark.parametrize("name", [n for n in T.__all__ if n not in ("logit_stats", "count_targets")])
@pytest.mark.filterwarnings("ignore")  # of options that are deprecated
def test_every_option_has_an_effect(name):
    loss = next(loss for loss in LOSSES if loss.name == name)
    x, t = loss.sample((4, 3))
    t = torch.tensor([0, 1, 2, 1]) if t is not None and not t.is_floating_point() else t
    args = tuple(a if not a.is_floating_point() else a.float() for a in (x, t) if a is not None)
    weight = torch.tensor([1.0, 2.0, 4.0]) if name in ("cross_entropy", "nll_loss") else args[0].detach().cos()
    plain = {"dim": 1} if "dim" in loss.params else {}
    f, options = getattr(T, name), list(inspect.signature(getattr(T, name)).parameters)[len(args) :]
    default = f(*args, **plain)
    for option in set(options) - {"_stacklevel", "inplace_backward", "empty", "out_dtype"}:  # test_in_place.py, the kit
        other = f(*args, **plain | {option: weight if option == "weight" else OTHER[option]})
        assert other.dtype != default.dtype or not torch.equal(other, default), f"{option} is accepted and unused"


class Called(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@failure(18, 88)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_oracle_is_not_torchloss(loss):
    """A comparison of a loss with itself shows nothing."""
    x, t = leaves(loss, *loss.sample((4, 5)))
    with Called() as theirs:
        loss.oracle(x, t, loss.reductions[-1]).sum().backward()
    with Called() as ours:
        loss.ours(x, t, loss.reductions[-1])
    assert theirs.names and not any("torchloss" in op for op in theirs.names)
    assert any("torchloss" in op for op in ours.names)


# Numbers


def of_logits(device, y=None, teacher=None):
    """The losses of logits; the target of a row is one of its last two classes."""
    y = None if y is None else torch.tensor(y, device=device)
    return {
        "cross_entropy": lambda x: T.cross_entropy(x, y, reduction="none"),
        "nll_loss": lambda x: T.nll_loss(T.log_softmax(x, 1), y, reduction="none"),
        "softmax": lambda x: T.softmax(x, 1)[:, -2:],
        "log_softmax": lambda x: T.log_softmax(x, 1)[:, -2:],
        "softmax_entropy": lambda x: T.softmax_entropy(x, reduction="none"),
        "kl_div_with_logits": lambda x: T.kl_div_with_logits(x, teacher[:, : x.shape[1]], reduction="none"),
    }


def both_or_value(name, *results):
    """Without the gradients that are computed from the output, which is rounded, as torch's are."""
    return [r[:1] if name in ("softmax", "log_softmax") else r for r in results]


OF_LOGITS = pytest.mark.parametrize("name", of_logits("cpu"))


@failure(22, 23)
@each_device
@OF_LOGITS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_blocks_of_minus_infinity(dtype, name, device):
    """Classes of -inf count for nothing, however many follow one another; a NaN among them is not overlooked."""
    n = 20_000
    tail = torch.tensor([[1.0, 2.0], [0.25, -3.0]], dtype=dtype, device=device)
    x = torch.cat([tail.new_full((2, n), -torch.inf), tail], 1)
    teacher = torch.cat([x[:, :n], tail.flip(0)], 1)
    value, grad = value_and_gradient(of_logits(device, [n, n + 1], teacher)[name], x, upstream)
    exact, slope = value_and_gradient(of_logits(device, [0, 1], tail.flip(0).double())[name], tail.double(), upstream)
    check_rounded(*both_or_value(name, (value, grad[:, n:]), (exact, slope)))
    assert not grad[:, :n].any()
    x[0, n // 2] = torch.nan
    value, _ = value_and_gradient(of_logits(device, [n, n + 1], teacher)[name], x, upstream)
    assert value[0].isnan().all() and not value[1].isnan().any()


@failure(24, 25)
@each_device
@OF_LOGITS
def test_logits_of_a_hundred_million(name, device):
    """What they have in common cancels before anything is rounded."""
    x = torch.tensor([[0.0, 8.0, 16.0], [24.0, 0.0, 8.0]], device=device)  # exact beside 1e8
    teacher = x.flip(0)
    ours = value_and_gradient(of_logits(device, [1, 2], teacher + 1e8)[name], x + 1e8, upstream)
    exact = value_and_gradient(of_logits(device, [1, 2], teacher.double())[name], x.double(), upstream)
    check_rounded(*both_or_value(name, ours, exact))


@failure(26, 27, 28, 50)
@each_device
@pytest.mark.parametrize("shape", [(9, 1017), (2, 65537)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", [loss for loss in FEW if loss.family != "pointwise"], ids=str)
def test_the_last_classes(loss, dtype, shape, device):
    """Far below 0, so that one class too many, of 0, would be all that counts."""
    x, t = loss.sample(shape)
    x = x.to(dtype) - (64 if loss.name != "entropy" else 0)
    t = t.to(dtype) if t is not None and t.is_floating_point() else t
    wide = t.double() if t is not None and t.is_floating_point() else t
    here = t if t is None else t.to(device)
    ours = value_and_gradient(lambda x: loss.ours(x, here, "none"), x.to(device), upstream)
    exact = value_and_gradient(lambda x: loss.oracle(x, wide, "none"), x.double(), upstream)
    check_rounded(*both_or_value(loss.op, ours, exact))


@failure(37)
@each_device
@each_reduction
def test_a_large_image(reduction, device):
    """A plain sum in float32 stops growing after 2^24 of such numbers."""
    size = (2, 2, 4096, 4096)
    x = torch.tensor([-0.1, -3.0], device=device)[None, :, None, None].expand(size)
    loss = T.nll_loss(x, torch.tensor(0, device=device).expand(2, 4096, 4096), reduction=reduction)
    exact = 0.1 * (2**25 if reduction == "sum" else 1)
    assert_close(loss.double().mean().item(), exact, rtol=1e-6, atol=0)


@failure(38)
@each_device
@pytest.mark.parametrize("delta", [0.01, 1.0, 300.0])
def test_huber_in_float16(delta, device):
    """The square of an error beyond 255 is no float16, and need not be formed."""
    x = torch.tensor([-60000.0, -300.0, -1.0, -0.01, 0.0, 0.005, 2.0, 400.0], device=device).half()
    call = lambda x: F.huber_loss(x, torch.zeros_like(x), "none", delta)  # noqa: E731
    ours = value_and_gradient(lambda x: T.huber_loss(x, torch.zeros_like(x), "none", delta), x)
    exact, slope = value_and_gradient(call, x.double())
    check_rounded(ours, (exact.where(exact < 65520, torch.inf), slope))
    mean = T.huber_loss(x[1:], torch.zeros_like(x[1:]), delta=delta)
    check_rounded([mean], [exact[1:].mean()])


@failure(40)
@each_device
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.family == "pointwise"], ids=str)
def test_a_mask_goes_before_the_loss(loss, device):
    """After it, 0 times what an infinite number gave is NaN, as torch's; but only there."""
    x, t = (a.to(device) for a in loss.sample((4, 70)))
    _, expected = value_and_gradient(lambda x: loss.ours(x, t, "none"), x)
    mask = torch.arange(280, device=device).reshape(4, 70) % 3 == 0
    x[mask] = torch.inf
    masked = lambda x: loss.ours(x.where(~mask, 0.5), t, "none").where(~mask, 0)  # noqa: E731
    _, grad = value_and_gradient(masked, x)
    assert not grad[mask].any()
    assert_close(grad[~mask], expected[~mask])
    if loss.name != "binary_cross_entropy":  # which refuses the number
        _, grad = value_and_gradient(lambda x: loss.ours(x, t, "none").where(~mask, 0), x)
        assert_close(grad[~mask], expected[~mask])


@failure(41)
@each_device
def test_the_gradient_to_a_target_of_0(device):
    """That of t log t is -inf there, where 0 * inf gave NaN; the other numbers are not affected."""
    x = torch.tensor([-1.0, -2.0], device=device, requires_grad=True)
    t = torch.tensor([0.0, 0.5], device=device, requires_grad=True)
    T.kl_div(x, t, reduction="sum").backward()
    assert x.grad.tolist() == [0.0, -0.5] and t.grad[0] == -torch.inf
    assert_close(t.grad[1].item(), torch.tensor(0.5).log().item() + 1 + 2)
    z = torch.tensor([[-torch.inf, 0.0, 1.0]], device=device, requires_grad=True)
    T.kl_div_with_logits(torch.zeros_like(z), z).backward()
    assert z.grad.isfinite().all() and z.grad[0, 0] == 0


@failure(43)
@each_device
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_divergence_is_never_negative(dtype, noise, device):
    """Not by a rounding either, as a sum of positive and negative terms would be."""
    x = torch.randn(500, 50, dtype=torch.float64, device=device) * 3
    t = (x + noise * torch.randn_like(x)).to(dtype)
    assert (T.kl_div_with_logits(x.to(dtype), t, reduction="none") >= 0).all()


@failure(44)
@pytest.mark.parametrize("rows", [(1, 3), (3, 1)])
def test_batchmean_of_a_broadcast(rows):
    """Divided by the rows of the input, whatever the target has; torch does so without a word."""
    x, t = torch.randn(rows[0], 4).log_softmax(1), torch.randn(rows[1], 4).softmax(1)
    with pytest.warns(UserWarning, match="kl_div broadcasts"):
        loss = T.kl_div(x, t, reduction="batchmean")
    assert_close(loss, F.kl_div(x, t, reduction="sum") / rows[0])


# Memory


@failure(30, 51, 52, 53)
@each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_no_gradient_lies_in_an_input(loss, dtype, device):
    """A kernel that writes there need not tell autograd; in 16 bits the gradient would be rounded once more."""
    for reduction in loss.reductions:
        x, t = leaves(loss, *loss.sample((4, 70)), dtype, device)
        copies = x.detach().clone(), t if t is None else t.detach().clone()
        y = loss.ours(x, t, reduction)
        wanted = [x, t] if loss.target_grad else [x]
        grads = torch.autograd.grad(y, wanted, torch.ones_like(y), create_graph=True)
        bent = [g for g in grads if g.requires_grad]
        if bent:
            torch.autograd.grad([g.sum() for g in bent], wanted, allow_unused=True)
        assert torch.equal(x, copies[0]) and (t is None or torch.equal(t, copies[1]))
        places = [a.untyped_storage().data_ptr() for a in (x, t, y, *grads) if a is not None]
        assert len(set(places)) == len(places)


def moved(x):
    """Classes last in memory, second for the loss."""
    return x.movedim(-1, 1)


@failure(57)
@each_device
@of_classes
@each_reduction
def test_the_classes_moved_from_the_end(reduction, name, device):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, device=device).log_softmax(-1)
    y = torch.arange(24, device=device).reshape(2, 3, 4) % 6 - 1
    options = {"ignore_index": -1, "reduction": reduction}
    ours = value_and_gradient(lambda x: getattr(T, name)(moved(x), y, **options), x)
    exact = value_and_gradient(lambda x: getattr(F, name)(moved(x).contiguous(), y, **options), x)  # else it fails
    for mine, right in zip(ours, exact, strict=True):
        assert_close(mine, right)


@failure(58)
@pytest.mark.slow
@of_classes
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
def test_the_layouts_that_inductor_chooses(name):
    """Channels last around the loss, and what is between is fused."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    y = torch.arange(72).reshape(2, 6, 6) % 5

    def step(f, image):
        return getattr(f, name)(f.log_softmax(conv(image) * 2, 1), y)

    torch._dynamo.reset()
    value, grad = value_and_gradient(torch.compile(lambda x: step(T, x), fullgraph=True), image)
    exact, slope = value_and_gradient(lambda x: step(F, x), image)
    assert_close(value, exact)
    assert_close(grad, slope)


@failure(60)
@each_device
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.family != "map"], ids=str)
@each_reduction
def test_the_value_may_be_modified(reduction, loss, device):
    """As torch's: it is no view of what backward needs."""
    x, t = leaves(loss, *loss.sample((4, 5)), device=device)
    y = loss.ours(x, t, reduction)
    assert y._base is None
    y *= 3
    y += 1
    y.sum().backward()
    once = x.grad.clone()
    x.grad = None
    loss.ours(x, t, reduction).sum().backward()
    assert_close(once, 3 * x.grad)


# Autograd, devices, processes


@failure(70)
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.name in (*NEW, "kl_div", "cross_entropy")], ids=str)
def test_samples_are_distributions(loss):
    """What is checked at numbers that no one uses is not checked."""
    sums = {"probs": lambda a: a, "last_probs": lambda a: a, "log_probs": torch.exp}
    for shape in ((4, 5), (2, 33), (2, 5, 3)):
        x, t = loss.sample(shape)
        for a, made in ((x, loss.input), (t, loss.target)):
            if a is not None and made.__name__ in sums:
                total = sums[made.__name__](a).sum(-1 if loss.name in NEW else 1)
                assert_close(total, torch.ones_like(total))
        value, grad = value_and_gradient(lambda x, t=t: loss.oracle(x, t, "none"), x)
        assert value.isfinite().all() and grad.isfinite().all()


READS = ("local_scalar_dense", "is_nonzero", "equal.default", "nonzero", "masked_select", "unique")


@failure(76)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_no_number_is_read_from_a_tensor(loss):
    """On a GPU that waits for it, and no CUDA graph can hold it: counts stay where they are."""
    for reduction in loss.reductions:
        x, t = leaves(loss, *loss.sample((4, 5)))
        with Called() as ops:
            y = loss.ours(x, t, reduction)
            (grad,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
            if grad.requires_grad:
                grad.sum().backward()
        assert ops.names and not [op for op in ops.names if any(read in op for read in READS)]


@failure(78)
@each_device
@pytest.mark.parametrize("loss", [loss for loss in FEW if loss.family != "map"], ids=str)
def test_backward_of_autocast_is_in_float32(loss, device):
    """Under a gradient that no float16 holds, and rounded once, to the dtype of the input."""
    x, t = leaves(loss, *loss.sample((4, 5)), torch.bfloat16, device)
    with torch.autocast(device, torch.bfloat16):
        y = loss.ours(x, t, loss.reductions[-1])
    y.backward(torch.full_like(y, 2.0**20))
    wide = t.detach().double() if t is not None and t.is_floating_point() else t
    _, slope = value_and_gradient(lambda x: loss.oracle(x, wide, loss.reductions[-1]), x.double())
    assert y.dtype == torch.float32
    check_rounded([x.grad / 2.0**20], [slope])


@failure(74)
def test_kernels_run_on_the_device_and_stream_of_their_input():
    """One place launches them, on the input's current stream; every way there sets the input's device first."""
    texts = {file.name: file.read_text() for file in (Path(__file__).parent.parent / "csrc" / "cuda").iterdir()}
    assert not [name for name, text in texts.items() if "<<<" in text]
    assert [name for name, text in texts.items() if "cudaLaunchKernel" in text] == ["launch.h"]
    assert "config.stream = current_stream(device);" in texts["launch.h"]
    guarded = 0
    for name in ("device.h", "sums.cu", "rows.cuh", "points.cuh"):
        for way, body in re.findall(
            r"(?:Cuda::|^void (?=launch_rows)|^  static void )(\w+)\([^;{]*\) \{(.*?)\n *\}\n", texts[name], re.S | re.M
        ):
            if way == "rows":  # all of whose launches are launch_rows's
                assert "launch(" not in body
                continue
            device = "device" if way == "zero" else "args.device"
            assert body.strip().startswith(f"const DeviceGuard guard({device});"), (name, way)
            guarded += 1
    assert guarded == 5  # launch_rows, pointwise, finish, normalizer, zero


UNCHANGED = """
import torch, torch.nn.functional as F
import torch._dynamo.testing  # which itself replaces torch.manual_seed
losses = [v for k, v in vars(torch.nn).items() if k.endswith("Loss")]
places = [torch, torch.nn, F, torch._C._nn, torch.Tensor, torch.nn.Module, torch.nn.Softmax, *losses]
before = [dict(vars(place)) for place in places]
import torchloss, torchloss.testing
for place, old in zip(places, before):
    changed = [k for k, v in old.items() if vars(place).get(k) is not v]
    assert len(losses) > 10 and not changed, (place, changed)
"""


@failure(88, 89)
def test_import_patches_nothing():
    """Nothing of torch is replaced: who calls torchloss's function gets it, and no one else does."""
    done = subprocess.run([sys.executable, "-c", UNCHANGED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
