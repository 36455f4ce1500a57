"""The truth, to 60 digits, of the losses that claim to be right to rounding at any margin.

python -m torchloss.testing.exactness     prints docs/exactness.md: torch beside torchloss
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import torchloss.functional
from torchloss.testing import losses

try:
    import mpmath
except ModuleNotFoundError:
    if __name__ == "__main__":
        raise SystemExit("python -m torchloss.testing.exactness needs mpmath: pip install mpmath") from None
    raise

mp = mpmath.mp.clone()
mp.dps = 60
Number = Any  # mpf
Numbers = list[Number]


class Entry(NamedTuple):
    """An entry of a gradient. Where it is a difference, `terms` is the sum of the two sizes, else its own size."""

    grad: Number
    terms: Number
    distance: Number  # of the logit from the largest


class Exact(NamedTuple):
    value: Number
    grads: list[list[Entry]]  # of each input, by distinct class
    margin: Number = mp.mpf(0)
    value_terms: Number | None = None  # like an entry's, of the value
    slope: Number = mp.mpf(0)  # what the entries of the input's gradient add up to
    second_order: Number = mp.mpf(0)  # what two roundings at once are of: all that is left to lose near 0
    counts: list[int] | None = None
    which: Tensor | None = None  # the distinct class of each class


def times(a: Number, b: Number) -> Number:
    """0 log 0 = 0."""
    return a * b if a else mp.mpf(0)


class Row:
    """The softmax of a row of logits, which holds x[j] n[j] times."""

    def __init__(self, x: Numbers, n: list[int]) -> None:
        self.n, top = n, max(x)
        self.d = [v - top for v in x]
        e = [mp.exp(d) for d in self.d]
        s = self.sum(e)
        log_s = mp.log(s)
        self.lse, self.lse_terms = top + log_s, abs(top) + log_s
        self.p, self.log_p = [v / s for v in e], [d - log_s for d in self.d]
        below = [v if d else mp.mpf(0) for v, d in zip(e, self.d, strict=True)]
        others = self.sum(below)
        self.others = others / s  # the probability that the largest leave
        # By how much the largest lead: on average, for it is the sum of the others that inherits their roundings.
        self.margin = self.sum(times(v, -d) for v, d in zip(below, self.d, strict=True)) / others if others else 0

    def sum(self, v: Iterable[Number]) -> Number:
        return mp.fsum(n * a for n, a in zip(self.n, v, strict=True))


def cross_entropy(row: Row, a: Numbers) -> Exact:
    """sum a l. The gradient has the terms (A - a) p and a (1 - p), one of which is 0 where the target is one class."""
    mass = row.sum(a)
    terms = [((mass - w) * p, w * (1 - p)) for w, p in zip(a, row.p, strict=True)]
    grad = [Entry(g - h, g + h, -d) for (g, h), d in zip(terms, row.d, strict=True)]
    return Exact(row.sum(times(w, -z) for w, z in zip(a, row.log_p, strict=True)), [grad], row.margin)


def with_z_loss(exact: Exact, row: Row, z: Number) -> Exact:
    """Plus z lse^2, whose lse is a sum of the largest logit and log s; in the gradient, plus 2 z lse p."""
    slopes = [(2 * z * row.lse * p, 2 * z * row.lse_terms * p) for p in row.p]
    grad = [Entry(e.grad + a, e.terms + b, e.distance) for e, (a, b) in zip(exact.grads[0], slopes, strict=True)]
    terms = exact.value + z * row.lse_terms**2
    return exact._replace(value=exact.value + z * row.lse**2, grads=[grad], value_terms=terms, slope=2 * z * row.lse)


def scaled(exact: Exact, scale: Number) -> Exact:
    """Of logits that are scaled, the gradient in those that were given. A distance is rounded once more."""
    grads = [[Entry(scale * e.grad, scale * e.terms, 2 * e.distance) for e in entries] for entries in exact.grads]
    return exact._replace(grads=grads, margin=2 * exact.margin)


def likelihood(row: Row, a: Numbers) -> Exact:
    """The same by way of log_softmax, whose gradient is of the output l as it was rounded: three roundings of it."""
    exact = cross_entropy(row, a)
    grad = [e if w else e._replace(distance=-3 * z) for e, w, z in zip(exact.grads[0], a, row.log_p, strict=True)]
    return exact._replace(grads=[grad])


def entropy(row: Row) -> Exact:
    """The gradient p (D - d), D = sum p d, is a difference but for the leader, whose d is 0."""
    mean = row.sum(times(p, d) for p, d in zip(row.p, row.d, strict=True))
    value = row.sum(times(p, -z) for p, z in zip(row.p, row.log_p, strict=True))
    grad = [Entry(times(p, mean - d), times(p, -mean - d), -d) for p, d in zip(row.p, row.d, strict=True)]
    return Exact(value, [grad], row.margin)


def divergence(q: Row, p: Row, temperature: float = 1.0) -> Exact:
    """In the input, q - p: a difference as far as the leaders leave something to the others. In the target, p (l - K):
    one of e = (x - max x) - (t - max t), its mean over the target's leaders, o, and what the others move that by. The
    value is a sum of q - p - p d, which is a difference where the probabilities differ by a factor of 3 and more. Near
    0 it is of second order in what log s_q - log s_p and the mean of e are off by."""
    ratio = [b - a for a, b in zip(q.log_p, p.log_p, strict=True)]
    K = p.sum(times(b, r) for b, r in zip(p.p, ratio, strict=True))
    e = [a - b for a, b in zip(q.d, p.d, strict=True)]
    leaders = [(v, n) for v, n, d in zip(e, p.n, p.d, strict=True) if d == 0]
    o = mp.fsum(v * n for v, n in leaders) / sum(n for _, n in leaders)
    parts = [abs(v - o) if d == 0 else abs(v) + abs(o) for v, d in zip(e, p.d, strict=True)]
    moved = p.sum(times(b, v) for b, v in zip(p.p, parts, strict=True))
    inner, outer = [], []
    for a, b, r, v, d in zip(q.p, p.p, ratio, parts, map(min, q.d, p.d), strict=True):
        inner.append(Entry((a - b) / temperature, (abs(a - b) + min(a, b) * (q.others + p.others)) / temperature, -d))
        outer.append(Entry(times(b, r - K) / temperature, times(b, v + moved) / temperature, -d))
    far = p.sum(abs(a - b) + times(b, abs(r)) if abs(r) > 1 else 0 for a, b, r in zip(q.p, p.p, ratio, strict=True))
    wide = p.sum(times(b, abs(v)) for b, v in zip(p.p, e, strict=True))
    return Exact(K, [inner, outer], q.margin + p.margin, K + far, second_order=wide)


class Loss(NamedTuple):
    """`call(functions, x, t, y)` of one row; `truth(x, n, t, one_hot)` of its distinct classes; one_hot is 1 for y."""

    call: Callable[[Any, Tensor, Tensor, Tensor], Tensor]
    truth: Callable[[Numbers, list[int], Numbers, Numbers], Exact]
    target_grad: bool = False


class Torch:
    """The same functions, of torch alone."""

    softmax_entropy = staticmethod(losses.softmax_entropy)
    kl_div_with_logits = staticmethod(losses.kl_div_with_logits)

    @staticmethod
    def cross_entropy(x: Tensor, t: Tensor, *, z_loss: float = 0.0, logit_scale: float = 1.0, **options: Any) -> Tensor:
        x = logit_scale * x if logit_scale != 1 else x
        loss = torch.nn.functional.cross_entropy(x, t, **options)
        return loss + z_loss * x.logsumexp(1).square().mean() if z_loss else loss

    nll_loss = staticmethod(torch.nn.functional.nll_loss)
    log_softmax = staticmethod(torch.nn.functional.log_softmax)
    binary_cross_entropy_with_logits = staticmethod(torch.nn.functional.binary_cross_entropy_with_logits)


def smoothed(x: Numbers, n: list[int], t: Numbers, one_hot: Numbers) -> Exact:
    return cross_entropy(Row(x, n), [h * mp.mpf(0.75) + mp.mpf(0.25) / sum(n) for h in one_hot])


ROWWISE = {
    "cross_entropy": Loss(
        lambda f, x, t, y: f.cross_entropy(x, y), lambda x, n, t, one_hot: cross_entropy(Row(x, n), one_hot)
    ),
    "cross_entropy, label_smoothing": Loss(lambda f, x, t, y: f.cross_entropy(x, y, label_smoothing=0.25), smoothed),
    "cross_entropy, probabilities": Loss(
        lambda f, x, t, y: f.cross_entropy(x, t), lambda x, n, t, one_hot: cross_entropy(Row(x, n), t)
    ),
    "cross_entropy, logit_scale": Loss(
        lambda f, x, t, y: f.cross_entropy(x, y, logit_scale=0.3),
        lambda x, n, t, one_hot: scaled(cross_entropy(Row([v * mp.mpf(0.3) for v in x], n), one_hot), mp.mpf(0.3)),
    ),
    "cross_entropy, z_loss": Loss(
        lambda f, x, t, y: f.cross_entropy(x, y, z_loss=2**-10),
        lambda x, n, t, one_hot: with_z_loss(cross_entropy(Row(x, n), one_hot), Row(x, n), mp.mpf(2) ** -10),
    ),
    "nll_loss of log_softmax": Loss(
        lambda f, x, t, y: f.nll_loss(f.log_softmax(x, 1), y), lambda x, n, t, one_hot: likelihood(Row(x, n), one_hot)
    ),
    "softmax_entropy": Loss(lambda f, x, t, y: f.softmax_entropy(x), lambda x, n, t, one_hot: entropy(Row(x, n))),
    "kl_div_with_logits": Loss(
        lambda f, x, t, y: f.kl_div_with_logits(x, t), lambda x, n, t, one_hot: divergence(Row(x, n), Row(t, n)), True
    ),
    "kl_div_with_logits, temperature": Loss(
        lambda f, x, t, y: f.kl_div_with_logits(x, t, 4.0),
        lambda x, n, t, one_hot: divergence(Row([v / 4 for v in x], n), Row([v / 4 for v in t], n), 4),
        True,
    ),
}


def exact(name: str, x: Tensor, t: Tensor, y: int) -> Exact:
    """The truth for the row x, with the class y or the numbers t as a target."""
    one_hot = torch.zeros(len(x), dtype=torch.float64)
    one_hot[y] = 1
    columns = [x.detach().cpu().double(), t.detach().cpu().double(), one_hot]
    which = torch.zeros(len(x), dtype=torch.int64)
    for column in columns:
        values, index = column.unique(return_inverse=True)
        which = which * len(values) + index
    _, which, counts = which.unique(return_inverse=True, return_counts=True)
    one = torch.empty_like(counts).scatter_(0, which, torch.arange(len(x)))  # of each distinct class
    xs, ts, hits = ([mp.mpf(v) for v in column[one].tolist()] for column in columns)
    spread = max(max(c) - min(v for v in c if v != -mp.inf) for c in (xs, ts))
    mp.dps = 60 + int(spread / mp.log(10))  # 60 of 1 - e^-spread
    result = ROWWISE[name].truth(xs, counts.tolist(), ts, hits)
    return result._replace(counts=counts.tolist(), which=which)


def binary(x: float, t: float, p: float) -> tuple[Number, Number, Number]:
    """binary_cross_entropy_with_logits with a weight p of the positive class: value, gradient, the gradient's terms."""
    up, down = (1 - mp.mpf(t)) / (1 + mp.exp(-mp.mpf(x))), mp.mpf(p) * t / (1 + mp.exp(mp.mpf(x)))
    value = (1 - mp.mpf(t)) * mp.log1p(mp.exp(mp.mpf(x))) + mp.mpf(p) * t * mp.log1p(mp.exp(-mp.mpf(x)))
    return value, up - down, up + down


