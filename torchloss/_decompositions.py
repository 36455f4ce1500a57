"""Every map and loss in torch's own operators, for programs that run elsewhere.

`ExportedProgram.run_decompositions` and `torch.onnx.export` put these in the place of the ops; torch.compile and
torch.export alone keep the ops. They give all that an op gives, what it saves for a backward pass included, and are as
exact as torch's operators allow: 16-bit numbers are computed in float32, and the largest logit is left out of the sum
of the exponentials (csrc/row.h). A class out of range, or a number that is no probability, makes its row or element
NaN, as on CUDA, for a graph does not raise.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition

from torchloss._check import MEAN_OR_ZERO, NONE, SUM
from torchloss.autograd.chain import AUTOGRAD_KERNELS, with_defaults

Key = torch._C.DispatchKey


def decomposes(function: Callable) -> Callable:
    """Registers a function as the op of its name. It takes the op's arguments by their names."""
    op = getattr(torch.ops.torchloss, function.__name__).default
    names = [a.name for a in op._schema.arguments]

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        return function(**dict(zip(names, with_defaults(op, args), strict=True)) | kwargs)

    register_decomposition(op)(decomposition)
    decompose_by_default(op, decomposition)
    return function


def decompose_by_default(op: Any, decomposition: Callable) -> None:
    """Puts a decomposition into run_decompositions' own table, which has no ops of others but composite ones.

    While it runs, it makes an op's composite kernel that of every device, and what the table says the composite kernel.
    But where there are kernels in C++, as here, it does not call that: so the autograd kernel does.
    """

    def composite(*args: Any, **kwargs: Any) -> Any:
        return decomposition(*args, **kwargs) if running() else NotImplemented  # else others that ask get the kernel

    def running() -> bool:
        return Key.CPU in op.py_kernels

    def of_autograd(*args: Any) -> Any:
        result = op.decompose(*args)
        return AUTOGRAD_KERNELS[op](*args) if result is NotImplemented else result

    op.py_impl(Key.CompositeImplicitAutograd)(composite)
    if op in AUTOGRAD_KERNELS:
        for key in (Key.AutogradCPU, Key.AutogradCUDA):  # asked while a graph is traced, and never else
            op.py_impl(key)(of_autograd)


# Numbers


def wide(x: Tensor | None) -> Tensor | None:
    """A tensor in the compute type."""
    return x.float() if x is not None and x.dtype.itemsize == 2 else x


def times(h: Tensor, d: Tensor) -> Tensor:
    """h d, where an h that is 0 counts for nothing, also if d is infinite."""
    return h * torch.where((h == 0) & d.isinf(), 0, d)


def log1p(x: Tensor) -> Tensor:
    """ONNX has none, and log(1 + x), which torch puts in its place, loses a small x."""
    u = 1 + x
    small = u == 1
    return torch.where(small, x, u.log() * (x / torch.where(small, 1, u - 1)))


def exp_excess(d: Tensor) -> Tensor:
    """e^d - 1 - d for |d| <= 1, without cancellation."""
    p = torch.ones_like(d)
    for k in range(20 if d.dtype is torch.float64 else 12, 2, -1):
        p = 1 + p * (d / k)
    return d * d / 2 * p


# Pointwise losses


def pointwise(x: Tensor, each: Tensor, weight: Tensor | None, reduction: int) -> Tensor:
    if weight is not None:
        each = wide(weight) * each
    if reduction == NONE:
        return each.to(x.dtype)
    if reduction == SUM:
        return each.sum()
    mean = each.mean()
    return torch.where(torch.ones_like(each).sum() == 0, 0, mean) if reduction == MEAN_OR_ZERO else mean


@decomposes
def l1_loss(input, target, weight, reduction):
    return pointwise(input, (wide(input) - wide(target)).abs(), weight, reduction)


@decomposes
def mse_loss(input, target, weight, reduction):
    r = wide(input) - wide(target)
    return pointwise(input, r * r, weight, reduction)


@decomposes
def huber_loss(input, target, weight, reduction, delta):
    r = wide(input) - wide(target)
    c = r.clamp(-delta, delta)
    return pointwise(input, c * (r - c / 2), weight, reduction)


@decomposes
def smooth_l1_loss(input, target, weight, reduction, beta):
    r = wide(input) - wide(target)
    return pointwise(input, (r / beta).clamp(-1, 1) * (r - r.clamp(-beta, beta) / 2), weight, reduction)


