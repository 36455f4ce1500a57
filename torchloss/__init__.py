"""torchloss: PyTorch's losses, each written by hand from one formula and run by fused C++ and CUDA kernels.

>>> import torchloss
>>> loss = torchloss.CrossEntropyLoss()(logits, target)  # as torch.nn.CrossEntropyLoss
>>> loss = torchloss.functional.cross_entropy(logits, target)  # as torch.nn.functional.cross_entropy
"""

from torchloss import _decompositions, _library, functional  # noqa: F401  (first of all the compiled operators)
from torchloss._stats import count_targets
from torchloss._targets import check_targets
from torchloss.autograd.in_forward import set_early_gradient
from torchloss.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    Entropy,
    HuberLoss,
    KLDivLoss,
    KLDivWithLogits,
    L1Loss,
    LogSoftmax,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
    Softmax,
    Softmax2d,
    SoftmaxEntropy,
)

__version__ = "0.1.0"

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Entropy",
    "HuberLoss",
    "KLDivLoss",
    "KLDivWithLogits",
    "L1Loss",
    "LogSoftmax",
    "MSELoss",
    "NLLLoss",
    "SmoothL1Loss",
    "Softmax",
    "Softmax2d",
    "SoftmaxEntropy",
    "check_targets",
    "count_targets",
    "functional",
    "set_early_gradient",
]
