"""What the losses do at their edges, as a table: torch's behaviour, and where torchloss's is another on purpose."""

from math import inf, log, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, tensor

# Two rows of probabilities; with their logarithms as logits, a loss is -log p and its gradient p - [j = y].
P = tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=torch.float64)
X = P.log()
Y = tensor([0, 2])
LOSS = [-log(0.5), -log(0.7)]
GRAD = P - torch.eye(3, dtype=torch.float64)[Y]
Q = tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
NANS = [nan, nan, nan]
ZEROS = torch.zeros(2, 3).tolist()


class Case(NamedTuple):
    """A call, and what comes of it. Where 0 is expected, it must be 0 exactly."""

    name: str
    function: str
    input: Tensor
    target: Tensor | None = None
    options: dict[str, Any] = {}
    value: Any = None  # of the loss
    grad: Any = None  # of the input, for the sum of the loss
    target_grad: Any = None
    error: tuple[type[Exception], str] | None = None  # the type, and how the message begins
    warns: str | None = None
    dtype: torch.dtype | None = None  # of the loss
    torch: dict[str, Any] = {}  # the fields in which torch differs

    def __str__(self) -> str:
        return f"{self.function}: {self.name}"

    def of_torch(self) -> "Case":
        return self._replace(**self.torch)


def with_row(row: list[float]) -> Tensor:
    """The logits with another first row."""
    return torch.stack([tensor(row, dtype=torch.float64), X[1]])


def ce(name: str, input: Tensor = X, target: Tensor = Y, reduction: str = "none", options: dict = {}, **expected):  # noqa: B006
    return Case(name, "cross_entropy", input, target, options | {"reduction": reduction}, **expected)


def refused(name: str, kind: type[Exception], message: str, input: Tensor = X, target: Tensor = Y, **rest) -> Case:
    return ce(name, input, target, error=(kind, message), **rest)


def by_reduction(name: str, none: Any, mean: Any, sum: Any, **fields: Any) -> list[Case]:
    values = {"none": none, "mean": mean, "sum": sum}
    return [ce(f"{name}, {r}", reduction=r, value=v, **fields) for r, v in values.items()]


OUT = "Target {} is out of bounds."
IGNORED = tensor([-100, -100])
FIRST_IGNORED = tensor([-100, 2])
SMOOTH = {"label_smoothing": 0.3}
W = tensor([1.0, 2.0, 4.0], dtype=torch.float64)
# With smoothing 0.3 each class gets 0.1 of the target, the right one 0.8; weighted, 0.1 w_j, the right one + 0.7 w_y.
SMOOTH_LOSS = [
    sum(-(0.1 + 0.7 * (j == y)) * log(p) for j, p in enumerate(row)) for y, row in zip((0, 2), P.tolist(), strict=True)
]
SMOOTH_WEIGHTED = [
    sum(-(0.1 + 0.7 * (j == y)) * w * log(p) for j, (p, w) in enumerate(zip(row, W.tolist(), strict=True)))
    for y, row in zip((0, 2), P.tolist(), strict=True)
]