@decomposes
def kl_div(input, target, weight, reduction):
    x, t = wide(input), wide(target)
    return pointwise(input, times(t, t.log()) - times(t, x), weight, reduction)


@decomposes
def kl_div_log_target(input, target, weight, reduction):
    x, t = wide(input), wide(target)
    return pointwise(input, t.exp() * (t - x), weight, reduction)


@decomposes
def binary_cross_entropy(input, target, weight, reduction):
    x, t = wide(input), wide(target)
    probabilities = (x >= 0) & (x <= 1) & (t >= 0) & (t <= 1)
    each = -t * x.log().clamp(min=-100) - (1 - t) * log1p(-x).clamp(min=-100)
    return pointwise(input, torch.where(probabilities, each, torch.nan), weight, reduction)


@decomposes
def binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction):
    x, t = wide(input), wide(target)
    n, pt = 1 - t, t if pos_weight is None else wide(pos_weight) * t
    each = times(torch.where(x >= 0, n, pt), x.abs()) + (n + pt) * log1p((-x.abs()).exp())
    return pointwise(input, each, weight, reduction)


# Rows


def capped(x: Tensor, softcap: float) -> Tensor:
    return softcap * (wide(x) / softcap).tanh() if softcap else wide(x)


class Softmax:
    """The softmax of logits times a scale: the largest, each one's distance from it, and s - 1, s = sum e^distance.

    A row without classes is all 0.
    """

    def __init__(self, x: Tensor, dim: int, scale: float = 1.0):
        self.dim, self.scale = dim, scale
        self.max = x.amax(dim, keepdim=True) if x.shape[dim] else x.sum(dim, keepdim=True)
        d = x - self.max
        self.leads = d == 0
        self.d = d if scale == 1 else d * scale
        self.e = self.d.exp()
        self.others = self.sum(torch.where(self.leads, 0, self.e))
        self.rest = self.others + (self.sum(self.leads.to(x.dtype)) - 1 if x.shape[dim] else 0)
        self.s, self.log_s = 1 + self.rest, log1p(self.rest)

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(self.dim, keepdim=True)

    @property
    def lse(self) -> Tensor:
        return self.max * self.scale + self.log_s

    @property
    def mean_distance(self) -> Tensor:
        return self.sum(times(self.e, self.d)) / self.s


def rows(each: Tensor, dim: int, weights: Tensor | None, reduction: int, *saved: Tensor) -> tuple:
    """What an op of rows returns: the loss, what a backward pass reads, and what a mean divides by."""
    each = each.squeeze(dim)
    total = (torch.ones_like(each) if weights is None else weights).sum()
    if reduction == MEAN_OR_ZERO:
        total = torch.where(total == 0, 1, total)
    loss = each
    if reduction != NONE:
        loss = each.sum() if reduction == SUM else each.sum() / total
    kept = torch.stack([a.squeeze(dim).expand(each.shape) for a in saved]) if saved else each.new_empty(0, *each.shape)
    return loss, kept, total


class Target:
    """Class indices: the rows that count, the class of each, and its weight; NaN where there is no such class."""

    def __init__(self, x: Tensor, target: Tensor, dim: int, ignore_index: int, weight: Tensor | None = None):
        target = target.unsqueeze(dim)
        self.dim, self.counts = dim, target != ignore_index
        known = (target >= 0) & (target < x.shape[dim])
        self.classes = torch.where(self.counts & known, target, 0)
        one = torch.ones_like(target, dtype=wide(x).dtype)
        w = one if weight is None or not x.shape[dim] else wide(weight)[self.classes]
        self.weight = self.only(torch.where(known, w, torch.nan))

    def of(self, x: Tensor) -> Tensor:
        return x.gather(self.dim, self.classes) if x.shape[self.dim] else x.sum(self.dim, keepdim=True)

    def only(self, each: Tensor) -> Tensor:
        return torch.where(self.counts, each, 0)


def along(weight: Tensor | None, x: Tensor, dim: int) -> Tensor:
    """Class weights, to be broadcast over the rows."""
    if weight is None:
        return torch.ones_like(x)
    return wide(weight).reshape([-1 if d == dim else 1 for d in range(x.dim())]).expand(x.shape)


def share(label_smoothing: float, x: Tensor, dim: int) -> float:
    """Of each class in a smoothed label."""
    return label_smoothing / x.shape[dim] if x.shape[dim] else 0.0


