"""(e) Sentences from a student's notes on losses, each put to a small computation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from torchloss.lab import data
from torchloss.lab.train import OURS, classifier

MARGINS = [k / 2 for k in range(0, 81)]


@dataclass
class Saturation:
    """pulls[curve][margin]: |dL/d the labelled class's logit| when one logit of ten leads the others by `margin`."""

    margins: list[float]
    pulls: dict[str, list[float]]

    def dead_from(self, curve: str) -> float | None:
        """The first margin where the gradient is exactly 0; None if it never is."""
        return next((m for m, pull in zip(self.margins, self.pulls[curve], strict=True) if pull == 0), None)


@dataclass
class Notes:
    """The measured numbers behind the notes' formulas; each `_error` is a largest absolute difference."""

    saturation: Saturation
    accumulated: float
    jacobian_error: float
    jacobian_norms: dict[int, float]
    gradient_error: dict[str, float]
    kl_error: float


def notes(libraries: dict[str, ModuleType], seed: int) -> Notes:
    """Check them all, with torchloss and where it tells something with torch.nn too."""
    ours = libraries[OURS]
    logits = 3 * torch.randn(64, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    norms = {margin: jacobian(ours, leading(margin)).norm().item() for margin in (0, 5, 10, 20)}
    return Notes(
        saturation(libraries),
        accumulated(ours, seed),
        max(jacobian_error(ours, row) for row in logits[:8]),
        norms,
        {name: gradient_error(library, logits) for name, library in libraries.items()},
        kl_error(ours, logits),
    )


def leading(margin: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Ten logits, the first of them ahead of the others."""
    logits = torch.zeros(10, dtype=dtype)
    logits[0] = margin
    return logits


def saturation(libraries: dict[str, ModuleType]) -> Saturation:
    """Where the gradient dies: the leading class right and wrong, cross entropy and squared error, float32."""
    ours = libraries[OURS]
    pulls = {f"cross entropy, right, {name}": [ce_pull(lib, m, 0) for m in MARGINS] for name, lib in libraries.items()}
    pulls["cross entropy, right, exact"] = [9 * math.exp(-m) / (1 + 9 * math.exp(-m)) for m in MARGINS]
    pulls[f"cross entropy, wrong, {OURS}"] = [ce_pull(ours, m, 1) for m in MARGINS]
    pulls[f"squared error, wrong, {OURS}"] = [squared_pull(ours, m) for m in MARGINS]
    return Saturation(MARGINS, pulls)


def ce_pull(library: ModuleType, margin: float, label: int) -> float:
    """Cross entropy's |gradient| at the label's logit when class 0 leads and `label` is the right one."""
    logits = leading(margin, torch.float32).requires_grad_()
    library.CrossEntropyLoss()(logits, torch.tensor(label)).backward()
    return abs(logits.grad[label].item())


def squared_pull(library: ModuleType, margin: float) -> float:
    """The same for (softmax - one-hot)^2, summed over the classes, with class 1 right."""
    logits = leading(margin, torch.float32).requires_grad_()
    one_hot = nn.functional.one_hot(torch.tensor(1), 10).float()
    library.MSELoss(reduction="sum")(library.Softmax(dim=0)(logits), one_hot).backward()
    return abs(logits.grad[1].item())


def accumulated(library: ModuleType, seed: int) -> float:
    """Size of the gradient after two backward passes without zero_grad, divided by its size after one."""
    rows = data.digits(seed)
    torch.manual_seed(seed)
    model = classifier()
    sizes = []
    for _ in range(2):
        library.CrossEntropyLoss()(model(rows.inputs), rows.targets).backward()
        sizes.append(model[0].weight.grad.norm().item())
    return sizes[1] / sizes[0]


def jacobian(library: ModuleType, logits: Tensor) -> Tensor:
    """The Jacobian of softmax, by autograd."""
    return torch.autograd.functional.jacobian(library.Softmax(dim=0), logits)


def jacobian_error(library: ModuleType, logits: Tensor) -> float:
    """How far the Jacobian is from diag(y) - y y^T."""
    y = torch.softmax(logits, 0)
    return (jacobian(library, logits) - (y.diag() - y.outer(y))).abs().max().item()


def gradient_error(library: ModuleType, logits: Tensor) -> float:
    """How far cross entropy's float32 gradient is from softmax - one-hot computed in float64."""
    target = torch.arange(len(logits)) % logits.shape[1]
    single = logits.float().requires_grad_()
    library.CrossEntropyLoss(reduction="sum")(single, target).backward()
    expected = torch.softmax(single.detach().double(), 1) - nn.functional.one_hot(target, logits.shape[1])
    return (single.grad - expected).abs().max().item()


def kl_error(library: ModuleType, logits: Tensor) -> float:
    """How far KL(p, q) is from CE(p, q) - H(p) for rows p and q of softmaxes."""
    p, log_q = torch.softmax(logits.flip(0), 1), torch.log_softmax(logits, 1)
    entropy = -(p * p.log()).sum()
    divergence = library.KLDivLoss(reduction="sum")(log_q, p)
    return (divergence - (library.CrossEntropyLoss(reduction="sum")(logits, p) - entropy)).abs().item()