CLASSES = [
    *(
        refused(f"target = C, {r}", IndexError, OUT.format(3), target=tensor([0, 3]), reduction=r)
        for r in ("none", "mean", "sum")
    ),
    refused("negative target", IndexError, OUT.format(-1), target=tensor([0, -1])),
    refused(
        "-100 when another is ignored", IndexError, OUT.format(-100), target=FIRST_IGNORED, options={"ignore_index": 1}
    ),
    *by_reduction("all ignored", [0, 0], nan, 0, target=IGNORED, grad=ZEROS),
    *by_reduction("empty batch", [], nan, 0, input=X[:0], target=Y[:0], grad=torch.zeros(0, 3)),
    refused("no classes", IndexError, OUT.format(0), X[:, :0], 0 * Y),
    ce("no classes, no rows", X[:0, :0], Y[:0], "mean", value=nan),
    ce(
        "-inf beside the target",
        with_row([0, -inf, 0]),
        value=[log(2), LOSS[1]],
        grad=[[-0.5, 0, 0.5], GRAD[1].tolist()],
    ),
    ce("-inf at the target", with_row([-inf, 0, 0]), value=[inf, LOSS[1]], grad=[[-1, 0.5, 0.5], GRAD[1].tolist()]),
    *(
        ce(f"a row with {what}", with_row(row), value=[nan, LOSS[1]], grad=[NANS, GRAD[1].tolist()])
        for what, row in {"-inf only": [-inf] * 3, "inf": [0, inf, 0], "NaN": [0, nan, 0]}.items()
    ),
    *(
        ce(
            f"an ignored row with {what}",
            with_row(row),
            FIRST_IGNORED,
            "mean",
            value=LOSS[1],
            grad=[[0, 0, 0], GRAD[1].tolist()],
            torch={"grad": [NANS, GRAD[1].tolist()]},
        )
        for what, row in {"-inf only": [-inf] * 3, "inf": [0, inf, 0], "NaN": [0, nan, 0]}.items()
    ),
    ce(
        "smoothing, -inf",
        with_row([0, -inf, 0]),
        options=SMOOTH,
        value=[inf, SMOOTH_LOSS[1]],
        grad=[[-0.3, -0.1, 0.4], None],
    ),
    ce("smoothing, ignored, mean", target=FIRST_IGNORED, reduction="mean", options=SMOOTH, value=SMOOTH_LOSS[1]),
    ce("smoothing, weight, mean", reduction="mean", options=SMOOTH | {"weight": W}, value=sum(SMOOTH_WEIGHTED) / 5),
    refused(
        "smoothing 1.5", RuntimeError, "label_smoothing must be between 0.0 and 1.0", options={"label_smoothing": 1.5}
    ),
    ce("weights 0, mean", reduction="mean", options={"weight": 0 * W}, value=nan, grad=[NANS, NANS]),
    refused(
        "float64 weight", RuntimeError, "expected scalar type Float but found Double", X.float(), options={"weight": W}
    ),
    refused(
        "short weight",
        RuntimeError,
        "cross_entropy: weight tensor should be defined",
        target=Q,
        options={"weight": W[:2]},
    ),
    refused("short class weight", RuntimeError, "weight tensor should be defined", options={"weight": W[:2]}),
    ce("probabilities that do not sum to 1", target=2 * Q, value=(-2 * Q * X).sum(1)),
    ce("negative probabilities", target=-Q, value=(Q * X).sum(1)),
    ce("probability 0 at -inf", with_row([0, -inf, 0]), with_row([0.5, 0, 0.5]), value=[nan, None]),
    ce("gradient to probabilities", target=Q, reduction="mean", value=-(Q * X).sum() / 2, target_grad=-X / 2),
    refused(
        "probabilities, ignore_index",
        RuntimeError,
        "ignore_index is not supported for floating point target",
        target=Q,
        options={"ignore_index": 0},
    ),
    refused(
        "integer probabilities",
        RuntimeError,
        "Expected floating point type for target with class probabilities",
        target=Q.long(),
    ),
    ce("uint8 target", target=Y.byte(), value=LOSS),
    ce(
        "int32 target",
        target=Y.int(),
        value=LOSS,
        torch={"value": None, "error": (RuntimeError, "expected target dtype to be Long or Byte")},
    ),
    *(
        refused(f"{d} target", RuntimeError, "expected target dtype to be Long or Byte", target=Y.to(d))
        for d in (torch.int16, torch.bool, torch.float64)
    ),
    refused(
        "a longer target",
        ValueError,
        "Expected input batch_size (2) to match target batch_size (3).",
        target=Y.repeat(2)[:3],
    ),
    refused("batch sizes", ValueError, "Expected input batch_size (2) to match target batch_size (1).", target=Y[:1]),
    refused(
        "target size",
        RuntimeError,
        "Expected target size [2, 4], got [2, 5]",
        torch.zeros(2, 3, 4),
        torch.zeros(2, 5).long(),
    ),
    refused("2-D target", RuntimeError, "0D or 1D target tensor expected", target=torch.zeros(2, 1).long()),
    refused(
        "int input", NotImplementedError, "\"log_softmax_lastdim_kernel_impl\" not implemented for 'Long'", X.long()
    ),
    ce("float16 beyond its range", tensor([[60000.0, -60000.0]]).half(), tensor([1]), value=[inf], grad=[[1, -1]]),
    ce("0-d target", X[0], tensor(0), value=LOSS[0], grad=GRAD[0]),
]