@decomposes
def nll_loss(input, target, weight, dim, ignore_index, reduction):
    t = Target(input, target, dim, ignore_index, weight)
    return rows(t.only(-t.weight * t.of(wide(input))), dim, t.weight, reduction)


@decomposes
def cross_entropy(input, target, weight, dim, ignore_index, reduction, label_smoothing, z_loss, softcap, logit_scale):
    x = capped(input, softcap)
    p, t = Softmax(x, dim, logit_scale), Target(x, target, dim, ignore_index, weight)
    each = t.weight * ((p.max - t.of(x)) * logit_scale + p.log_s)
    mass = torch.zeros_like(p.rest)
    if label_smoothing:
        w = along(weight, x, dim)
        mass = p.sum(w)
        uniform = mass * p.log_s - p.sum(times(w, p.d))
        each = (1 - label_smoothing) * each + share(label_smoothing, x, dim) * uniform
    if z_loss:
        each = each + z_loss * p.lse * p.lse
    return rows(t.only(each), dim, t.weight, reduction, p.max, p.rest, mass)


@decomposes
def cross_entropy_probs(input, target, weight, dim, reduction, label_smoothing, z_loss, softcap, logit_scale):
    x = capped(input, softcap)
    p = Softmax(x, dim, logit_scale)
    a = along(weight, x, dim) * ((1 - label_smoothing) * wide(target) + share(label_smoothing, x, dim))
    leader = p.sum(torch.where(p.leads, a, 0))
    others = p.sum(torch.where(p.leads, 0, a))
    each = (others + leader) * p.log_s - p.sum(times(a, p.d))
    if z_loss:
        each = each + z_loss * p.lse * p.lse
    return rows(each, dim, None, reduction, p.max, p.rest, others, leader)


@decomposes
def entropy(input, dim, reduction, base):
    p = wide(input)
    return rows(-times(p, p.log()).sum(dim, keepdim=True) / math.log(base), dim, None, reduction)


@decomposes
def softmax_entropy(input, dim, reduction, z_loss, softcap, logit_scale):
    p = Softmax(capped(input, softcap), dim, logit_scale)
    each = p.log_s - p.mean_distance
    if z_loss:
        each = each + z_loss * p.lse * p.lse
    return rows(each, dim, None, reduction, p.max, p.rest, p.mean_distance)


@decomposes
def kl_div_with_logits(input, target, dim, reduction, temperature, z_loss, softcap, logit_scale):
    """The sum of q - p - p d with d = log q - log p, whose terms are never below 0: see csrc/losses."""
    scale = logit_scale / temperature
    q, p = (Softmax(capped(a, softcap), dim, scale) for a in (input, target))
    ratio = q.log_s - p.log_s
    e = q.d - p.d
    d = e - ratio
    near = d.abs() < 1
    q_, p_ = q.e / q.s, p.e / p.s
    terms = torch.where(near, p_ * exp_excess(torch.where(near, d, 0)), q_ - p_ - times(p_, d))
    each = p.sum(terms)
    if z_loss:
        each = each + z_loss * q.lse * q.lse
    origin = p.sum(torch.where(p.leads, e, 0)) / p.sum(p.leads.to(e.dtype))
    moved = p.sum(times(torch.where(p.leads, 0, p_), e)) - times(p.others / p.s, origin)
    return rows(each, dim, None, reduction, q.max, q.rest, p.max, p.rest, origin, moved, ratio)


@decomposes
def logit_stats(input, target, dim, ignore_index, softcap, logit_scale):
    x = capped(input, softcap)
    p, t = Softmax(x, dim, logit_scale), Target(x, target, dim, ignore_index)
    x_y = t.of(x)
    values = (x_y - p.max) * logit_scale - p.log_s, p.lse, p.log_s - p.mean_distance, (x_y == p.max).to(x.dtype)
    stats = torch.stack([t.only(t.weight * v).squeeze(dim) for v in values])
    _, saved, total = rows(p.rest, dim, t.weight, NONE, p.max, p.rest, p.mean_distance)
    return stats, saved, total


@decomposes
def softmax(input, dim):
    return torch.softmax(input, dim)


@decomposes
def log_softmax(input, dim):
    p = Softmax(wide(input), dim)
    return (p.d - p.log_s).to(input.dtype)
