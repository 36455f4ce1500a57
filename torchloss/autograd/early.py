"""Cross entropy of a class with its gradient taken in the forward pass, on the CPU.

The gradient needs the exponentials that the loss has summed, and a row that is still in the cache: taken at once it
costs a third of the arithmetic and one reading of the logits less, and in small problems an operator call. A loss on
which `backward` is called has the gradient 1, and then that of the logits is ready; for another gradient it is computed
anew in the same memory. For everything but a plain backward pass the usual Function's gradient is computed.
"""

from collections.abc import Callable

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
from torchloss.autograd.chain import NONE, ops, single_level

ALWAYS = 1 << 62
TENSORS = frozenset((Tensor, torch.nn.Parameter))

largest = ALWAYS


def set_early_gradient(most: int | None = None) -> None:
    """Sets for how many logits `cross_entropy` takes its gradient in the forward pass: up to `most`; None: any number.

    With 0 it is taken in the backward pass, as PyTorch does. That is the better choice for losses of which many are
    alive before the first backward pass, for each holds a gradient; and for losses that require a gradient and never
    get a backward pass, outside of `torch.no_grad()`. Only CPU tensors, class indices and the reductions mean and sum
    are concerned. The numbers are the same, but for the last bits in rows of more than some hundred classes.

    Raises:
        TypeError: `most` is not an int.
        ValueError: `most` is negative.
    """
    global largest
    if most is not None and (not isinstance(most, int) or isinstance(most, bool)):
        raise TypeError(f"set_early_gradient: expected a number of logits as int, or None, not {type(most).__name__}")
    if most is not None and most < 0:
        raise ValueError(f"set_early_gradient: expected a number of logits of 0 or more, not {most}")
    largest = ALWAYS if most is None else most


def pays(x: Tensor, t: Tensor, w: Tensor | None, dim: int, reduction: int, *_: float) -> bool:
    """Whether a backward pass of eager PyTorch may follow."""
    return x.requires_grad and reduction != NONE and x.is_cpu and type(x) in TENSORS and x.numel() <= largest


def may_be_given(grad: Tensor) -> bool:
    """Whether nobody will ask for this gradient again.

    Who keeps the graph does: and in the meantime may have changed the tensor that was handed out.
    """
    return (
        not torch.compiler.is_compiling()  # first: Dynamo can trace no more of this
        and not torch.is_grad_enabled()
        and type(grad) is Tensor
        and not torch._C._are_functorch_transforms_active()
        and not is_legacy_batchedtensor(grad)
        and not keep_graph()
    )


def early(function: type[Function], saved: Callable[[float], int]) -> type[Function] | None:
    """The Function with an early gradient. The configuration is one argument, as everything costs time."""
    _fake.cross_entropy_and_gradient(saved)
    if function.single is None or keep_graph is None:
        return None
    both, into = ops.cross_entropy_and_gradient.default, ops.cross_entropy_backward_into.default
    guard = torch._C._AutoDispatchBelowAutograd

    def forward(ctx: FunctionCtx, x: Tensor, t: Tensor, w: Tensor | None, config: tuple) -> Tensor:
        with guard():
            loss, stats, total, gradient = both(x, t, w, *config)
        ctx.config = config
        ctx.save_for_backward(x, t, w, stats, total, gradient)
        return loss

    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        *kept, gradient = ctx.saved_tensors
        if not may_be_given(grad):
            gradient, _ = function.run_next(grad, *kept, *ctx.config, False)
        elif grad.item() != 1:
            with guard():
                into(gradient, grad, *kept, *ctx.config)
        return gradient, None, None, None

    made = single_level(function.__name__, forward=forward, backward=backward)
    made.pays = staticmethod(pays)
    return made