def regression(name: str, function: str, input: Any, target: Any, **fields: Any) -> Case:
    x, t = (a if isinstance(a, Tensor) else tensor(a, dtype=torch.float64) for a in (input, target))
    return Case(name, function, x, t, {"reduction": "sum"} | fields.pop("options", {}), **fields)


SIZES = "Using a target size (torch.Size([2])) that is different to the input size (torch.Size([2, 1]))."
MIXED = {"error": (RuntimeError, "Found dtype Double but expected Float"), "value": None, "dtype": None, "grad": None}
DISTANCES = {"mse_loss": (4, 4), "l1_loss": (2, 1), "huber_loss": (1.5, 1), "smooth_l1_loss": (1.5, 1)}  # at 2: L, L'

REGRESSION = [
    *(
        regression(
            f"{d}, mixed",
            f,
            tensor([2.0]),
            tensor([0.0], dtype=d),
            value=value,
            grad=[slope],
            target_grad=[-slope],
            dtype=d,
        )
        for f, (value, slope) in DISTANCES.items()
        if f != "huber_loss"
        for d in (torch.float32, torch.float64)
    ),
    regression(
        "mixed",
        "huber_loss",
        tensor([2.0]),
        tensor([0.0]).double(),
        value=1.5,
        grad=[1],
        dtype=torch.float64,
        torch=MIXED,
    ),
    *(
        regression("broadcast", f, [[2.0], [0.0]], [0.0, 0.0], warns=SIZES, value=2 * value)
        for f, (value, _) in DISTANCES.items()
    ),
    *(
        regression(
            f"{key} = {bad}",
            f,
            [2.0],
            [0.0],
            options={key: bad},
            error=(
                RuntimeError,
                f"{f} does not support non-positive values for delta."
                if key == "delta"
                else f"{f} does not support negative values for beta.",
            ),
        )
        for f, key, bad in (
            ("huber_loss", "delta", 0.0),
            ("huber_loss", "delta", -1.0),
            ("smooth_l1_loss", "beta", -1.0),
        )
    ),
    *(
        regression(f"a difference of {big:g}", f, tensor([big, -big]), tensor([0.0, 0.0]), value=2 * big, grad=[1, -1])
        for f in ("huber_loss", "smooth_l1_loss", "l1_loss")
        for big in (1e30, inf)
    ),
    regression("NaN", "l1_loss", [nan], [0.0], value=nan, grad=[nan], torch={"grad": [0]}),
    regression("at 0", "l1_loss", [1.0], [1.0], value=0, grad=[0]),
    regression("at delta", "huber_loss", [0.5, -0.5], [0.0, 0.0], options={"delta": 0.5}, value=0.25, grad=[0.5, -0.5]),
    regression("at beta", "smooth_l1_loss", [0.5, -0.5], [0.0, 0.0], options={"beta": 0.5}, value=0.5, grad=[1, -1]),
    regression("beta = 0, at 0", "smooth_l1_loss", [0.0, 2.0], [0.0, 0.0], options={"beta": 0.0}, value=2, grad=[0, 1]),
    regression(
        "float16 beyond its range", "mse_loss", tensor([300.0]).half(), tensor([0.0]).half(), value=inf, grad=[600]
    ),
]


