"""The losses as functions: the names, signatures, defaults and errors of :mod:`torch.nn.functional`, and a few more.

Every loss takes ``reduction="none"``, ``"mean"`` or ``"sum"``, computes in float32 for 16-bit inputs and rounds once,
and has hand-written first and second derivatives. All have keyword-only options that torch's lack: see
:func:`cross_entropy`. torch has no :func:`entropy`, :func:`softmax_entropy`, :func:`kl_div_with_logits`,
:func:`logit_stats` and :func:`count_targets`.
"""

from torchloss import _script
from torchloss._binary import binary_cross_entropy, binary_cross_entropy_with_logits
from torchloss._classes import cross_entropy, nll_loss
from torchloss._divergence import kl_div, kl_div_with_logits
from torchloss._entropy import entropy, softmax_entropy
from torchloss._regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from torchloss._softmax import log_softmax, softmax
from torchloss._stats import count_targets, logit_stats

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "count_targets",
    "cross_entropy",
    "entropy",
    "huber_loss",
    "kl_div",
    "kl_div_with_logits",
    "l1_loss",
    "log_softmax",
    "logit_stats",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
    "softmax",
    "softmax_entropy",
]

for _name in __all__:
    _script.prepare(globals()[_name])
