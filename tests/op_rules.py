"""What a right call of an operator is, written down again and apart from the C++ that checks it.

`fault(name, args)` says what is wrong with a call, or None; `results(name, args)` the shapes and dtypes of what a right
one returns and has written over. Both read tensors as Python sees them, never the operator.
"""

import torch
from op_calls import ops
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NORMALIZERS = (*FLOATING, torch.int64, torch.int32)
MAPS = ("softmax", "log_softmax")
INDEX = ("cross_entropy", "nll_loss", "logit_stats")
FLOAT_TARGET = ("cross_entropy_probs", "kl_div_with_logits")
SIZES = {  # how many numbers a row's forward pass leaves for its backward pass, and how many values it has
    "cross_entropy": (3, 1),
    "cross_entropy_probs": (4, 1),
    "nll_loss": (0, 1),
    "entropy": (0, 1),
    "softmax_entropy": (3, 1),
    "kl_div_with_logits": (7, 1),
    "logit_stats": (3, 4),
}
DOUBLE = "_double_backward"
SUFFIXES = (DOUBLE, "_backward_into", "_backward", "_with_gradient_", "_with_gradient", "")


def split(name: str) -> tuple[str, str]:
    """The loss, and what its op is of it."""
    suffix = next(s for s in SUFFIXES if name.endswith(s))
    return name.removesuffix(suffix), suffix


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


def overlaps(t: Tensor) -> bool:
    """Whether two elements share a place in memory."""
    if t.numel() == 0 or any(n > 1 and s == 0 for n, s in zip(t.shape, t.stride(), strict=True)):
        return t.numel() > 0
    places = torch.zeros(1, dtype=torch.int64)
    for n, s in zip(t.shape, t.stride(), strict=True):
        places = (places[:, None] + torch.arange(n) * (s if n > 1 else 0)).reshape(-1)
    return len(places.unique()) < t.numel()


def extent(t: Tensor) -> range:
    """The bytes that a tensor lies in, gaps included."""
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return range(t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()) if t.numel() else range(0)


def shares(a: dict, over: Tensor) -> bool:
    """Whether what is written to shares memory with what is read, but for the input in the same place."""
    for key in ("input", "target", "weight", "row_weight", "saved", "grad"):
        t = a.get(key)
        if t is None or t is over:
            continue
        place, other = extent(over), extent(t)
        same = key == "input" and (place, over.shape, over.stride()) == (other, t.shape, t.stride())
        if not same and place and other and place.start < other.stop and other.start < place.stop:
            return True
    return False


def tensor_fault(t: Tensor) -> str | None:
    if t.layout != torch.strided or t.device.type != "cpu" or t.is_quantized:
        return "not a dense tensor of the CPU"
    return None if holds(t) else "storage too small"


def traced(args: tuple) -> bool:
    """Whether the fake kernels are asked. They tell sizes and read nothing: most checks they leave to the real call."""
    return all(a.device.type == "meta" for a in args if isinstance(a, Tensor))


def like(t: Tensor | None, shape: tuple, dtype: torch.dtype) -> bool:
    return t is None or (tuple(t.shape) == tuple(shape) and t.dtype == dtype)


