"""The losses as modules. Those that torch.nn has are subclasses of torch's and replace nothing but the computation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchloss import functional as F
from torchloss._check import Reduction
from torchloss._reduction import Empty
from torchloss._script import refuse


class _Reduced:
    """The options that every loss has; class attributes, for modules that were pickled without them."""

    normalizer: float | Tensor | None = None
    empty: Empty = "nan"
    out_dtype: torch.dtype | None = None

    def _reduce_by(self, normalizer: float | Tensor | None, empty: Empty, out_dtype: torch.dtype | None) -> None:
        self.normalizer, self.empty, self.out_dtype = normalizer, empty, out_dtype

    def _reduction(self, normalizer: float | Tensor | None) -> dict[str, Any]:
        """The keyword arguments of a call with a normalizer, or with the module's."""
        return {
            "reduction": self.reduction,
            "normalizer": self.normalizer if normalizer is None else normalizer,
            "empty": self.empty,
            "out_dtype": self.out_dtype,
        }

    def __prepare_scriptable__(self) -> Any:
        return refuse(type(self).__name__)


class _OfLogits(_Reduced):
    """And those of losses of logits."""

    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    inplace_backward: bool = False

    def _transform_by(self, z_loss: float, softcap: float | None, logit_scale: float, inplace_backward: bool) -> None:
        self.z_loss, self.softcap, self.logit_scale = z_loss, softcap, logit_scale
        self.inplace_backward = inplace_backward

    def _reduction(self, normalizer: float | Tensor | None) -> dict[str, Any]:
        return super()._reduction(normalizer) | {
            "z_loss": self.z_loss,
            "softcap": self.softcap,
            "logit_scale": self.logit_scale,
            "inplace_backward": self.inplace_backward,
        }


class L1Loss(_Reduced, nn.L1Loss):
    """:class:`torch.nn.L1Loss`, computed by :func:`~torchloss.functional.l1_loss`, with its further options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.l1_loss(input, target, **self._reduction(normalizer))


class MSELoss(_Reduced, nn.MSELoss):
    """:class:`torch.nn.MSELoss`, computed by :func:`~torchloss.functional.mse_loss`, with its further options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.mse_loss(input, target, **self._reduction(normalizer))


class HuberLoss(_Reduced, nn.HuberLoss):
    """:class:`torch.nn.HuberLoss`, computed by :func:`~torchloss.functional.huber_loss`, with its further options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.huber_loss(input, target, delta=self.delta, **self._reduction(normalizer))


class SmoothL1Loss(_Reduced, nn.SmoothL1Loss):
    """:class:`torch.nn.SmoothL1Loss` by :func:`~torchloss.functional.smooth_l1_loss`, with its options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.smooth_l1_loss(input, target, beta=self.beta, **self._reduction(normalizer))


class KLDivLoss(_Reduced, nn.KLDivLoss):
    """:class:`torch.nn.KLDivLoss`, computed by :func:`~torchloss.functional.kl_div`, with its further options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.kl_div(input, target, log_target=self.log_target, **self._reduction(normalizer))


class BCELoss(_Reduced, nn.BCELoss):
    """:class:`torch.nn.BCELoss` by :func:`~torchloss.functional.binary_cross_entropy`, with its options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.binary_cross_entropy(input, target, weight=self.weight, **self._reduction(normalizer))


class BCEWithLogitsLoss(_Reduced, nn.BCEWithLogitsLoss):
    """:class:`torch.nn.BCEWithLogitsLoss`, with its further options.

    Computed by :func:`~torchloss.functional.binary_cross_entropy_with_logits`.
    """

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(self, input: Tensor, target: Tensor, *, normalizer: float | Tensor | None = None) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            pos_weight=self.pos_weight,
            **self._reduction(normalizer),
        )


class NLLLoss(_Reduced, nn.NLLLoss):
    """:class:`torch.nn.NLLLoss`, computed by :func:`~torchloss.functional.nll_loss`, with its further options."""

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
        self._reduce_by(normalizer, empty, out_dtype)

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
            row_weight=row_weight,
            **self._reduction(normalizer),
        )


class CrossEntropyLoss(_OfLogits, nn.CrossEntropyLoss):
    """:class:`torch.nn.CrossEntropyLoss`, computed by :func:`~torchloss.functional.cross_entropy`, with its options.

    Example::

        >>> loss = CrossEntropyLoss(z_loss=1e-4, softcap=30.0)
        >>> loss(logits, targets, normalizer=torchloss.count_targets(targets_of_the_step))
    """

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
        self._reduce_by(normalizer, empty, out_dtype)
        self._transform_by(z_loss, softcap, logit_scale, inplace_backward)

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
            label_smoothing=self.label_smoothing,
            row_weight=row_weight,
            **self._reduction(normalizer),
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


class Entropy(_Reduced, nn.Module):
    """Shannon's entropy of probabilities; see :func:`~torchloss.functional.entropy`.

    Example::

        >>> Entropy(base=2)(torch.tensor([0.25, 0.25, 0.5]))
        tensor(1.5000)
    """

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
        self._reduce_by(normalizer, empty, out_dtype)

    def forward(
        self, probs: Tensor, *, row_weight: Tensor | None = None, normalizer: float | Tensor | None = None
    ) -> Tensor:
        return F.entropy(
            probs,
            base=self.base,
            dim=self.dim,
            row_weight=row_weight,
            **self._reduction(normalizer),
        )

    def extra_repr(self) -> str:
        base = "e" if self.base == math.e else self.base
        return f"base={base}, dim={self.dim}, reduction={self.reduction!r}"


class SoftmaxEntropy(_OfLogits, nn.Module):
    """Shannon's entropy of the softmax of logits; see :func:`~torchloss.functional.softmax_entropy`.

    Example::

        >>> SoftmaxEntropy()(torch.zeros(3, 2))
        tensor(0.6931)
    """

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
        self._reduce_by(normalizer, empty, out_dtype)
        self._transform_by(z_loss, softcap, logit_scale, inplace_backward)

    def forward(
        self, logits: Tensor, *, row_weight: Tensor | None = None, normalizer: float | Tensor | None = None
    ) -> Tensor:
        return F.softmax_entropy(logits, dim=self.dim, row_weight=row_weight, **self._reduction(normalizer))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, reduction={self.reduction!r}"


class KLDivWithLogits(_OfLogits, nn.Module):
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
        super().__init__()
        self.temperature, self.dim, self.reduction = temperature, dim, reduction
        self._reduce_by(normalizer, empty, out_dtype)
        self._transform_by(z_loss, softcap, logit_scale, inplace_backward)

    def forward(
        self,
        input_logits: Tensor,
        target_logits: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        options = {"dim": self.dim, "row_weight": row_weight} | self._reduction(normalizer)
        return F.kl_div_with_logits(input_logits, target_logits, self.temperature, **options)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, dim={self.dim}, reduction={self.reduction!r}"
