"""Values and gradients: for every size, option and kind of target."""

import functools
from collections.abc import Iterator

import torch

from ..kit import SHAPES, Problem, against_torch, check, inputs
from ..losses import Loss
from ..trial import Trial

ZOO = [(3, c) for c in (2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 255, 257, 1017, 4097, 65537)]


def upstream(y):
    """A gradient from above whose entries differ and are exact in every dtype."""
    return ((torch.arange(y.numel(), device=y.device) % 8 - 3.5) / 4).to(y.dtype).reshape(y.shape)


def value_and_gradient(f, x, t):
    y = f(x, t)
    y.backward(upstream(y))
    return y, x.grad


@check("values", shapes=SHAPES)
def value(f, x, t):
    """The value is torch's, with torch's shape and dtype."""
    return f(x, t)


@check("values", shapes=SHAPES)
def gradient(f, x, t):
    """The gradient is torch's, whatever gradient comes from above."""
    return value_and_gradient(f, x, t)[1]


@check("values", shapes=SHAPES, where=lambda loss: loss.target_grad, target_grad=True)
def gradient_of_the_target(f, x, t):
    """The target gets torch's gradient too."""
    return value_and_gradient(f, x, t)[1], t.grad


@check("values", shapes=ZOO, reductions="last")
def every_width(f, x, t):
    """Value and gradient are right for rows that fill vectors and blocks, and for one element more or less."""
    return value_and_gradient(f, x, t)


def like_torch(p: Problem, program, loss: Loss, make, where: str) -> Iterator[Trial]:
    """Trials whose inputs are made by hand."""
    for reduction in loss.reductions:
        options = loss.options(make()[0].shape, reduction, p.main, p.device)
        where_all = f"{loss}, reduction={reduction}, {where}"
        yield against_torch(program, loss, make, options, where=where_all, dtype=p.main)


BROADCAST = ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss", "kl_div")


def broadcasts(p: Problem) -> Iterator[Trial]:
    for loss in p.losses if p.like in BROADCAST else ():
        for a, b in (((3, 1), (4,)), ((4,), (3, 1))) if not loss.weights else ():

            def make(loss=loss, a=a, b=b):
                (x, _), (_, t) = (inputs(loss, shape, p.main, p.device) for shape in (a, b))
                return x, t.requires_grad_()

            yield from like_torch(p, broadcast, loss, make, f"{a} against {b}")


@check("values", trials=broadcasts)
def broadcast(f, x, t):
    """Sizes that broadcast: torch's value, and gradients of the inputs' sizes."""
    return *value_and_gradient(f, x, t), t.grad


NO_WEIGHT_GRADIENT = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)  # in torch; the first two of class indices


def weights_as_leaves(p: Problem) -> Iterator[Trial]:
    for loss in p.losses:
        if "weight" in loss.weights and loss.op not in NO_WEIGHT_GRADIENT:
            make = functools.partial(inputs, loss, (4, 5), p.main, p.device)
            for trial in like_torch(p, gradient_of_the_weight, loss, make, ""):
                trial.options["weight"].requires_grad_()
                yield trial


@check("values", trials=weights_as_leaves)
def gradient_of_the_weight(f, x, t):
    """A weight that requires a gradient gets torch's."""
    y = f(x, t)
    return torch.autograd.grad(y, f.options["weight"], upstream(y))


def with_masked_classes(p: Problem) -> Iterator[Trial]:
    finite_only = getattr(p.fn, "finite_only", False)
    for loss in p.losses if p.like in ("cross_entropy", "softmax", "log_softmax") and not finite_only else ():
        if loss.target_grad or "label_smoothing" in loss.params:
            continue  # 0 times infinity

        def make(loss=loss):
            x, t = inputs(loss, (3, 500), p.main, p.device, leaves=False)
            x[:, 20:400] = -torch.inf
            return x.requires_grad_(), t if t is None else torch.where(t < 0, t, t % 20)

        yield from like_torch(p, masked_classes, loss, make, "classes 20 to 399 are -inf")


@check("values", trials=with_masked_classes)
def masked_classes(f, x, t):
    """Hundreds of neighbouring classes masked with -inf: the others as without them."""
    return value_and_gradient(f, x, t)


def with_narrow_targets(p: Problem) -> Iterator[Trial]:
    for loss in p.losses if p.like in ("cross_entropy", "nll_loss") else ():
        if not loss.target_grad:

            def make(loss=loss):
                x, _ = inputs(loss, (4, 250), p.main, p.device)
                return x, torch.tensor([0, 127, 128, 249], dtype=torch.uint8, device=p.device)

            yield from like_torch(p, targets_of_a_byte, loss, make, "targets 0, 127, 128, 249")


@check("values", trials=with_narrow_targets)
def targets_of_a_byte(f, x, t):
    """Class indices as uint8, beyond 127 too."""
    return value_and_gradient(f, x, t)


@check("values", shapes=[(0, 5), (0, 5, 3)])
def empty(f, x, t):
    """A batch of nothing: a sum of 0, a mean of NaN, a gradient of no numbers."""
    y = f(x, t)
    y.sum().backward()
    return y, x.grad