def compute(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def of_rows(a: dict) -> tuple:
    x, dim = a["input"], a["dim"]
    return (*x.shape[:dim], *x.shape[dim + 1 :])


def rows_fault(loss: str, suffix: str, a: dict) -> str | None:
    x, dim, wide = a["input"], a["dim"], compute(a["input"])
    if not 0 <= dim < x.dim():
        return "dim"
    rows, classes, (saved, values) = of_rows(a), x.shape[dim], SIZES[loss]
    of_tensors = {"weight": ((classes,), x.dtype), "row_weight": (rows, wide), "total": ((), wide)}
    of_tensors |= {"saved": ((saved, *rows), wide), **dict.fromkeys(("grad_input", *"hk"), (x.shape, x.dtype))}
    of_tensors["target"] = (rows, torch.int64) if loss in INDEX else (x.shape, x.dtype)
    for key, (shape, dtype) in of_tensors.items():
        if not like(a.get(key), shape, dtype):
            return key
    if loss in INDEX:
        y = a["target"]
        if not ((y == a["ignore_index"]) | ((y >= 0) & (y < classes))).all():
            return "target out of range"
    if loss not in FLOAT_TARGET and (a.get("target_grad") or a.get("k") is not None):
        return "a gradient of the target"
    if "saved" in a and not a["saved"].resolve_neg().is_contiguous():
        return "saved"
    grads = [(values, *rows)] if values > 1 else [rows, ()]
    if not any(like(a.get("grad"), shape, wide) for shape in grads):
        return "grad"
    if suffix == "_backward_into" and (a["holds_gradient"] or a["total"] is not None) and a["grad"].dim():
        return "grad is not one number"
    if suffix.startswith("_with_gradient"):
        n = a["normalizer"]
        if a["reduction"] == 0 or (n is not None and (a["reduction"] != 1 or n.dim() or n.dtype not in NORMALIZERS)):
            return "reduction or normalizer"
    over = a["input"] if suffix == "_with_gradient_" else a.get("grad_input")
    return "overlapping memory" if over is not None and (overlaps(over) or shares(a, over)) else None


def points_fault(loss: str, suffix: str, a: dict) -> str | None:
    x, t = a["input"], a["target"]
    for key in ("target", "weight", "pos_weight", *"hk"):
        if not like(a.get(key), x.shape, x.dtype):
            return key
    if suffix and not like(a["grad"], x.shape, x.dtype) and not like(a["grad"], (), compute(x)):
        return "grad"
    if loss == "binary_cross_entropy" and not suffix and not all(((v >= 0) & (v <= 1)).all() for v in (x, t)):
        return "not in [0, 1]"


def fault(name: str, args: tuple) -> str | None:
    """What is wrong with a call of the op; None if it is right."""
    loss, suffix = split(name)
    a = named(name, args)
    if wrong := kind_fault(name, args):
        return wrong
    for key, value in a.items():
        if isinstance(value, Tensor) and (wrong := tensor_fault(value)):
            return f"{key}: {wrong}"
    x = a["output" if loss in MAPS and suffix else "input"]
    if x.dtype not in FLOATING:
        return "dtype of input"
    if loss in MAPS:
        right = all(like(a.get(n), x.shape, x.dtype) for n in ("grad", "h"))
        return None if right and 0 <= a["dim"] < x.dim() else "dim, grad or h"
    if a.get("reduction", 0) not in (0, 1, 2, 3):
        return "reduction"
    return (rows_fault if "dim" in a else points_fault)(loss, suffix, a)


def results(name: str, args: tuple) -> list[tuple[tuple, torch.dtype]]:
    """The shapes and dtypes of what a right call returns, and of what it has written over."""
    loss, suffix = split(name)
    a = named(name, args)
    x = a["output" if loss in MAPS and suffix else "input"]
    whole, none, one = (tuple(x.shape), x.dtype), ((0,), x.dtype), ((), compute(x))
    if loss in MAPS:
        return [whole] * (2 if suffix == DOUBLE else 1)
    if suffix == "_backward":
        return [whole, whole if a["target_grad"] else none]
    if suffix == "_backward_into":
        return [whole]
    if suffix == DOUBLE:
        grad = (tuple(a["grad"].shape), a["grad"].dtype)
        return [grad, whole, whole if "dim" not in a or loss in FLOAT_TARGET else none]
    if "dim" not in a:
        return [one if a["reduction"] else whole]
    rows, (saved, values) = of_rows(a), SIZES[loss]
    each = ((values, *rows) if values > 1 else rows, compute(x))
    gradient = [whole] * suffix.startswith("_with_gradient")
    return [one if a.get("reduction") else each, ((saved, *rows), compute(x)), one, *gradient]


def of_nothing(name: str, args: tuple) -> bool:
    """Whether the result is of no rows or no classes, and so may rightly be 0 / 0."""
    a = named(name, args)
    x = a.get("input", a.get("output"))
    if "dim" in a and x.shape[a["dim"]] == 0:
        return True
    if a.get("reduction") != 1:
        return False
    return bool((a["target"] == a["ignore_index"]).all()) if split(name)[0] in INDEX else x.numel() == 0
