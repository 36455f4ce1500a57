"""Right to rounding at any margin: against torchloss/testing/exactness.py, which knows 60 digits.

With u = 2^-24 in float32 and 2^-53 in float64, half the distance from 1 to the next number, and the margin m by which
a logit leads or the entry's own logit is led, everything is right to u (8 + m) of

- the value;
- an entry of the gradient, be it that of the target, of the leader or of another, where nothing cancels: for index
  targets always, and for the leader of softmax_entropy;
- else the two terms of which the entry is the difference: label smoothing and soft targets have a root, and so have
  the entropy's p_j (D - d_j) and the divergence's q_j - p_j and p_j (l_j - K). The terms are in exactness.py, those
  of the divergence itself too.

m comes from the rounding of x_j - max. What 16 bits hold is right to half of their last place. Below the smallest
normal number nothing holds but its distance from 0.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchloss.functional as T
from torchloss.testing.exactness import ROWWISE, binary, exact, mp, page
from torchloss.testing.losses import DEVICES

each_device = pytest.mark.parametrize("device", DEVICES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)

MARGINS = (0, 1, 10, 17, 30, 80, 300, 700)
CLASSES = [(2, 33, 1000), pytest.param((3, 257, 200_000), marks=pytest.mark.slow)]
SCALES = (0.01, 1, 10, 100)
ROUNDING = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}
SMALLEST = {torch.float64: 2**-1074, torch.float32: 2**-149, torch.bfloat16: 2**-133, torch.float16: 2**-24}


def lead(classes, margin, dtype, offset=0.0):
    x = torch.full((classes,), offset, dtype=dtype)
    x[0] += margin
    return x


def margins(classes):
    return MARGINS if classes <= 1000 else (1, 30)


def random(classes, scale, dtype, seed):
    """Normal, but of 24 distinct numbers, for the truth is slow."""
    g = torch.Generator().manual_seed(seed)
    levels = torch.randn(24, generator=g, dtype=torch.float64) * scale
    return levels[torch.randint(24, (classes,), generator=g)].to(dtype)


# Kinds of rows: (classes, dtype) -> logits, a class, and the margin or scale.


def leader(classes, dtype):
    yield from ((lead(classes, m, dtype), 0) for m in margins(classes))


def not_the_leader(classes, dtype):
    yield from ((lead(classes, m, dtype), classes - 1) for m in margins(classes))


def offset(classes, dtype):
    far = {torch.float64: (1e6, -1e12, 1e30), torch.float32: (1e6, -3e5)}.get(dtype, (64.0,))
    far = far if classes <= 1000 else ()
    yield from ((lead(classes, m, dtype, o), y) for o in far for m in (0, 1, 17, 80) for y in (0, 1))


def tied(classes, dtype):
    for m in margins(classes):
        x = lead(classes, m, dtype)
        x[-1] = x[0]
        yield x, 0


def masked(classes, dtype):
    for m in margins(classes):
        x = lead(classes, m, dtype)
        x[2::3] = -torch.inf
        yield x, 1
    yield torch.where(torch.arange(classes) == 1, 0, -torch.inf).to(dtype), 1


def normal(classes, dtype):
    for seed, scale in enumerate(SCALES):
        x = random(classes, scale, dtype, seed)
        yield from ((x, y) for y in {int(x.argmax()), classes // 2})


KINDS = {f.__name__: f for f in (leader, not_the_leader, offset, tied, masked, normal)}


def targets(name, x, y, dtype):
    """What besides the class y the loss compares with: probabilities, or logits near the input and far from it."""
    classes = len(x)
    if name.endswith("probabilities"):
        q = torch.zeros(classes, dtype=dtype)
        q[y] = 1
        soft = q.clone()
        soft[y], soft[y - 1] = 0.75, 0.25
        return [] if (x == -torch.inf).any() else [q, soft]  # 0 * inf, as in torch
    if not name.startswith("kl_div"):
        return [torch.zeros(classes, dtype=dtype)]
    other = lead(classes, 5, dtype)
    near = x + 2**-8 * (37 * x).cos()
    away = lead(classes, 40, dtype).roll(1)
    hidden = x == -torch.inf
    return [t.masked_fill(hidden, -torch.inf) for t in (other, away, near)]


class Worst:
    """The largest error seen, in units of what is allowed."""

    def __init__(self):
        self.error, self.where = 0, None

    def see(self, ours, right, terms, relative, absolute, where):
        if right == mp.inf and ours == mp.inf:
            return
        error = abs(mp.mpf(ours) - right) / (relative * terms + absolute)
        error = mp.inf if mp.isnan(error) else error
        if error > self.error:
            self.error, self.where = error, (where, ours, float(right), float(terms))

    def report(self):
        assert self.error <= 1, f"{float(self.error):.3g} times what is allowed: {self.where}"


def tolerances(dtype, classes, margin):
    """Relative, and absolute: a number below the normal ones is off by half the smallest, a sum by each of its terms'.

    16 bits round the result, which float32 has computed."""
    wide = torch.promote_types(dtype, torch.float32)
    lost = SMALLEST[wide] * classes * (8 + margin)
    if dtype == wide:
        return ROUNDING[dtype] * (8 + margin), lost
    return ROUNDING[dtype], lost + SMALLEST[dtype] / 2


def check(name, x, t, y, worst, where):
    dtype, loss, classes = x.dtype, ROWWISE[name], len(x)
    right = exact(name, x, t, y)
    x, t = x[None].clone().requires_grad_(), t[None].clone().requires_grad_(loss.target_grad)
    value = loss.call(T, x, t, torch.tensor([y], device=x.device))
    value.sum().backward()
    limits = tolerances(dtype, classes, right.margin)
    twice = (8 * ROUNDING[torch.promote_types(dtype, torch.float32)]) ** 2 * right.second_order
    worst.see(
        value.item(), right.value, right.value_terms or right.value, limits[0], limits[1] + twice, (where, "value")
    )
    if dtype.itemsize == 2 and name == "nll_loss of log_softmax":
        return  # the gradient is that of the output, which 16 bits have rounded
    for input, leaf, entries in zip("xt", (x, t), right.grads, strict=False):
        grad = leaf.grad[0].double().cpu()
        low, high = (
            torch.zeros(len(entries), dtype=torch.float64).scatter_reduce(0, right.which, grad, how, include_self=False)
            for how in ("amin", "amax")
        )
        for group, (entry, *found) in enumerate(zip(entries, low.tolist(), high.tolist(), strict=True)):
            for mine in set(found):
                near = tolerances(dtype, classes, max(right.margin, entry.distance if entry.terms else 0))
                worst.see(mine, entry.grad, entry.terms, *near, (where, input, group))
        terms = sum(n * e.terms for n, e in zip(right.counts, entries, strict=True))
        slope = right.slope if input == "x" else 0
        worst.see(math.fsum(grad.tolist()), slope, terms, limits[0], limits[1] * classes, (where, input, "sum"))


def sweep(name, dtype, kind, device, many):
    worst = Worst()
    for classes in many:
        for x, y in kind(classes, dtype):
            for k, t in enumerate(targets(name, x, y, dtype)):
                check(name, x.to(device), t.to(device), y, worst, (classes, y, k, x[:3].tolist()))
    return worst


@pytest.mark.failure(25, 29, 31, 32)
@each_device
@pytest.mark.parametrize("classes", CLASSES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@each_dtype
@pytest.mark.parametrize("name", ROWWISE)
def test_rows(name, dtype, kind, classes, device):
    sweep(name, dtype, KINDS[kind], device, classes).report()


@each_device
@each_dtype
@pytest.mark.parametrize("weight", [1.0, 3.0])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
def test_binary(target, weight, dtype, device):
    """The gradient of each logit. It is a difference of two terms where the target is soft."""
    worst, logits = Worst(), [float(s * m) for m in MARGINS for s in (1, -1)]
    x = torch.tensor(logits, dtype=dtype, device=device).requires_grad_()
    p = torch.tensor(weight, dtype=dtype, device=device)
    loss = T.binary_cross_entropy_with_logits(x, torch.full_like(x, target), pos_weight=p, reduction="none")
    loss.sum().backward()
    for v, mine, grad in zip(x.tolist(), loss.tolist(), x.grad.tolist(), strict=True):
        value, slope, terms = binary(v, target, weight)
        limits = tolerances(dtype, 1, abs(v))
        worst.see(mine, value, value, *limits, (v, "value"))
        worst.see(grad, slope, terms, *limits, (v, "gradient"))
    worst.report()


def sums(f, x, t, **options):
    return [f(x, t, reduction=r, **options).double() for r in ("mean", "sum")]


@each_device
@pytest.mark.parametrize("kind", ["equal", "random"])
@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits", "cross_entropy"])
def test_sums_of_10_million(name, kind, device):
    """Within 1e-6. Equal numbers are the hard case, for their roundings have one sign."""
    g = torch.Generator().manual_seed(0)
    x = torch.full((10**7,), 0.1) if kind == "equal" else torch.randn(10**7, generator=g)
    t = torch.full((10**7,), 0.7)
    if name == "cross_entropy":
        x, t = x.view(-1, 10), torch.zeros(10**6, dtype=torch.int64)
    ours = sums(getattr(T, name), x.to(device), t.to(device))
    right = sums(getattr(torch.nn.functional, name), x.double(), t.double() if t.is_floating_point() else t)
    for mine, truth in zip(ours, right, strict=True):
        assert abs(mine.cpu() - truth) <= 1e-6 * truth, float(mine.cpu() / truth - 1)


SWEEP = """
import torch, test_exactness as tests
for name in tests.ROWWISE:
    for kind in (tests.leader, tests.normal):
        tests.sweep(name, torch.float32, kind, "cpu", (33,)).report()
