"""Who computes a case: each gives the function to call, or raises and is a row with the reason instead of figures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch

import torchloss
from torchloss.bench.cases import Case
from torchloss.testing import rivals as others


class Missing(Exception):
    """Why a rival has no figures for a case."""


def ours(case: Case) -> Callable:
    function = getattr(torchloss.functional, case.loss.name)
    if case.variant != "inplace":
        return function
    if "inplace_backward" not in inspect.signature(function).parameters:
        raise Missing("this torchloss has no inplace_backward")
    return functools.partial(function, inplace_backward=True)


def eager(case: Case) -> Callable:
    return case.loss.reference


def compiled(case: Case) -> Callable:
    """torch.compile of the same function: a graph for this shape alone."""
    torch._dynamo.reset()
    return torch.compile(case.loss.reference, fullgraph=True, dynamic=False)


def liger(case: Case) -> Callable:
    """LigerCrossEntropyLoss; the gradient is written over the logits."""
    of_indices(case)
    from liger_kernel.transformers import LigerCrossEntropyLoss

    return lambda input, target, **options: LigerCrossEntropyLoss(**options)(input, target)


def quack(case: Case) -> Callable:
    of_indices(case)
    inplace = {"inplace_backward": True} if case.variant == "inplace" else {}
    return functools.partial(others.quack_cross_entropy, **inplace)


def cce(case: Case) -> Callable:
    """With the identity as the linear layer, which it is made to fuse: for completeness, not a fair comparison."""
    of_indices(case)
    return others.cut_cross_entropy


def apex(case: Case) -> Callable:
    """SoftmaxCrossEntropyLoss of apex.contrib, whose losses are of rows."""
    of_indices(case)
    from apex.contrib.xentropy import SoftmaxCrossEntropyLoss

    def function(input, target, *, label_smoothing=0.0, reduction="mean", **options):
        if options or case.variant == "ignored":
            raise Missing("label smoothing is its only option")
        return SoftmaxCrossEntropyLoss.apply(input, target, label_smoothing, -100).mean()

    return function


def of_indices(case: Case) -> None:
    """What the CUDA packages compute."""
    if case.device != "cuda":
        raise Missing("runs on CUDA only")
    if not str(case.loss).startswith("cross_entropy-index") or len(case.shape) != 2:
        raise Missing("only cross entropy of (N, C) logits and N class indices")


RIVALS = {
    "torchloss": ours,
    "eager": eager,
    "compile": compiled,
    "liger": liger,
    "quack": quack,
    "cce": cce,
    "apex": apex,
}


def overwrites(rival: str, case: Case) -> bool:
    """Whether the logits are spoiled by backward, so that each step needs fresh ones."""
    return rival == "liger" or (case.variant == "inplace" and rival in ("torchloss", "quack"))


def reason(error: BaseException) -> str:
    """Its first line, short."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (lines[0] if isinstance(error, Missing) else f"{type(error).__name__}: {lines[0]}")[:160]