# The page

MARGINS = (0, 1, 10, 17, 30, 80)
CLASSES = 1000
BINARY = "binary_cross_entropy_with_logits"
UNIT = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8}
INTRODUCTION = f"""# Exactness

`python -m torchloss.testing.exactness`, with torch {torch.__version__} and torchloss {torchloss.__version__}, printed:

Relative errors of torch and of torchloss against the truth, which mpmath gives to 60 digits: of the loss of one
row, and of its gradient at the target. The row has {CLASSES} classes, of which the target leads by the margin over all
others, which are equal. The gradient of `softmax_entropy` and of `kl_div_with_logits`, whose target logits lead by 5,
is that of the leading logit; `{BINARY}` has one logit, the margin, and the target 1.

An error of 1 means that all of it is lost. Softmax cross entropy in torch is log_softmax and then a gradient p - 1.
In float32, log(1 + s) is 0 and p is 1 as soon as the others' sum s is below 6e-8, and well before that few of their
digits are right: both differ from what they should be by a rounding of 1, not of themselves. torchloss keeps s apart
from the 1 of the largest logit. Then log p = -log1p(s) and 1 - p = s / (1 + s), with nothing to cancel.

**The bound** is u (8 + margin) with u = 2^-24 in float32 and 2^-53 in float64, half the distance from 1 to the next
number: the margin's part is the rounding of x - max, of which e^x makes a relative error. bfloat16 and float16 are
computed in float32, and only the result is rounded, to 2^-8 and 2^-11. The tests hold the losses to the bound for 2 to
200,000 classes, for random rows, ties, masked classes and offsets up to 1e30, and every other entry of the gradients.

**Not exact**, and why:

- `log_softmax` saves its rounded output for the backward pass, as torch does. In 16 bits its gradient is right for that
  output and no better; in float32, where a class has the log-probability l, to 3 |l| roundings. `cross_entropy` saves
  the logits.
- An entry of a gradient may be a difference of two terms that are not small: label smoothing, soft targets, the entropy
  (but for its leader) and the divergence each have rows where it is 0. It is right in relation to the terms. So is the
  divergence: a sum of terms q - p - p d, d = log q - log p, which where |d| > 1 are differences of up to 4 times their
  size.
- `logit_scale` rounds x - max once more: the bound is u (8 + 2 margin), with the margin of the scaled logits. `softcap`
  rounds each capped logit: the bound holds for logits that are those numbers. With a `z_loss` an entry of the gradient
  is a sum of two terms, p - [j = y] and 2 z lse p: it is right in relation to them.
- Below the smallest normal number (1e-38 in float32, 6e-5 in float16) digits are lost one by one.
"""


