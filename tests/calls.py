"""What the tests of layouts, threads and sizes call a loss with, and what they look at."""

import torch

from torchloss.testing.losses import NEW


def class_dim(loss, dims):
    return dims - 1 if loss.family == "map" or loss.name in NEW else 1


def sample(loss, shape, device="cpu", dtype=torch.float64, seed=0):
    x, t = loss.sample(shape, seed)
    move = lambda a: a.to(device, dtype) if a.is_floating_point() else a.to(device)  # noqa: E731
    return move(x), None if t is None else move(t)


def ramp_like(y):
    """An upstream gradient that is another for each number, zero and both signs among them."""
    return torch.linspace(-1, 2, max(y.numel(), 1), dtype=torch.float64)[: y.numel()].to(y).reshape(y.shape)


def compute(loss, x, t, reduction="none", grad=None):
    """The value and the gradients, of leaves that lie where x and t do."""
    x = x.detach().requires_grad_()
    t = None if t is None else t.detach().requires_grad_(loss.target_grad)
    value = loss.ours(x, t, reduction)
    value.backward(ramp_like(value) if grad is None else grad)
    return [a for a in (value.detach(), x.grad, t.grad if loss.target_grad else None) if a is not None]


def compute_twice(loss, x, t, reduction="none"):
    """The value, the gradients and the gradients of those."""
    x = x.detach().requires_grad_()
    t = None if t is None else t.detach().requires_grad_(loss.target_grad)
    wanted = [x, t] if loss.target_grad else [x]
    value = loss.ours(x, t, reduction)
    grads = torch.autograd.grad(value, wanted, ramp_like(value), create_graph=True)
    bent = [g for g in grads if g.requires_grad]
    twice = torch.autograd.grad(bent, wanted, [ramp_like(g) for g in bent], allow_unused=True) if bent else ()
    return [a.detach() for a in (value, *grads, *twice) if a is not None]


def same_bits(a, b):
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)) for x, y in pairs)
