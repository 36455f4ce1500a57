"""Every way in which eager PyTorch may call a loss: hooks, checkpoints, transforms, mixed precision."""

import functools

import torch
import torch.func as func
import torch.utils.checkpoint as checkpoint
from torch.autograd import forward_ad, gradcheck

from ..kit import against_torch, check, inputs
from .values import upstream, value_and_gradient


def weighted(y):
    """A number on which every entry has another influence."""
    return (y * upstream(y)).sum()


def modes(**options):
    return check("autograd", **options)


@modes()
def a_gradient_of_the_input_alone(f, x, t):
    """A target that wants no gradient gets none."""
    y = f(x, t)
    weighted(y).backward()
    return x.grad, None if t is None else t.grad


@modes(where=lambda loss: loss.target_grad, target_grad=True, reductions="last")
def a_gradient_of_the_target_alone(f, x, t):
    """An input that wants no gradient gets none."""
    weighted(f(x.detach(), t)).backward()
    return t.grad, x.grad


@modes(reference=False)
def no_gradient_wanted(f, x, t):
    """The value does not depend on whether a gradient is wanted; without, nothing is recorded."""
    y = f(x, t).detach()
    detached = f(x.detach(), t)
    with torch.no_grad():
        silent = f(x, t)
    with torch.inference_mode():
        inferred = f(x.detach(), t)
    for other in (detached, silent, inferred):
        assert not other.requires_grad, "it requires a gradient"
        assert torch.equal(y.nan_to_num(), other.nan_to_num()), f"{y} with a gradient, {other} without"


@modes(reference=False)
def second_backward(f, x, t):
    """Backward can be run twice, and gives the same."""
    y = weighted(f(x, t))
    (a,) = torch.autograd.grad(y, x, retain_graph=True)
    a = a.clone()
    (b,) = torch.autograd.grad(y, x)
    assert torch.equal(a, b), f"first {a}, then {b}"


@modes(reference=False, reductions="last", few=True)
def modified_in_place(f, x, t):
    """If an input or output changes between forward and backward, the gradient is right, or there is an error."""
    (right,) = torch.autograd.grad(weighted(f(x, t)), x)
    for changed in range(2 if t is None else 3):
        z, u = x * 1, t if t is None else t.clone()
        y = f(z, u)
        loss = weighted(y) if changed else y
        with torch.no_grad():
            (y, z, u)[changed].mul_(0)
        try:
            (got,) = torch.autograd.grad(loss if changed else weighted(loss), x)
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error), error
        else:
            assert torch.allclose(got, right), f"a silent {got} after a change in place, before {right}"


@modes(reductions="last", few=True)
def saved_tensor_hooks(f, x, t):
    """What backward needs can be moved elsewhere meanwhile."""
    with torch.autograd.graph.save_on_cpu():
        y = f(x, t)
    weighted(y).backward()
    return x.grad


@modes(reductions="last", few=True)
def anomaly_mode(f, x, t):
    """Under anomaly detection nothing is found."""
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        weighted(f(x, t)).backward()
    return x.grad


@modes(reductions="last", few=True, reference=value_and_gradient)
def checkpoint_reentrant(f, x, t):
    """Activation checkpointing of the first kind."""
    y = checkpoint.checkpoint(lambda a: f(a, t), x, use_reentrant=True)
    weighted(y).backward()
    return y, x.grad


@modes(reductions="last", few=True, reference=value_and_gradient)
def checkpoint_nonreentrant(f, x, t):
    """Activation checkpointing of the second kind."""
    y = checkpoint.checkpoint(lambda a: f(a, t), x, use_reentrant=False)
    weighted(y).backward()
    return y, x.grad


@modes(reductions="last", few=True)
def grad_scaler(f, x, t):
    """A scaled loss has a scaled gradient; an infinite one is found."""
    scaler = torch.amp.GradScaler(x.device.type, init_scale=1024.0)
    scaler.scale(weighted(f(x, t))).backward()
    return x.grad / 1024