def entry(name: str, dtype: torch.dtype, margin: float, functions: Any) -> tuple[float, float]:
    """The relative errors of the value and of the gradient at class 0."""
    if name == BINARY:
        x = torch.tensor([margin], dtype=dtype, requires_grad=True)
        value = functions.binary_cross_entropy_with_logits(x, torch.ones_like(x))
        right, slope, _ = binary(margin, 1, 1)
    else:
        x, t = torch.zeros(2, CLASSES, dtype=dtype)
        x[0], t[0] = margin, 5 if name.startswith("kl_div") else 1
        truth = exact(name, x, t, 0)
        right, slope = truth.value, truth.grads[0][truth.which[0]].grad
        x = x[None].requires_grad_()
        value = ROWWISE[name].call(functions, x, t[None], torch.tensor([0]))
    value.backward()
    found = value.item(), x.grad.flatten()[0].item()
    return tuple(
        float(abs((mp.mpf(v) - r) / r)) if r else float(v != 0) for v, r in zip(found, (right, slope), strict=True)
    )


def table(dtype: torch.dtype, names: Iterable[str]) -> str:
    lines = ["| loss | margin | bound | loss: torch | torchloss | gradient: torch | torchloss |", "|---" * 7 + "|"]
    for name in names:
        for m in MARGINS:
            theirs, ours = entry(name, dtype, m, Torch), entry(name, dtype, m, torchloss.functional)
            bound = UNIT[dtype] if dtype == torch.bfloat16 else UNIT[dtype] * (8 + m)
            numbers = " | ".join(f"{v:.1e}" if v else "0" for v in (bound, theirs[0], ours[0], theirs[1], ours[1]))
            lines.append(f"| {name} | {m} | {numbers} |")
    return "\n".join(lines)


def page() -> str:
    names = [*ROWWISE, BINARY]
    parts = [INTRODUCTION]
    for dtype, rows in ((torch.float32, names), (torch.bfloat16, names), (torch.float64, names[:1])):
        parts.append(f"## {str(dtype).removeprefix('torch.')}\n\n{table(dtype, rows)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
