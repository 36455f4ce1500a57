"""The table of losses. A loss has its rows here, and every test and every benchmark reads them."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import torchloss

REDUCTIONS = ("none", "mean", "sum")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# The texts and quirks of torch that tests compare with are those of 2.13.
TEXTS_OF_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


# What torch lacks, as formulas in torch operators.


def total(each: Tensor, weights: Tensor, reduction: str, row_weight: Tensor | None, normalizer: Any) -> Tensor:
    """The losses of rows as they are, their sum, or that over the weights of the rows, or over a normalizer."""
    if row_weight is not None:
        each, weights = each * row_weight, weights * row_weight
    if reduction == "none":
        return each
    if normalizer is not None:
        return each.sum() / normalizer
    return each.sum() / weights.sum() if reduction == "mean" else each.sum()


def transformed(x: Tensor, softcap: float | None, logit_scale: float) -> Tensor:
    return logit_scale * (x if softcap is None else softcap * (x / softcap).tanh())


def entropy(
    probs: Tensor,
    *,
    base: float = math.e,
    dim: int = -1,
    reduction: str = "mean",
    row_weight: Tensor | None = None,
    normalizer: Any = None,
) -> Tensor:
    each = torch.special.entr(probs).sum(dim) / math.log(base)
    return total(each, torch.ones_like(each), reduction, row_weight, normalizer)


def softmax_entropy(
    logits: Tensor,
    *,
    dim: int = -1,
    reduction: str = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    row_weight: Tensor | None = None,
    normalizer: Any = None,
) -> Tensor:
    x = transformed(logits, softcap, logit_scale)
    log_p = x.log_softmax(dim)
    each = -(log_p.exp() * log_p).sum(dim) + z_loss * x.logsumexp(dim) ** 2
    return total(each, torch.ones_like(each), reduction, row_weight, normalizer)


def kl_div_with_logits(
    input: Tensor,
    target: Tensor,
    temperature: float = 1.0,
    *,
    dim: int = -1,
    reduction: str = "mean",
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    row_weight: Tensor | None = None,
    normalizer: Any = None,
) -> Tensor:
    x, t = (transformed(a, softcap, logit_scale / temperature) for a in (input, target))
    log_q, log_p = x.log_softmax(dim), t.log_softmax(dim)
    each = (log_p.exp() * (log_p - log_q)).sum(dim) + z_loss * x.logsumexp(dim) ** 2
    return total(each, torch.ones_like(each), reduction, row_weight, normalizer)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    row_weight: Tensor | None = None,
    normalizer: Any = None,
) -> Tensor:
    x = transformed(input, softcap, logit_scale)
    index = not target.is_floating_point()
    options = {"ignore_index": ignore_index} if index else {}
    each = F.cross_entropy(x, target, weight, reduction="none", label_smoothing=label_smoothing, **options)
    counts = target != ignore_index if index else torch.ones_like(each, dtype=torch.bool)
    each = each + z_loss * (counts * x.logsumexp(class_dim(x.shape)) ** 2)
    weights = counts.to(x.dtype)
    if index and weight is not None:
        weights = weight[target.where(counts, 0)] * counts
    return total(each, weights, reduction, row_weight, normalizer)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    row_weight: Tensor | None = None,
    normalizer: Any = None,
) -> Tensor:
    each = F.nll_loss(input, target, weight, reduction="none")
    counts = target != -100
    weights = counts.to(input.dtype) if weight is None else weight[target.where(counts, 0)] * counts
    return total(each, weights, reduction, row_weight, normalizer)


def logit_stats(
    input: Tensor, target: Tensor, *, softcap: float | None = None, logit_scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    x = transformed(input, softcap, logit_scale)
    log_p, counts = x.log_softmax(-1), target != -100
    log_prob = log_p.gather(-1, target.where(counts, 0).unsqueeze(-1)).squeeze(-1)
    return tuple(a * counts for a in (log_prob, x.logsumexp(-1), -(log_p.exp() * log_p).sum(-1)))


def normalized(loss: Callable) -> Callable:
    """torch's loss of every element with a normalizer."""

    def divided(*args: Tensor, reduction: str, normalizer: Any, **options: Any) -> Tensor:
        return loss(*args, reduction="sum", **options) / normalizer

    return divided


NEW = {f.__name__: f for f in (entropy, softmax_entropy, kl_div_with_logits, logit_stats)}
EXTENDED = {f.__name__: f for f in (cross_entropy, nll_loss)}
EXTRAS = {"z_loss", "softcap", "logit_scale", "row_weight", "normalizer"}  # of losses that torch has without them
STATS = 3  # of logit_stats, those that have a gradient


def function(library: Any, name: str) -> Callable:
    """A loss by its name, as one tensor of one value or several, in the dtype of its input."""
    loss = getattr(library, name)
    if name != "logit_stats":
        return loss
    return lambda x, *args, **options: torch.stack(loss(x, *args, **options)[:STATS], -1).to(x.dtype)


