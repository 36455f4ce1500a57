"""A right call of every registered operator, for the tests that call them raw or spoil the arguments."""

from typing import Any

import torch
from torch import Tensor

import torchloss  # noqa: F401  (registers the operators)
from torchloss.testing.losses import REDUCTIONS, class_dim, leaves

ops = torch.ops.torchloss
OVER_INPUTS = ("_with_gradient", "_with_gradient_", "_backward_into")  # of a loss that has them


def registered() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {n.removeprefix("torchloss::") for n in names if n.startswith("torchloss::")}


def of(loss: str, suffix: str = "") -> Any:
    """A loss's operator, or None."""
    packet = getattr(ops, loss + suffix, None)
    return packet and packet.default


def arguments(op: Any, have: dict[str, Any]) -> tuple:
    """Those that we have, by the schema's names; else its default, or None."""
    return tuple(have.get(a.name, a.default_value) for a in op._schema.arguments)


def written(op: Any) -> list[int]:
    """Which arguments the op writes over."""
    return [i for i, a in enumerate(op._schema.arguments) if a.alias_info is not None and a.alias_info.is_write]


def fresh(op: Any, args: tuple) -> tuple:
    """The arguments, with copies of what the op writes over."""
    over = written(op)
    return tuple(a.detach().clone() if i in over else a for i, a in enumerate(args))


def outcome(op: Any, args: tuple, over: list[int]) -> list[Tensor]:
    """What the op returns, and what it has written over."""
    out = op(*args)
    out = out if isinstance(out, (tuple, list)) else [] if out is None else [out]
    return [*out, *(args[i] for i in over)]


def given(loss, x: Tensor, t: Tensor | None, reduction: str = "mean") -> dict[str, Any]:
    """What torchloss.functional gives to the ops of a loss."""
    compute = torch.promote_types(x.dtype, torch.float32)
    have = {"input": x, "target": t, "ignore_index": -100, "reduction": REDUCTIONS.index(reduction)} | loss.params
    for k, w in loss.weights.items():
        have[k] = w(tuple(x.shape)).to(x.device, compute if k == "row_weight" else x.dtype)
    if "normalizer" in have:
        have["normalizer"] = torch.tensor(have["normalizer"], dtype=torch.float64)
    last = loss.family == "map" or loss.name in ("entropy", "softmax_entropy", "kl_div_with_logits", "logit_stats")
    return have | {"dim": x.dim() - 1 if last else class_dim(x.shape)}


def all_calls(loss, dtype=torch.float32, device="cpu", shape=(4, 5), reduction="mean", requires_grad=False):
    """(op, arguments) of the loss, its gradient, its double gradient, and what else there is of it."""
    x, t = leaves(loss, *loss.sample(shape, 5), dtype, device)
    x, t = (a if a is None or requires_grad else a.detach() for a in (x, t))
    have = given(loss, x, t, reduction)
    op = of(loss.op)
    with torch.no_grad():
        out = op(*arguments(op, have))
    value, *saved = out if isinstance(out, tuple) else (out,)
    have |= dict(zip(("saved", "total"), saved, strict=False), output=value.detach().requires_grad_(requires_grad))
    have["grad"] = torch.randn_like(value).requires_grad_(requires_grad)
    have["h"] = torch.randn_like(x).detach().requires_grad_(requires_grad)
    if loss.target_grad:
        have |= {"k": torch.randn_like(t).detach().requires_grad_(requires_grad), "target_grad": True}
    calls = [(f, arguments(f, have)) for f in (op, of(loss.op, "_backward"), of(loss.op, "_double_backward"))]
    if of(loss.op, "_with_gradient") is None:
        return calls
    have = {k: v.detach() if isinstance(v, Tensor) else v for k, v in have.items()}
    have |= {"grad_input": torch.randn_like(have["input"]), "reduction": have["reduction"] or 1}
    if "normalizer" in have:
        have["reduction"] = 1
    if have["grad"].dim():
        have["total"] = None  # that of each row is divided already
    return calls + [(f, fresh(f, arguments(f, have))) for f in (of(loss.op, s) for s in OVER_INPUTS)]