def under_autocast(p):
    """A 16-bit call, expected in the dtype that torch's loss has there: float32, but for a row mapped to a row."""
    for loss in p.losses:
        if loss.weights or loss.name == "logit_stats" or torch.bfloat16 not in p.dtypes:
            continue
        make = functools.partial(inputs, loss, (4, 5), torch.bfloat16, p.device, leaves=False)
        options = loss.options((4, 5), loss.reductions[-1], torch.bfloat16, p.device)

        dtype = torch.bfloat16 if loss.family == "map" else torch.float32
        yield against_torch(autocast, loss, make, options, lambda f, x, t: f(x, t), where=str(loss), dtype=dtype)


@modes(trials=under_autocast)
def autocast(f, x, t):
    """Under autocast a loss of 16-bit numbers is computed in float32, as torch's."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return f(x, t)


# torch.func


def transform(**options):
    return check("torch.func", leaves=False, **options)


@transform(reference=lambda f, x, t: gradient_of(f, x, t))
def func_grad(f, x, t):
    """torch.func.grad."""
    return func.grad(lambda x: weighted(f(x, t)))(x)


@transform()
def jvp(f, x, t):
    """torch.func.jvp: a tangent that is right, not a silent 0."""
    v = torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape)
    return func.jvp(lambda x: f(x, t), (x,), (v,))


@transform(where=lambda loss: loss.target_grad, reductions="last")
def jvp_of_the_target(f, x, t):
    """torch.func.jvp with a tangent of the target."""
    return func.jvp(lambda t: f(x, t), (t,), (torch.ones_like(t),))


def batch_dims(t):
    return (0, None if t is None else 0)


def pairs(x, t):
    """The samples of a batch, one by one."""
    return zip(x, [None] * len(x) if t is None else t, strict=True)


def each(f, x, t):
    return torch.stack([f(a, b) for a, b in pairs(x, t)])


def gradient_of(f, x, t):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(weighted(f(x, t)), x)[0]


def gradient_of_each(f, x, t):
    return torch.stack([gradient_of(f, a, b) for a, b in pairs(x, t)])


def gradient_of_stack(f, x, t):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(weighted(each(f, x, t)), x)[0]


def hessian_of_each(f, x, t):
    found = [torch.autograd.functional.hessian(lambda a, b=b: weighted(f(a, b)), a) for a, b in pairs(x, t)]
    return torch.stack(found)


@transform(batch=6, reference=each)
def vmap(f, x, t):
    """torch.func.vmap over inputs and targets."""
    return func.vmap(f, in_dims=batch_dims(t))(x, t)


@transform(reductions="last", few=True, reference=lambda f, x, t: torch.stack([f(a, t) for a in (x, 2 * x / 3, x / 2)]))
def vmap_of_another_dimension(f, x, t):
    """vmap over the last dimension of the input, one target for all."""
    return func.vmap(lambda a: f(a, t), in_dims=2)(torch.stack([x, 2 * x / 3, x / 2], 2))


@transform(batch=6, reference=gradient_of_each)
def vmap_of_grad(f, x, t):
    """Gradients of each sample: vmap(grad(f))."""
    return func.vmap(func.grad(lambda a, b: weighted(f(a, b))), in_dims=batch_dims(t))(x, t)


@transform(batch=6, reductions="last", reference=gradient_of_stack)
def grad_of_vmap(f, x, t):
    """The gradient through a vmap."""
    return func.grad(lambda a: weighted(func.vmap(f, in_dims=batch_dims(t))(a, t)))(x)


@transform(shapes=[(3, 4)], reductions="last", few=True)
def jacrev_of_jacrev(f, x, t):
    """The Hessian by reverse over reverse mode."""
    return func.jacrev(func.jacrev(lambda x: weighted(f(x, t))))(x)


@transform(shapes=[(3, 4)], reductions="last", few=True)
def hessian(f, x, t):
    """torch.func.hessian: forward over reverse mode."""
    return func.hessian(lambda x: weighted(f(x, t)))(x)


@transform(shapes=[(3, 4)], reductions="last", few=True, where=lambda loss: loss.target_grad)
def hessian_of_the_target(f, x, t):
    """The Hessian in the target."""
    return func.hessian(lambda t: weighted(f(x, t)))(t)


@transform(shapes=[(3, 4)], reductions="last", few=True, batch=2, reference=hessian_of_each)
def vmap_of_hessian(f, x, t):
    """A Hessian for each sample."""
    return func.vmap(func.hessian(lambda a, b: weighted(f(a, b))), in_dims=batch_dims(t))(x, t)


def curved(f, x, t):
    """A number whose derivative in the loss depends on the loss."""
    y = f(x, t)
    return weighted(y) + (y * y).sum() / 2


def direction(x):
    return torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device).reshape(x.shape)


def by_jvp(g, x, v):
    return func.jvp(g, (x,), (v,))[1]


def forward_then_reverse(g, x, v):
    """In eager mode: the gradient of a tangent."""
    x = x.detach().requires_grad_()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(g(forward_ad.make_dual(x, v))).tangent
    return torch.autograd.grad(tangent, x)[0]


def reverse_twice(g, x, v):
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad(g(x), x, create_graph=True)
    return torch.autograd.grad((first * v).sum(), x)[0]


def in_any_order(g, x):
    """The second derivative of g along a direction, each mode over each other."""
    v = direction(x)
    return (
        reverse_twice(g, x, v),
        torch.autograd.functional.hvp(g, x, v)[1],
        torch.autograd.functional.vhp(g, x, v)[1],
        forward_then_reverse(g, x, v),
        func.grad(lambda y: by_jvp(g, y, v))(x),
        by_jvp(func.grad(g), x, v),
        func.jacfwd(lambda y: by_jvp(g, y, v))(x),
    )


ORDERS = 7


def by_torch(f, x, t):
    """In torch's most common order: it lacks forward derivatives of some losses."""
    return (reverse_twice(lambda x: curved(f, x, t), x, direction(x)),) * ORDERS


