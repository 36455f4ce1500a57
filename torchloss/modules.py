"""The losses as modules. Those that torch.nn has are subclasses of torch's and replace nothing but the computation."""

from __future__ import annotations

import math

from torch import Tensor, nn

from torchloss import functional as F
from torchloss._check import Reduction


class L1Loss(nn.L1Loss):
    """:class:`torch.nn.L1Loss`, computed by :func:`~torchloss.functional.l1_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(nn.MSELoss):
    """:class:`torch.nn.MSELoss`, computed by :func:`~torchloss.functional.mse_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class HuberLoss(nn.HuberLoss):
    """:class:`torch.nn.HuberLoss`, computed by :func:`~torchloss.functional.huber_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class SmoothL1Loss(nn.SmoothL1Loss):
    """:class:`torch.nn.SmoothL1Loss`, computed by :func:`~torchloss.functional.smooth_l1_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class KLDivLoss(nn.KLDivLoss):
    """:class:`torch.nn.KLDivLoss`, computed by :func:`~torchloss.functional.kl_div`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class BCELoss(nn.BCELoss):
    """:class:`torch.nn.BCELoss`, computed by :func:`~torchloss.functional.binary_cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """:class:`torch.nn.BCEWithLogitsLoss` by :func:`~torchloss.functional.binary_cross_entropy_with_logits`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class NLLLoss(nn.NLLLoss):
    """:class:`torch.nn.NLLLoss`, computed by :func:`~torchloss.functional.nll_loss`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """:class:`torch.nn.CrossEntropyLoss`, computed by :func:`~torchloss.functional.cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class Softmax(nn.Softmax):
    """:class:`torch.nn.Softmax`, computed by :func:`~torchloss.functional.softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(nn.LogSoftmax):
    """:class:`torch.nn.LogSoftmax`, computed by :func:`~torchloss.functional.log_softmax`."""

    def forward(self, input: Tensor) -> Tensor:
        return F.log_softmax(input, self.dim, _stacklevel=5)


class Softmax2d(nn.Softmax2d):
    """:class:`torch.nn.Softmax2d`: :func:`~torchloss.functional.softmax` over the channels of an image."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (3, 4):
            raise ValueError(
                f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead\n  "
                "Images are (C, H, W) or (N, C, H, W); for anything else use Softmax(dim)."
            )
        return F.softmax(input, -3)


class Entropy(nn.Module):
    """Shannon's entropy of probabilities; see :func:`~torchloss.functional.entropy`.

    Example::

        >>> Entropy(base=2)(torch.tensor([0.25, 0.25, 0.5]))
        tensor(1.5000)
    """

    def __init__(self, *, base: float = math.e, dim: int = -1, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.base = base
        self.dim = dim
        self.reduction = reduction

    def forward(self, probs: Tensor) -> Tensor:
        return F.entropy(probs, base=self.base, dim=self.dim, reduction=self.reduction)

    def extra_repr(self) -> str:
        base = "e" if self.base == math.e else self.base
        return f"base={base}, dim={self.dim}, reduction={self.reduction!r}"


class SoftmaxEntropy(nn.Module):
    """Shannon's entropy of the softmax of logits; see :func:`~torchloss.functional.softmax_entropy`.

    Example::

        >>> SoftmaxEntropy()(torch.zeros(3, 2))
        tensor(0.6931)
    """

    def __init__(self, *, dim: int = -1, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.dim = dim
        self.reduction = reduction

    def forward(self, logits: Tensor) -> Tensor:
        return F.softmax_entropy(logits, dim=self.dim, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, reduction={self.reduction!r}"


class KLDivWithLogits(nn.Module):
    """KL(target || input) between logits; see :func:`~torchloss.functional.kl_div_with_logits`.

    For distillation at a temperature T, multiply by T**2 to keep the size of the gradients.

    Example::

        >>> KLDivWithLogits(temperature=4.0)(student_logits, teacher_logits)
    """

    def __init__(self, temperature: float = 1.0, *, dim: int = -1, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.temperature = temperature
        self.dim = dim
        self.reduction = reduction

    def forward(self, input_logits: Tensor, target_logits: Tensor) -> Tensor:
        return F.kl_div_with_logits(
            input_logits, target_logits, self.temperature, dim=self.dim, reduction=self.reduction
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, dim={self.dim}, reduction={self.reduction!r}"