def kl(name: str, input: float, target: float, value: float, grad: float, **options: bool) -> Case:
    return regression(name, "kl_div", [input], [target], options=options, value=value, grad=[grad])


DIVERGENCE = [
    kl("target 0", -1.0, 0.0, 0, 0),
    kl("log target -inf", -1.0, -inf, nan, 0, log_target=True),
    kl("input -inf at target 0", -inf, 0.0, nan, 0),
    kl("negative target", -1.0, -0.5, nan, 0.5),
    kl("input -inf", -inf, 0.5, inf, -0.5),
    regression(
        "gradient to a target of 0",
        "kl_div",
        [-1.0],
        [0.0],
        value=0,
        grad=[0],
        target_grad=[-inf],
        torch={"target_grad": [nan]},
    ),
    regression(
        "gradient to the target",
        "kl_div",
        [-1.0],
        [0.5],
        value=0.5 * (log(0.5) + 1),
        grad=[-0.5],
        target_grad=[log(0.5) + 2],
    ),
    regression(
        "mean",
        "kl_div",
        [[-1.0, -1.0]],
        [[1.0, 1.0]],
        options={"reduction": "mean"},
        value=1,
        warns="reduction: 'mean' divides the total loss by both the batch size and the support size",
    ),
    regression(
        "broadcast", "kl_div", [[-1.0], [-1.0]], [[1.0, 1.0]], value=4, warns="kl_div broadcasts", torch={"warns": None}
    ),
]

BCE, BCEL = "binary_cross_entropy", "binary_cross_entropy_with_logits"
OUTSIDE = (RuntimeError, "all elements of input should be between 0 and 1")

BINARY = [
    regression("the logarithm ends at -100", BCE, [0.0, 1.0], [1.0, 0.0], value=200),
    regression("outside [0, 1]", BCE, [1.5], [1.0], error=OUTSIDE),
    regression("NaN", BCE, [nan], [1.0], error=OUTSIDE),
    regression("target outside [0, 1]", BCE, [0.5], [1.5], error=(RuntimeError, OUTSIDE[1].replace("input", "target"))),
    regression("infinite", BCEL, [inf, -inf], [0.5, 0.5], value=inf, grad=[0.5, -0.5], torch={"value": nan}),
    regression("infinitely right", BCEL, [inf, -inf], [1.0, 0.0], value=0, grad=[0, 0], torch={"value": nan}),
    regression("infinitely wrong", BCEL, [-inf, inf], [1.0, 0.0], value=inf, grad=[-1, 1], torch={"value": nan}),
    regression(
        "size", BCE, [[0.5]], [0.5], error=(ValueError, "Using a target size (torch.Size([1])) that is different")
    ),
    regression(
        "size",
        BCEL,
        [[0.5]],
        [0.5],
        error=(ValueError, "Target size (torch.Size([1])) must be the same as input size (torch.Size([1, 1]))"),
    ),
]

MAPS = [
    Case("-inf only", name, tensor([[-inf, -inf]]), None, {"dim": 1}, value=[[nan, nan]])
    for name in ("softmax", "log_softmax")
]

CASES = [*CLASSES, *REGRESSION, *DIVERGENCE, *BINARY, *MAPS]


def matches(ours: Tensor | None, expected: Any) -> Tensor:
    """What is expected, as a tensor like ours; None in a list of numbers stands for anything."""
    if ours is None:
        return torch.as_tensor(expected, dtype=torch.float64)
    if isinstance(expected, list) and None in expected:
        rows = zip(ours.detach(), expected, strict=True)
        return torch.stack([row if right is None else matches(row, right) for row, right in rows])
    expected = torch.as_tensor(expected, device=ours.device, dtype=ours.dtype)
    return expected.reshape(ours.shape) if expected.numel() == ours.numel() else expected
