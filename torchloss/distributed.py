"""Teaches DTensor how the losses may be split: `import torchloss.distributed` once, before a loss meets a DTensor.

A loss of every element or row (reduction "none") and a sum may be computed on shards of any dimension but that of the
classes; a sum is then a partial one. A mean is not: the gradient of a mean of local means is not that of the mean, so
its inputs are gathered. Take the sum and divide it by the global count where that is too much.

DDP and FSDP hand plain tensors to the loss and need none of this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import Partial, Placement, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from torchloss.autograd.chain import MEAN, NONE
from torchloss.autograd.pointwise import NAMES as POINTWISE
from torchloss.autograd.row_map import NAMES as ROW_MAPS
from torchloss.autograd.rowwise import NAMES as ROWWISE

Strategy = tuple[list[Placement], list["Placement | None"]]


def place(op: Any, args: tuple, outputs: list[Placement], **of: Placement) -> Strategy:
    """The placements of an op's arguments by name; an argument that is no tensor has none."""
    names = [a.name for a in op._schema.arguments]
    there = [hasattr(a, "placements") or hasattr(a, "mesh") for a in args]
    return outputs, [of.get(n, Replicate()) if t else None for n, t in zip(names, there, strict=False)]


def value(op: Any, args: tuple) -> dict[str, Any]:
    return dict(zip([a.name for a in op._schema.arguments], args, strict=False))


def everywhere(op: Any, args: tuple) -> Strategy:
    """Every process computes the whole."""
    return place(op, args, [Replicate() for _ in op._schema.returns])


def pointwise(op: Any, args: tuple, kind: str) -> list[Strategy]:
    a = value(op, args)
    strategies = [everywhere(op, args)]
    if a["reduction"] == MEAN:
        return strategies
    for d in range(len(a["input"].shape)):
        s = Shard(d)
        loss, grad = (s, s) if a["reduction"] == NONE else (Partial(), Replicate())
        outputs = {
            "": [loss],
            "_backward": [s, s if a.get("target_grad") else Replicate()],
            "_double_backward": [loss, s, s],
        }[kind]
        elements = dict.fromkeys(("input", "target", "weight", "pos_weight", "h", "k"), s)
        strategies.append(place(op, args, outputs, **elements, grad=grad))
    return strategies


def rowwise(op: Any, args: tuple, kind: str) -> list[Strategy]:
    a = value(op, args)
    strategies = [everywhere(op, args)]
    if a["reduction"] == MEAN:
        return strategies
    for d in range(len(a["input"].shape)):
        if d == a["dim"]:
            continue
        s, row = Shard(d), d - (d > a["dim"])  # the dimension among the rows'
        floating = a["target"] is not None and len(a["target"].shape) == len(a["input"].shape)
        target = s if floating else Shard(row)
        loss, grad = (Shard(row), Shard(row)) if a["reduction"] == NONE else (Partial(), Replicate())
        outputs = {
            "": [loss, Shard(row + 1), Partial()],
            "_backward": [s, s if a.get("target_grad") else Replicate()],
            "_double_backward": [loss, s, s if floating else Replicate()],
        }[kind]
        saved = {"stats": Shard(row + 1), "grad": grad, "h": s, "k": s}
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
    for names, rule in ((POINTWISE, pointwise), (ROWWISE, rowwise), (ROW_MAPS, row_map)):
        for name in names:
            for kind in ("", "_backward", "_double_backward"):
                op = getattr(torch.ops.torchloss, name + kind).default
                register_sharding(op)(lambda *args, op=op, rule=rule, kind=kind: rule(op, args, kind))


_register()