@transform(shapes=[(2, 3)], reference=by_torch)
def second_in_any_order(f, x, t):
    """Second derivatives by reverse and forward mode in any order: hvp, grad of jvp, jvp of jvp."""
    return in_any_order(lambda x: curved(f, x, t), x)


@transform(
    shapes=[(2, 3)],
    reductions="last",
    where=lambda loss: loss.target_grad,
    reference=lambda f, x, t: by_torch(lambda z, _: f(*z), torch.stack([x, t]), None),
)
def second_of_both_in_any_order(f, x, t):
    """The second derivatives in input and target together, in any order."""
    return in_any_order(lambda z: curved(f, *z), torch.stack([x, t]))


def hessian_by_torch(f, x, t):
    return (torch.autograd.functional.hessian(lambda x: curved(f, x, t), x),) * 4


@transform(shapes=[(2, 3)], reductions="last", few=True, reference=hessian_by_torch)
def hessians_in_any_order(f, x, t):
    """The Hessian as jacrev or jacfwd of jacrev or jacfwd."""
    modes = (func.jacrev, func.jacfwd)
    return [outer(inner(lambda x: curved(f, x, t)))(x) for outer in modes for inner in modes]


@transform(shapes=[(2, 3)], reductions="last", few=True, batch=2, reference=hessian_of_each)
def vmap_of_forward_twice(f, x, t):
    """A Hessian for each sample, by forward over forward mode."""
    return func.vmap(func.jacfwd(func.jacfwd(lambda a, b: weighted(f(a, b)))), in_dims=batch_dims(t))(x, t)


@check("torch.func", reference=False, reductions="last", few=True)
def batched_gradients(f, x, t):
    """Several gradients from above in one backward (is_grads_batched)."""
    gradcheck(lambda x: f(x, t), (x,), check_batched_grad=True)
