"""What is timed: a row of the table of losses at one shape and dtype, forward or forward + backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from torchloss.testing.losses import LOSSES, Loss, index

Shape = tuple[int, ...]
DIRECTIONS = ("forward", "both")
ROWS = {str(loss): loss for loss in LOSSES}
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


MOST_DRAWN = 2**26  # random numbers of a tensor; a larger one repeats them


def drawn(make: Callable[[Shape, torch.Generator], Tensor], shape: Shape, g: torch.Generator) -> Tensor:
    """Random numbers, and the same again below them where the CPU would take minutes to draw them all."""
    rows = min(shape[0], max(1, MOST_DRAWN // math.prod(shape[1:])))
    return make((rows, *shape[1:]), g)


def repeated(part: Tensor, rows: int) -> Tensor:
    return part if len(part) == rows else part.repeat(-(-rows // len(part)), *[1] * (part.dim() - 1))[:rows]


@dataclass(frozen=True)
class Case:
    """A loss on an input of a shape, with the mean as its reduction if it has one. Only the input has a gradient.

    `variant` is "ignored" (of the targets, every fifth), "inplace" (the gradient may be written over the logits),
    "transfer" (tensors begin and end in the CPU's memory, whatever computes) or nothing. Cases of one `series` differ
    in size alone.
    """

    loss: Loss
    shape: Shape
    dtype: torch.dtype = F32
    device: str = "cpu"
    direction: str = "both"
    variant: str = ""
    series: str = ""

    @property
    def name(self) -> str:
        return "-".join(filter(None, (str(self.loss), self.variant)))

    @property
    def size(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def type(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.name} {self.size} {self.type} {self.device} {self.direction}"

    @property
    def home(self) -> str:
        """Where the tensors lie."""
        return "cpu" if self.variant == "transfer" else self.device

    def arguments(self) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
        """The input, the target if there is one, and the options."""
        g = torch.Generator().manual_seed(0)
        x, targets = self.random(self.loss.input, g), []
        if self.loss.target is index:
            target = torch.randint(self.shape[1], (self.shape[0], *self.shape[2:]), generator=g)
            if self.variant == "ignored":
                target.view(-1)[::5] = -100
            targets = [target.to(self.home)]
        elif self.loss.target:
            targets = [self.random(self.loss.target, g)]
        return x, targets, self.loss.options(self.shape, self.loss.reductions[-2:][0], self.dtype, self.home)

    def random(self, make: Callable[[Shape, torch.Generator], Tensor], g: torch.Generator) -> Tensor:
        return repeated(drawn(make, self.shape, g).to(self.home, self.dtype), self.shape[0])

    def traffic(self, x: Tensor, targets: list[Tensor], options: dict[str, Any]) -> tuple[int, int]:
        """The least bytes that are read and written, forward and backward being two calls with other work between.

        Forward reads every tensor once; what it writes is as good as nothing, but for a map's output. Backward reads
        them again and writes the gradient; a map's reads its output and the incoming gradient instead. The
        logits of ignored rows are not read; nll_loss reads one element of each row.
        """
        if self.loss.family == "map":
            return (x.nbytes, x.nbytes) if self.direction == "forward" else (3 * x.nbytes, 2 * x.nbytes)
        others = [*targets, *(o for o in options.values() if isinstance(o, Tensor))]
        mine = x.nbytes
        if self.loss.target is index:
            kept = int((targets[0] >= 0).sum())
            mine = kept * (x.itemsize if self.loss.name == "nll_loss" else x.nbytes // targets[0].numel())
        read = mine + sum(t.nbytes for t in others)
        return (read, 0) if self.direction == "forward" else (2 * read, x.nbytes)


@dataclass(frozen=True)
class Set:
    """Cases, and how they are run unless one asks for something else."""

    cases: tuple[Case, ...]
    directions: tuple[str, ...] = ("both",)
    rivals: tuple[str, ...] = ("torchloss", "eager", "compile", "liger", "quack", "cce", "apex")
    seconds: float = 1.0
    exact: float = 7e7  # elements up to which errors are measured: beyond, the reference takes gigabytes and minutes


def grid(rows: Iterable[str], shapes: Iterable[Shape], *dtypes: torch.dtype, **fields: str) -> Iterator[Case]:
    """A case for every row, shape and dtype."""
    return (Case(ROWS[row], shape, dtype, **fields) for row, shape, dtype in product(rows, shapes, dtypes))


INDEX = ["cross_entropy-index"]
QUICK = Set(
    (
        *grid(INDEX, [(8, 10), (4096, 1000), (512, 32000)], F32),
        *grid(["mse_loss"], [(64,), (1_000_000,)], F32),
        *grid(["huber_loss"], [(10_000_000,)], F32),
    ),
    rivals=("torchloss", "eager", "liger", "quack", "apex"),
    seconds=0.3,
)

IMAGES, LARGEST = (8, 21, 256, 256), (512, 128256)
LOGITS = [LARGEST, (1024, 32000), (4096, 1000), (65536, 10), (128, 1000), (8, 10), IMAGES]
OPTIONS = ["cross_entropy-probs", "cross_entropy-index-label_smoothing=0.1", "cross_entropy-index-weight"]
OF_ROWS = ["softmax", "log_softmax", "kl_div", "kl_div_with_logits", "softmax_entropy", "entropy", "nll_loss"]
OF_POINTS = ["mse_loss", "huber_loss", "smooth_l1_loss", "l1_loss"]
OF_POINTS += ["binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"]
POINTS = [(64,), (1_000_000,), (30_000_000,)]
MAIN = Set(
    (
        *grid(INDEX, LOGITS, F32, BF16),
        *grid(OPTIONS, [LARGEST], F32, BF16),
        *grid(INDEX, [LARGEST], F32, BF16, variant="ignored"),
        *grid(INDEX, [LARGEST], F32, BF16, variant="inplace"),
        *grid(OF_ROWS, [(1024, 32000)], F32, BF16),
        *grid(OF_POINTS, POINTS, F32, BF16, F16),
    )
)

POINTWISE = [name for name, loss in ROWS.items() if loss.family == "pointwise"]
ALL = Set(
    (
        *grid(POINTWISE, POINTS, F32, BF16, F16),
        *grid([name for name in ROWS if name not in POINTWISE], [(8, 10), (4096, 1000), LARGEST], F32, BF16, F16),
    ),
    directions=DIRECTIONS,
    seconds=0.5,
)

ELEMENTS = [10 ** (k // 2) * (3 if k % 2 else 1) for k in range(4, 17)]  # 100, 300, 1000 ... 10^8
SCALING = Set(
    (
        *grid(["mse_loss"], [(n,) for n in ELEMENTS], F32, series="mse_loss, N"),
        *grid(INDEX, [(10, n // 10) for n in ELEMENTS], F32, series="cross_entropy, V at N = 10"),
        *grid(INDEX, [(n // 100, 100) for n in ELEMENTS], F32, series="cross_entropy, N at V = 100"),
    ),
    rivals=("torchloss", "eager"),
)

# What a GPU is judged by. Each takes minutes, most of them for torch.compile.
CLASSES = (10, 100, 1000, 4096, 8192, 32000, 50257, 128256, 262144)
GRID = Set(
    tuple(
        case
        for case in grid(INDEX, [(n, v) for n in (4096, 32768) for v in CLASSES], BF16, F32)
        if case.elements * case.dtype.itemsize <= 9e9
    ),
    rivals=("torchloss", "eager", "compile", "liger", "quack", "apex"),
    seconds=0.5,
    exact=5e6,
)
BIG = Set(
    (
        *grid([*OPTIONS, *OF_ROWS], [(4096, 32000)], F32, BF16),
        *grid(OPTIONS, [(4096, 128256)], F32, BF16),
        *grid(OF_POINTS, [(10**8,)], F32, BF16),
    ),
    rivals=("torchloss", "eager", "compile"),
    seconds=0.5,
    exact=5e6,
)
SMALL = Set(
    (
        *grid(INDEX, [(8, 10), (128, 1000), (1024, 10), (65536, 10), (512, 4096)], F32, BF16),
        *grid(["softmax", "log_softmax", "kl_div_with_logits"], [(8, 10), (128, 1000)], F32),
        *grid(OF_POINTS, [(64,), (10_000,)], F32),
    ),
    directions=DIRECTIONS,
    rivals=("torchloss", "eager", "compile"),
    seconds=0.3,
)

SETS = {"quick": QUICK, "main": MAIN, "all": ALL, "scaling": SCALING, "grid": GRID, "big": BIG, "small": SMALL}


def cases(
    chosen: Set, devices: list[str], dtypes: Iterable[torch.dtype] = (), directions: Iterable[str] = ()
) -> list[Case]:
    """The set's cases on these devices; in other dtypes or directions than its own if any are given.

    A series also tells what a GPU takes with the transfer.
    """
    made = {}
    for case in chosen.cases:
        for dtype, direction, device in product(dtypes or [case.dtype], directions or chosen.directions, devices):
            one = replace(case, dtype=dtype, direction=direction, device=device)
            variants = [one] + [replace(one, variant="transfer")] * (device == "cuda" and bool(case.series))
            made |= {f"{c} {c.series}": c for c in variants}
    return list(made.values())
