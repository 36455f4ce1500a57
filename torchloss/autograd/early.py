"""Cross entropy of a class with its gradient taken in the forward pass: for problems where calls are what costs.

A loss on which `backward` is called has the gradient 1, and then that of the logits is ready. For any other gradient,
and for everything but a plain backward pass, the usual Function's gradient is computed.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

try:
    from torch._C._autograd import _get_current_graph_task_keep_graph as keep_graph
    from torch._C._functorch import is_legacy_batchedtensor
except ImportError:  # private names: without them no gradient is taken early
    keep_graph = None

from torchloss import _fake
from torchloss.autograd.chain import NONE, ops, run, single_level

LARGEST = 1 << 18  # elements: the gradient stays in the cache until it is wanted
TENSORS = frozenset((Tensor, torch.nn.Parameter))

_fake.cross_entropy_and_gradient()


def pays(x: Tensor, t: Tensor, w: Tensor | None, dim: int, reduction: int, *_: float) -> bool:
    """Whether a backward pass of eager PyTorch may follow, of a problem that is small."""
    return x.requires_grad and reduction != NONE and x.is_cpu and type(x) in TENSORS and x.numel() <= LARGEST


def is_final(grad: Tensor) -> bool:
    """Whether the gradient is 1, and nobody will ask for another one.

    Who keeps the graph does: and in the meantime may have changed the tensor that was handed out.
    """
    return (
        not torch.compiler.is_compiling()  # first: Dynamo can trace no more of this
        and not torch.is_grad_enabled()
        and type(grad) is Tensor
        and not torch._C._are_functorch_transforms_active()
        and not is_legacy_batchedtensor(grad)
        and not keep_graph()
        and grad.item() == 1
    )


def early(function: type[Function]) -> type[Function] | None:
    """The Function for small problems of the same loss. The configuration is one argument, as everything costs time."""
    if function.single is None or keep_graph is None:
        return None
    op, guard = ops.cross_entropy_and_gradient.default, torch._C._AutoDispatchBelowAutograd

    def forward(ctx: FunctionCtx, x: Tensor, t: Tensor, w: Tensor | None, config: tuple) -> Tensor:
        with guard():
            loss, gradient = op(x, t, w, *config)
        ctx.config = config
        ctx.save_for_backward(x, t, w, gradient)
        return loss

    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        x, t, w, gradient = ctx.saved_tensors
        if not is_final(grad):
            _, stats, total = run(function, x.detach(), t, w, *ctx.config)
            gradient, _ = function.run_next(grad, x, t, w, stats, total, *ctx.config, False)
        return gradient, None, None, None

    made = single_level(function.__name__, forward=forward, backward=backward)
    made.pays = staticmethod(pays)
    return made
