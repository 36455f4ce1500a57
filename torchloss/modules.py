"""The losses as modules. Those that torch.nn has are subclasses of torch's and replace nothing but the computation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchloss import functional as F
from torchloss._check import Reduction
from torchloss._reduction import Empty


class L1Loss(nn.L1Loss):
    """:class:`torch.nn.L1Loss`, computed by :func:`~torchloss.functional.l1_loss`, with its further options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.l1_loss(
            input,
            target,
            reduction=self.reduction,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class MSELoss(nn.MSELoss):
    """:class:`torch.nn.MSELoss`, computed by :func:`~torchloss.functional.mse_loss`, with its further options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.mse_loss(
            input,
            target,
            reduction=self.reduction,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class HuberLoss(nn.HuberLoss):
    """:class:`torch.nn.HuberLoss`, computed by :func:`~torchloss.functional.huber_loss`, with its further options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        reduction: Reduction = "mean",
        delta: float = 1.0,
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(reduction, delta)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.huber_loss(
            input,
            target,
            reduction=self.reduction,
            delta=self.delta,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class SmoothL1Loss(nn.SmoothL1Loss):
    """:class:`torch.nn.SmoothL1Loss` by :func:`~torchloss.functional.smooth_l1_loss`, with its options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        beta: float = 1.0,
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction, beta)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.smooth_l1_loss(
            input,
            target,
            reduction=self.reduction,
            beta=self.beta,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class KLDivLoss(nn.KLDivLoss):
    """:class:`torch.nn.KLDivLoss`, computed by :func:`~torchloss.functional.kl_div`, with its further options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction, log_target)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.kl_div(
            input,
            target,
            reduction=self.reduction,
            log_target=self.log_target,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class BCELoss(nn.BCELoss):
    """:class:`torch.nn.BCELoss` by :func:`~torchloss.functional.binary_cross_entropy`, with its options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.binary_cross_entropy(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """:class:`torch.nn.BCEWithLogitsLoss`, with its further options.

    Computed by :func:`~torchloss.functional.binary_cross_entropy_with_logits`.
    """

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        pos_weight: Tensor | None = None,
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class NLLLoss(nn.NLLLoss):
    """:class:`torch.nn.NLLLoss`, computed by :func:`~torchloss.functional.nll_loss`, with its further options."""

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        *,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction)
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return F.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            row_weight=row_weight,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """:class:`torch.nn.CrossEntropyLoss`, computed by :func:`~torchloss.functional.cross_entropy`, with its options.

    Example::

        >>> loss = CrossEntropyLoss(z_loss=1e-4, softcap=30.0)
        >>> loss(logits, targets, normalizer=torchloss.count_targets(targets_of_the_step))
    """

    z_loss, softcap, logit_scale, normalizer, empty = 0.0, None, 1.0, None, "nan"  # of modules pickled without them
    out_dtype, inplace_backward = None, False

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss, self.softcap, self.logit_scale = z_loss, softcap, logit_scale
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype
        self.inplace_backward = inplace_backward

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            row_weight=row_weight,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
            inplace_backward=self.inplace_backward,
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

    normalizer, empty, out_dtype = None, "nan", None  # of modules pickled without them

    def __init__(
        self,
        *,
        base: float = math.e,
        dim: int = -1,
        reduction: Reduction = "mean",
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.base, self.dim, self.reduction = base, dim, reduction
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def forward(
        self, probs: Tensor, *, row_weight: Tensor | None = None, normalizer: float | Tensor | None = None
    ) -> Tensor:
        return F.entropy(
            probs,
            base=self.base,
            dim=self.dim,
            reduction=self.reduction,
            row_weight=row_weight,
            normalizer=self.normalizer if normalizer is None else normalizer,
            empty=self.empty,
            out_dtype=self.out_dtype,
        )

    def extra_repr(self) -> str:
        base = "e" if self.base == math.e else self.base
        return f"base={base}, dim={self.dim}, reduction={self.reduction!r}"


class _OfLogits(nn.Module):
    """What the two losses of logits that torch lacks share: their options."""

    z_loss, softcap, logit_scale, normalizer, empty = 0.0, None, 1.0, None, "nan"  # of modules pickled without them
    out_dtype, inplace_backward = None, False

    def __init__(
        self,
        *,
        dim: int = -1,
        reduction: Reduction = "mean",
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.reduction = dim, reduction
        self.z_loss, self.softcap, self.logit_scale = z_loss, softcap, logit_scale
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype
        self.inplace_backward = inplace_backward

    def options(self, row_weight: Tensor | None, normalizer: float | Tensor | None) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "reduction": self.reduction,
            "z_loss": self.z_loss,
            "softcap": self.softcap,
            "logit_scale": self.logit_scale,
            "row_weight": row_weight,
            "normalizer": self.normalizer if normalizer is None else normalizer,
            "empty": self.empty,
            "out_dtype": self.out_dtype,
            "inplace_backward": self.inplace_backward,
        }

    def extra_repr(self) -> str:
        return f"dim={self.dim}, reduction={self.reduction!r}"


class SoftmaxEntropy(_OfLogits):
    """Shannon's entropy of the softmax of logits; see :func:`~torchloss.functional.softmax_entropy`.

    Example::

        >>> SoftmaxEntropy()(torch.zeros(3, 2))
        tensor(0.6931)
    """

    def forward(
        self, logits: Tensor, *, row_weight: Tensor | None = None, normalizer: float | Tensor | None = None
    ) -> Tensor:
        return F.softmax_entropy(logits, **self.options(row_weight, normalizer))


class KLDivWithLogits(_OfLogits):
    """KL(target || input) between logits; see :func:`~torchloss.functional.kl_div_with_logits`.

    For distillation at a temperature T, multiply by T**2 to keep the size of the gradients.

    Example::

        >>> KLDivWithLogits(temperature=4.0)(student_logits, teacher_logits)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        dim: int = -1,
        reduction: Reduction = "mean",
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_scale: float = 1.0,
        normalizer: float | Tensor | None = None,
        empty: Empty = "nan",
        out_dtype: torch.dtype | None = None,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__(
            dim=dim,
            reduction=reduction,
            z_loss=z_loss,
            softcap=softcap,
            logit_scale=logit_scale,
            normalizer=normalizer,
            empty=empty,
            out_dtype=out_dtype,
            inplace_backward=inplace_backward,
        )
        self.temperature = temperature

    def forward(
        self,
        input_logits: Tensor,
        target_logits: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        options = self.options(row_weight, normalizer)
        return F.kl_div_with_logits(input_logits, target_logits, self.temperature, **options)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, {super().extra_repr()}"
