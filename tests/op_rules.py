"""What a right call of an operator is, written down again and apart from the C++ that checks it.

`fault(name, args)` says what is wrong with a call, or None; `results(name, args)` the shapes and dtypes of what a right
one returns. Both read tensors as Python sees them, never the operator.
"""

import torch
from op_calls import ops
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MAPS = ("softmax", "log_softmax")
CLASS_WEIGHTS = ("cross_entropy", "cross_entropy_probs", "nll_loss")
INDEX = ("cross_entropy", "nll_loss")
FLOAT_TARGET = ("cross_entropy_probs", "kl_div_with_logits")
SAVED = {"cross_entropy_probs": 4, "nll_loss": 0, "entropy": 0, "softmax_entropy": 3, "kl_div_with_logits": 7}
ORDERS = ("", "_backward", "_double_backward")


def saved(loss: str, parameter: float) -> int:
    """How many numbers a row's forward pass leaves for its backward pass."""
    return SAVED.get(loss, 2 if parameter == 0 else 3)


def split(name: str) -> tuple[str, int]:
    """The loss and which derivative its op gives."""
    for order in (2, 1):
        if name.endswith(ORDERS[order]):
            return name.removesuffix(ORDERS[order]), order
    return name, 0


def named(name: str, args: tuple) -> dict:
    return dict(zip((a.name for a in getattr(ops, name).default._schema.arguments), args, strict=True))


def kind_fault(name: str, args: tuple) -> str | None:
    """A value that the schema does not take."""
    for argument, value in zip(getattr(ops, name).default._schema.arguments, args, strict=True):
        kind = str(argument.type)
        takes = {
            "Tensor": lambda v: isinstance(v, Tensor),
            "Optional[Tensor]": lambda v: v is None or isinstance(v, Tensor),
            "int": lambda v: type(v) is int and -(2**63) <= v < 2**63,
            "float": lambda v: type(v) in (int, float),
            "bool": lambda v: type(v) is bool,
        }[kind]
        if not takes(value):
            return f"{argument.name} is no {kind}"


def holds(t: Tensor) -> bool:
    """Whether the storage reaches as far as the tensor."""
    last = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return t.numel() == 0 or (last + 1) * t.element_size() <= t.untyped_storage().nbytes()


def tensor_fault(t: Tensor) -> str | None:
    if t.layout != torch.strided or t.device.type != "cpu" or t.is_quantized:
        return "not a dense tensor of the CPU"
    return None if holds(t) else "storage too small"


def traced(args: tuple) -> bool:
    """Whether the fake kernels are asked. They tell sizes and read nothing: most checks they leave to the real call."""
    return all(a.device.type == "meta" for a in args if isinstance(a, Tensor))


def like(t: Tensor | None, shape: tuple, dtype: torch.dtype) -> bool:
    return t is None or (tuple(t.shape) == tuple(shape) and t.dtype == dtype)


def rows_fault(loss: str, order: int, a: dict) -> str | None:
    x, dim = a["input"], a["dim"]
    if not 0 <= dim < x.dim():
        return "dim"
    rows, classes = (*x.shape[:dim], *x.shape[dim + 1 :]), x.shape[dim]
    target, weight = a["target"], a["weight"]
    if (target is None) != (loss not in INDEX + FLOAT_TARGET):
        return "target missing, or one too many"
    if weight is not None and (loss not in CLASS_WEIGHTS or not like(weight, (classes,), x.dtype)):
        return "weight"
    if loss in FLOAT_TARGET and not like(target, x.shape, x.dtype):
        return "target"
    if loss in INDEX:
        if not like(target, rows, torch.int64):
            return "target"
        if not ((target == a["ignore_index"]) | ((target >= 0) & (target < classes))).all():
            return "target out of range"
    return saved_fault(loss, a, x, rows) if order else None


def saved_fault(loss: str, a: dict, x: Tensor, rows: tuple) -> str | None:
    compute, stats = torch.promote_types(x.dtype, torch.float32), a["stats"]
    if not like(stats, (saved(loss, a["parameter"]), *rows), compute) or not stats.resolve_neg().is_contiguous():
        return "stats"
    if not like(a["total"], (), compute):
        return "total"
    if not like(a["grad"], rows if a["reduction"] == 0 else (), x.dtype):
        return "grad"
    if loss not in FLOAT_TARGET and (a.get("target_grad") or a.get("k") is not None):
        return "a gradient of the target"
    return None if all(like(a.get(n), x.shape, x.dtype) for n in "hk") else "h or k"


def points_fault(loss: str, order: int, a: dict) -> str | None:
    x, t = a["input"], a["target"]
    for key in ("target", "weight", "pos_weight", *"hk" * (order == 2)):
        if not like(a[key], x.shape, x.dtype):
            return key
    if a["pos_weight"] is not None and loss != "binary_cross_entropy_with_logits":
        return "pos_weight"
    if order and not like(a["grad"], x.shape if a["reduction"] == 0 else (), x.dtype):
        return "grad"
    if loss == "binary_cross_entropy" and not order and not all(((v >= 0) & (v <= 1)).all() for v in (x, t)):
        return "not in [0, 1]"


def fault(name: str, args: tuple) -> str | None:
    """What is wrong with a call of the op; None if it is right."""
    loss, order = split(name)
    a = named(name, args)
    a["parameter"] = args[-2 if order == 1 else -1]
    if wrong := kind_fault(name, args):
        return wrong
    for key, value in a.items():
        if isinstance(value, Tensor) and (wrong := tensor_fault(value)):
            return f"{key}: {wrong}"
    x = a["output" if loss in MAPS and order else "input"]
    if x.dtype not in FLOATING:
        return "dtype of input"
    if loss in MAPS:
        right = all(like(a.get(n), x.shape, x.dtype) for n in ("grad", "h"))
        return None if right and 0 <= a["dim"] < x.dim() else "dim, grad or h"
    if a["reduction"] not in (0, 1, 2):
        return "reduction"
    return (rows_fault if "dim" in a else points_fault)(loss, order, a)


def results(name: str, args: tuple) -> list[tuple[tuple, torch.dtype]]:
    """The shapes and dtypes of what a right call returns."""
    loss, order = split(name)
    a = named(name, args)
    x = a["output" if loss in MAPS and order else "input"]
    whole, none = (tuple(x.shape), x.dtype), ((0,), x.dtype)
    if loss in MAPS:
        return [whole] * max(order, 1)
    rows = (*x.shape[: a["dim"]], *x.shape[a["dim"] + 1 :]) if "dim" in a else tuple(x.shape)
    value = (tuple(rows) if a["reduction"] == 0 else (), x.dtype)
    target_grad = loss not in CLASS_WEIGHTS + ("entropy", "softmax_entropy") or loss in FLOAT_TARGET
    if order == 1:
        return [whole, whole if a["target_grad"] else none]
    if order == 2:
        return [value, whole, whole if target_grad else none]
    if "dim" not in a:
        return [value]
    compute = torch.promote_types(x.dtype, torch.float32)
    return [value, ((saved(loss, args[-1]), *rows), compute), ((), compute)]


def of_nothing(name: str, args: tuple) -> bool:
    """Whether the result is of no rows or no classes, and so may rightly be 0 / 0."""
    a = named(name, args)
    x = a.get("input", a.get("output"))
    if "dim" in a and x.shape[a["dim"]] == 0:
        return True
    if a.get("reduction") != 1:
        return False
    return bool((a["target"] == a["ignore_index"]).all()) if split(name)[0] in INDEX else x.numel() == 0
