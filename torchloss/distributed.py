"""Teaches DTensor how the losses may be split: `import torchloss.distributed` once, before a loss meets a DTensor.

A loss of every element or row (reduction "none") and a sum may be computed on shards of any dimension but that of the
classes; a sum is then a partial one. A mean is not: the gradient of a mean of local means is not that of the mean, so
its inputs are gathered. Take the sum and divide it by the global count where that is too much.

DDP and FSDP hand plain tensors to the loss and need none of this.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import Partial, Placement, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from torchloss._check import MEANS, NONE, SUM
from torchloss.autograd.pointwise import NAMES as POINTWISE
from torchloss.autograd.row_map import NAMES as ROW_MAPS
from torchloss.autograd.rowwise import NAMES as ROWWISE
from torchloss.autograd.rowwise import Sizes

Strategy = tuple[list[Placement], list["Placement | None"]]


def place(op: Any, args: tuple, outputs: list[Placement], **of: Placement) -> Strategy:
    """The placements of an op's arguments by name; an argument that is no tensor has none."""
    names = [a.name for a in op._schema.arguments]
    there = [hasattr(a, "placements") or hasattr(a, "mesh") for a in args]
    return outputs, [of.get(n, Replicate()) if t else None for n, t in zip(names, there, strict=False)]


def value(op: Any, args: tuple) -> dict[str, Any]:
    args = *args, *(a.default_value for a in op._schema.arguments[len(args) :])
    return dict(zip([a.name for a in op._schema.arguments], args, strict=True))


def everywhere(op: Any, args: tuple) -> Strategy:
    """Every process computes the whole."""
    return place(op, args, [Replicate() for _ in op._schema.returns])


def pointwise(op: Any, args: tuple, kind: str) -> list[Strategy]:
    a = value(op, args)
    strategies = [everywhere(op, args)]
    reduced = len(a["grad"].shape) == 0 if kind else a["reduction"] != NONE
    if not kind and a["reduction"] in MEANS:
        return strategies
    for d in range(len(a["input"].shape)):
        s = Shard(d)
        loss, grad = (Partial(), Replicate()) if reduced else (s, s)
        outputs = {
            "": [loss],
            "_backward": [s, s if a.get("target_grad") else Replicate()],
            "_double_backward": [loss, s, s],
        }[kind]
        elements = dict.fromkeys(("input", "target", "weight", "pos_weight", "h", "k"), s)
        strategies.append(place(op, args, outputs, **elements, grad=grad))
    return strategies


def rowwise(op: Any, args: tuple, kind: str, sizes: Sizes) -> list[Strategy]:
    """In front of the rows' dimensions lie the numbers that each has saved and, where a row has several, its values."""
    a = value(op, args)
    strategies = [everywhere(op, args)]
    reduction = a.get("reduction", NONE)
    if reduction in MEANS:
        return strategies
    dims, several = len(a["input"].shape), sizes.values > 1
    reduced = dims > 1 and len(a["grad"].shape) == 0 if kind else reduction == SUM
    for d in range(dims):
        if d == a["dim"]:
            continue
        s, row = Shard(d), d - (d > a["dim"])  # the dimension among the rows'
        target = s if sizes.floating_target else Shard(row)
        loss, grad = (Partial(), Replicate()) if reduced else (Shard(row + several), Shard(row + several))
        outputs = {
            "": [loss, Shard(row + 1), Partial()],
            "_backward": [s, s if a.get("target_grad") else Replicate()],
            "_double_backward": [loss, s, s if sizes.floating_target else Replicate()],
        }[kind]
        saved = {"saved": Shard(row + 1), "grad": grad, "h": s, "k": s}
        strategies.append(place(op, args, outputs, input=s, target=target, **saved))
    return strategies


def row_map(op: Any, args: tuple, kind: str) -> list[Strategy]:
    a = value(op, args)
    like = a.get("input", a.get("output"))
    strategies = [everywhere(op, args)]
    for d in range(len(like.shape)):
        if d != a["dim"]:
            s = Shard(d)
            outputs = [s for _ in op._schema.returns]
            strategies.append(place(op, args, outputs, **dict.fromkeys(("input", "output", "grad", "h"), s)))
    return strategies


def _register() -> None:
    rules = [(name, pointwise) for name in POINTWISE] + [(name, row_map) for name in ROW_MAPS]
    rules += [(name, partial(rowwise, sizes=Sizes(name))) for name in ROWWISE]
    for name, rule in rules:
        for kind in ("", "_backward", "_double_backward"):
            op = getattr(torch.ops.torchloss, name + kind).default
            register_sharding(op)(lambda *args, op=op, rule=rule, kind=kind: rule(op, args, kind))


_register()
