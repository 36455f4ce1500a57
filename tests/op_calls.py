"""A right call of every registered operator, for the tests that call them raw or spoil the arguments."""

import math

import torch

import torchloss  # noqa: F401  (registers the operators)
from torchloss.testing.losses import REDUCTIONS, class_dim, leaves

ops = torch.ops.torchloss


def registered() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {n.removeprefix("torchloss::") for n in names if n.startswith("torchloss::")}


def forward_args(loss, x, t, reduction="mean"):
    """The arguments that torchloss.functional gives to the op of a loss."""
    weights = {k: w(tuple(x.shape)).to(x.device, x.dtype) for k, w in loss.weights.items()}
    if loss.family == "map":
        return (x, x.dim() - 1)
    if loss.family == "pointwise":
        parameter = loss.params.get("delta", loss.params.get("beta", 1.0))
        return (x, t, weights.get("weight"), weights.get("pos_weight"), REDUCTIONS.index(reduction), parameter)
    defaults = {"entropy": math.e, "kl_div_with_logits": 1.0}
    parameter = next(iter(loss.params.values()), defaults.get(loss.name, 0.0))
    dim = x.dim() - 1 if loss.name in ("entropy", "softmax_entropy", "kl_div_with_logits") else class_dim(x.shape)
    return (x, t, weights.get("weight"), dim, REDUCTIONS.index(reduction), -100, parameter)


def all_calls(loss, dtype=torch.float32, device="cpu", shape=(4, 5), reduction="mean", requires_grad=False):
    """(op, arguments) of the loss, its gradient and its double gradient."""
    x, t = leaves(loss, *loss.sample(shape, 5), dtype, device)
    x, t = (a if a is None or requires_grad else a.detach() for a in (x, t))
    args = forward_args(loss, x, t, reduction)
    op, backward, double = (getattr(ops, loss.op + s).default for s in ("", "_backward", "_double_backward"))
    with torch.no_grad():
        out = op(*args)
    h = torch.randn_like(x).detach().requires_grad_(requires_grad)
    if loss.family == "map":
        g = torch.randn_like(out).requires_grad_(requires_grad)
        y = out.detach().requires_grad_(requires_grad)
        return [(op, args), (backward, (g, y, args[1])), (double, (h, g, y, args[1]))]
    value, saved = (out, ()) if loss.family == "pointwise" else (out[0], out[1:])
    g = torch.randn_like(value).requires_grad_(requires_grad)
    k = torch.randn_like(t).detach().requires_grad_(requires_grad) if loss.target_grad else None
    n = 4 if loss.family == "pointwise" else 3
    middle = (*args[:n], *saved, *args[n:])
    return [(op, args), (backward, (g, *middle, loss.target_grad)), (double, (h, k, g, *middle))]
