"""Other packages' cross entropies, called as torch's is: for `check_loss` and the published matrix.

Each raises :class:`Unsupported` for a call that its package does not offer, and ModuleNotFoundError if that is missing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .trial import Unsupported


def linear_cross_entropy(input: Tensor, target: Tensor, **options) -> Tensor:
    """torch's fused linear layer and cross entropy, in chunks, with the identity as the layer."""
    if input.dim() != 2 or target.is_floating_point():
        raise Unsupported("torch computes this in its reference path")
    if input.shape[1] > 10_000:
        raise Unsupported("the identity would not fit into memory")
    eye = torch.eye(input.shape[1], dtype=input.dtype, device=input.device)
    return F.linear_cross_entropy(input, eye, target, **options, options=torch.nn.LinearCrossEntropyOptions())


linear_cross_entropy.finite_only = True  # the identity mixes the logits: 0 times infinity


def liger_cross_entropy(input: Tensor, target: Tensor, **options) -> Tensor:
    """LigerCrossEntropyLoss, of liger-kernel. It writes the gradient over its input, so it is given a copy."""
    from liger_kernel.transformers import LigerCrossEntropyLoss

    if input.dim() != 2 or target.is_floating_point():
        raise Unsupported("class indices of shape (N,) for logits of shape (N, C) only")
    return LigerCrossEntropyLoss(**options)(input.clone(), target)


def quack_cross_entropy(input: Tensor, target: Tensor, **options) -> Tensor:
    """cross_entropy of quack-kernels."""
    from quack.cross_entropy import cross_entropy

    if input.dim() != 2 or target.is_floating_point():
        raise Unsupported("class indices of shape (N,) for logits of shape (N, C) only")
    return cross_entropy(input, target, **options)


def cut_cross_entropy(input: Tensor, target: Tensor, **options) -> Tensor:
    """linear_cross_entropy of cut-cross-entropy, with the identity as the layer."""
    from cut_cross_entropy import linear_cross_entropy as cut

    if input.dim() != 2 or target.is_floating_point():
        raise Unsupported("class indices of shape (N,) for embeddings of shape (N, D) only")
    if input.shape[1] > 10_000:
        raise Unsupported("the identity would not fit into memory")
    return cut(input, torch.eye(input.shape[1], dtype=input.dtype, device=input.device), target, **options)


cut_cross_entropy.finite_only = True