"""


@pytest.mark.parametrize("level", ["default", "avx2", "avx512"])
def test_each_instruction_set(level):
    """That each uses another, tests/test_instruction_sets.py knows."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    env = {**os.environ, "TORCHLOSS_CPU": level, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", SWEEP], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def cells(line):
    """The text of a table's line, and its numbers: the bound, and the errors of torch and torchloss in turn."""
    parts = line.split(" | ")
    if len(parts) != 7 or not parts[1].isdigit():
        return line, []
    return parts[:2], [float(v.rstrip(" |")) for v in parts[2:]]


def test_the_page_is_what_the_command_prints():
    """Errors depend on the processor: like those printed where they are large, within the bound where small."""
    printed = (Path(__file__).parent.parent / "docs" / "exactness.md").read_text()
    rows = 0
    for old, new in zip(printed.splitlines(), page().splitlines(), strict=True):
        (text, then), (same, now) = cells(old), cells(new)
        assert text == same or " with torch " in old
        rows += len(now) > 0
        for k, (a, b) in enumerate(zip(then, now, strict=True)):
            if k and k % 2 == 0:
                assert max(a, b) <= now[0], new
            else:
                assert math.isclose(a, b, rel_tol=0.75, abs_tol=20 * now[0]), new
    assert rows > 90