# Inputs and targets: (shape, generator) -> float64 tensor, or class indices.


def normal(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=g) * 2


def unit(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=g) * 0.96 + 0.02


def class_dim(shape: tuple[int, ...]) -> int:
    return min(1, len(shape) - 1)


def probs(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return normal(shape, g).softmax(class_dim(shape))


def last_probs(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return (normal(shape, g) / 4).softmax(-1)  # not near 0, where finite differences of p log p are wrong


def log_probs(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return normal(shape, g).log_softmax(class_dim(shape))


def index(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Class indices; where there are several, every fifth is ignored."""
    dim = class_dim(shape)
    t = torch.randint(0, max(shape[dim], 1), shape[:dim] + shape[dim + 1 :], generator=g)
    if t.numel() > 1:
        t.view(-1)[::5] = -100
    return t


def ramp(shape: tuple[int, ...]) -> Tensor:
    """Weights of the elements, exact in every dtype."""
    n = math.prod(shape)
    return (0.5 + torch.arange(n, dtype=torch.float64) % 8 / 8).reshape(shape)


def last_index(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Class indices of the last dimension."""
    return torch.randint(0, max(shape[-1], 1), shape[:-1], generator=g)


def row_ramp(shape: tuple[int, ...]) -> Tensor:
    """Weights of the rows, where the classes are as in cross_entropy."""
    dim = class_dim(shape)
    return ramp(shape[:dim] + shape[dim + 1 :])


def last_row_ramp(shape: tuple[int, ...]) -> Tensor:
    """Weights of the rows, where the classes are last."""
    return ramp(shape[:-1])


def class_ramp(shape: tuple[int, ...]) -> Tensor:
    """Weights of the classes."""
    return ramp((shape[class_dim(shape)],))


class Loss(NamedTuple):
    name: str  # in torchloss.functional and, if torch has it, torch.nn.functional
    family: str  # pointwise, rowwise, or map: a row in, a row out
    op: str  # in torch.ops.torchloss
    params: dict[str, Any] = {}
    input: Callable = normal
    target: Callable | None = normal
    target_grad: bool = True
    weights: dict[str, Callable] = {}

    def __str__(self) -> str:
        kinds = {index: "index", probs: "probs"} if self.name == "cross_entropy" else {}
        words = [
            kinds.get(self.target, ""),
            *self.weights,
            *(f"{k}={v:g}" for k, v in self.params.items() if k != "dim"),
        ]
        return "-".join(filter(None, (self.name, *words)))

    @property
    def reductions(self) -> tuple[str, ...]:
        if self.family == "map" or self.name == "logit_stats":
            return ("none",)
        return REDUCTIONS[1:] if "normalizer" in self.params else REDUCTIONS

    def sample(self, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """An input and a target in float64."""
        g = torch.Generator().manual_seed(seed)
        return self.input(shape, g), None if self.target is None else self.target(shape, g)

    def options(
        self, shape: tuple[int, ...], reduction: str, dtype: torch.dtype = torch.float64, device: Any = "cpu"
    ) -> dict[str, Any]:
        """The keyword arguments of a call with an input of this shape."""
        weights = {k: w(tuple(shape)).to(device, dtype) for k, w in self.weights.items()}
        without = self.family == "map" or self.name == "logit_stats"
        return self.params | ({} if without else {"reduction": reduction}) | weights

    @property
    def reference(self) -> Callable:
        """torch's function, or a formula in its operators."""
        if self.name in NEW:
            formula = NEW[self.name]
            return (lambda *a, **o: torch.stack(formula(*a, **o), -1)) if self.name == "logit_stats" else formula
        if not EXTRAS & {*self.params, *self.weights}:
            return getattr(F, self.name)
        return EXTENDED.get(self.name) or normalized(getattr(F, self.name))

    def _call(self, function: Callable, x: Tensor, t: Tensor | None, reduction: str) -> Tensor:
        options = self.options(x.shape, reduction, x.dtype, x.device)
        args = [a for a in (x, t) if a is not None]
        if self.name != "kl_div":
            return function(*args, **options)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="reduction: 'mean' divides")
            return function(*args, **options)

    def ours(self, x: Tensor, t: Tensor | None, reduction: str = "mean") -> Tensor:
        return self._call(function(torchloss.functional, self.name), x, t, reduction)

    def oracle(self, x: Tensor, t: Tensor | None, reduction: str = "mean") -> Tensor:
        return self._call(self.reference, x, t, reduction)


def _pointwise(name: str, op: str | None = None, **fields: Any) -> Loss:
    return Loss(name, "pointwise", op or name, **fields)


def _rowwise(name: str, op: str | None = None, **fields: Any) -> Loss:
    return Loss(name, "rowwise", op or name, **fields)


_index = {"target": index, "target_grad": False}
_weight, _class_weight = {"weight": ramp}, {"weight": class_ramp}

LOSSES = [
    _pointwise("l1_loss"),
    _pointwise("l1_loss", weights=_weight),
    _pointwise("mse_loss"),
    _pointwise("mse_loss", weights=_weight),
    _pointwise("huber_loss"),
    _pointwise("huber_loss", params={"delta": 0.3}, weights=_weight),
    _pointwise("smooth_l1_loss"),
    _pointwise("smooth_l1_loss", params={"beta": 0.3}),
    _pointwise("kl_div", input=log_probs, target=unit),
    _pointwise("kl_div", op="kl_div_log_target", params={"log_target": True}, input=log_probs, target=log_probs),
    _pointwise("binary_cross_entropy", input=unit, target=unit),
    _pointwise("binary_cross_entropy", input=unit, target=unit, weights=_weight),
    _pointwise("binary_cross_entropy_with_logits", target=unit),
    _pointwise(
        "binary_cross_entropy_with_logits", target=unit, weights={"weight": ramp, "pos_weight": lambda s: 3 * ramp(s)}
    ),
    _rowwise("nll_loss", input=log_probs, **_index),
    _rowwise("nll_loss", input=log_probs, **_index, weights=_class_weight),
    _rowwise("cross_entropy", **_index),
    _rowwise("cross_entropy", **_index, weights=_class_weight),
    _rowwise("cross_entropy", **_index, params={"label_smoothing": 0.1}),
    _rowwise("cross_entropy", **_index, params={"label_smoothing": 0.3}, weights=_class_weight),
    _rowwise("cross_entropy", op="cross_entropy_probs", target=probs),
    _rowwise(
        "cross_entropy",
        op="cross_entropy_probs",
        target=probs,
        params={"label_smoothing": 0.1},
        weights=_class_weight,
    ),
    _rowwise("entropy", input=last_probs, target=None, target_grad=False),
    _rowwise("entropy", input=last_probs, target=None, target_grad=False, params={"base": 2.0}),
    _rowwise("softmax_entropy", target=None, target_grad=False),
    _rowwise("kl_div_with_logits"),
    _rowwise("kl_div_with_logits", params={"temperature": 2.0}),
    Loss("softmax", "map", "softmax", {"dim": -1}, target=None, target_grad=False),
    Loss("log_softmax", "map", "log_softmax", {"dim": -1}, target=None, target_grad=False),
]

# With the options that torch's losses do not have.
_ALL = {"z_loss": 0.05, "softcap": 3.0, "logit_scale": 0.7}

WITH_OPTIONS = [
    _pointwise("mse_loss", params={"normalizer": 2.5}),
    _pointwise("binary_cross_entropy_with_logits", target=unit, params={"normalizer": 2.5}, weights=_weight),
    _rowwise("nll_loss", input=log_probs, **_index, params={"normalizer": 2.5}, weights={"row_weight": row_ramp}),
    _rowwise("cross_entropy", **_index, params={"normalizer": 2.5}),
    _rowwise("cross_entropy", **_index, params={"z_loss": 0.05}),
    _rowwise("cross_entropy", **_index, params={"softcap": 3.0, "logit_scale": 0.7}, weights={"row_weight": row_ramp}),
    _rowwise("cross_entropy", **_index, params={"label_smoothing": 0.1} | _ALL, weights=_class_weight),
    _rowwise("cross_entropy", op="cross_entropy_probs", target=probs, params=_ALL, weights={"row_weight": row_ramp}),
    _rowwise("softmax_entropy", target=None, target_grad=False, params=_ALL),
    _rowwise(
        "softmax_entropy",
        target=None,
        target_grad=False,
        params={"normalizer": 2.5},
        weights={"row_weight": last_row_ramp},
    ),
    _rowwise("kl_div_with_logits", params=_ALL, weights={"row_weight": last_row_ramp}),
    _rowwise("logit_stats", target=last_index, target_grad=False),
    _rowwise("logit_stats", target=last_index, target_grad=False, params={"softcap": 3.0, "logit_scale": 0.7}),
]

EVERY = [*LOSSES, *WITH_OPTIONS]

# One of each family and of each way to be wired: for the tests that take long.
FEW = [
    next(loss for loss in LOSSES if str(loss) == name)
    for name in (
        "huber_loss",
        "mse_loss-weight",
        "binary_cross_entropy_with_logits",
        "cross_entropy-index-label_smoothing=0.1",
        "cross_entropy-probs",
        "nll_loss",
        "kl_div_with_logits-temperature=2",
        "softmax_entropy",
        "softmax",
        "log_softmax",
    )
]


def leaves(loss: Loss, x: Tensor, t: Tensor | None, dtype: torch.dtype = torch.float64, device: str = "cpu"):
    """The sample as leaves that require grad where the loss has a gradient."""
    x = x.to(device, dtype).requires_grad_()
    if t is not None:
        t = t.to(device, dtype).requires_grad_(loss.target_grad) if t.is_floating_point() else t.to(device)
    return x, t
