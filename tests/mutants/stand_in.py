"""cross_entropy as a kernel computes it, but in Python: right, readable, and the field in which bugs.py sows its bugs.

It has the parts in which losses go wrong: numbers are found by their strides, the exponentials are summed in tiles of
which the last is filled up, the class that leads is left out of the sum, 16-bit numbers are widened, rows are ignored,
and the gradient and its gradient are Functions of their own. With a_j the factor of class j's logarithm, A their sum:

    L = A log s - sum_j a_j (x_j - m)      L'_j = A p_j - a_j      m = x_leader, s = 1 + rest, p_j = exp(x_j - m) / s
"""

from functools import reduce as fold

import torch
from torch import Tensor
from torch.autograd import Function

from .refusals import refuse

TILE = 64  # classes
CHUNK = 1024  # rows


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    if not input.is_meta and torch.is_autocast_enabled(input.device.type):
        input, target, weight = (in_float32(a) for a in (input, target, weight))
    refuse(input, target, weight, ignore_index, reduction, label_smoothing)
    x = input.movedim(1, -1) if input.dim() > 1 else input
    classes = x.shape[-1]
    if target.shape == input.shape:
        given = (x, target, *[weight] * (weight is not None))
        dtype = fold(torch.promote_types, (a.dtype for a in given))
        x, q, *weights = (a.to(dtype) for a in given)
        q = q.movedim(1, -1) if q.dim() > 1 else q
        t, w, a = None, None, wide(q) * (1 - label_smoothing) + label_smoothing / max(classes, 1)
        if weights:
            a = a * wide(weights[0])
    else:
        t, a = target.long().reshape(x.shape[:-1]), None
        w = None if weight is None else weight.expand(x.shape)
        if label_smoothing > 0:
            a = torch.full_like(wide(x), label_smoothing / max(classes, 1)) * (1 if w is None else wide(w))
    if classes == 0 and (t is None or t.numel() == 0):
        loss, w_y = wide(x).sum(-1), torch.ones_like(wide(x).sum(-1))
    elif torch.compiler.is_compiling() or input.is_meta:
        loss, w_y = traced(x, t, w, a, ignore_index, label_smoothing)
    else:
        loss, w_y, *_ = RowLoss.apply(x, t, w, a, ignore_index, label_smoothing)
    if reduction == "none":
        return loss.to(x.dtype)
    total = fixed_sum(loss)
    if reduction == "mean":
        total = total / fixed_sum(masked(w_y, t, ignore_index))
    return total.to(x.dtype)


def in_float32(x):
    return x.float() if x is not None and x.dtype in (torch.bfloat16, torch.float16) else x


def wide(x):
    """The numbers in the dtype that is computed in."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def fixed_sum(x):
    """In an order that no number of threads changes: chunk by chunk."""
    if torch.compiler.is_compiling():
        return x.sum()
    x = x.flatten()
    x = torch.nn.functional.pad(x, (0, -x.shape[0] % CHUNK))
    return x.unflatten(0, (-1, CHUNK)).sum(1).sum() if x.shape[0] else x.sum()


def places(x):
    """Where the numbers of x lie, counted from its first."""
    at = torch.zeros((), dtype=torch.int64, device=x.device)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        at = at.unsqueeze(-1) + torch.arange(size, dtype=torch.int64, device=x.device) * stride
    return at


def read(x, at):
    """The numbers at these places in the memory of x."""
    size = x.untyped_storage().nbytes() // x.element_size() - x.storage_offset()
    return x.as_strided((size,), (1,))[at]


def rest_in_tiles(x, top, leader):
    """sum_j exp(x_j - m) over the classes but the leader."""
    rest = top.squeeze(-1) * 0  # NaN if the leader is infinite or NaN
    for j in range(0, x.shape[-1], TILE):
        tile = x[..., j : j + TILE]
        tile = torch.nn.functional.pad(tile, (0, TILE - tile.shape[-1]), value=-torch.inf)
        leads = torch.arange(j, j + TILE, device=x.device) == leader
        rest = rest + (tile - top).exp().masked_fill(leads, 0).sum(-1)
    return rest


def masked(value, t, ignore_index):
    """0 in the rows that are ignored."""
    if t is None:
        return value
    live = t != ignore_index
    return value.where(live if value.dim() == live.dim() else live.unsqueeze(-1), 0)


def factors(x, t, a, w_y, ignore_index, smoothing):
    """a_j of every class, the target's among them."""
    full = torch.zeros_like(x) if a is None else a
    if t is None:
        return full
    hit = (1 - smoothing) * w_y
    return full.scatter_add(-1, masked(t, t, ignore_index).unsqueeze(-1), hit.unsqueeze(-1))


def slope(x, full, leader, rest):
    """A p_j - a_j; for the leader, whose p - 1 is -rest / s, without the difference of numbers near 1."""
    rest, mass = rest.unsqueeze(-1), full.sum(-1, keepdim=True)
    p = (x - x.gather(-1, leader)).exp() / (1 + rest)
    others = full.scatter(-1, leader, 0).sum(-1, keepdim=True)
    lead = (others - full.gather(-1, leader) * rest) / (1 + rest)
    return (mass * p - full).scatter(-1, leader, lead)


def rest_at_once(x, leader):
    """sum_j exp(x_j - m) over the classes but the leader, in differentiable operators."""
    top = x.gather(-1, leader)
    return (x - top).exp().scatter(-1, leader, 0).sum(-1) + top.squeeze(-1) * 0


def log_loss(x, leader, rest):
    """-log p_j of every class."""
    return rest.log1p().unsqueeze(-1) - (x - x.gather(-1, leader))


def curvature(g, x, full, h, k):
    """How the gradients in x and a change when x moves along h, and a along k."""
    p, mass, g = x.softmax(-1), full.sum(-1, keepdim=True), g.unsqueeze(-1)
    h = torch.zeros_like(x) if h is None else wide(h)
    ph = (p * h).sum(-1, keepdim=True)
    of_x = mass * p * (h - ph)
    if k is not None:
        of_x = of_x + p * k.sum(-1, keepdim=True) - k
    return g * of_x, g * (ph - h)


def keep(ctx, *tensors):
    ctx.set_materialize_grads(False)
    ctx.save_for_forward(*tensors)
    ctx.save_for_backward(*tensors)


def kept(ctx):
    return ctx.saved_tensors


def batch_first(info, in_dims, args):
    """The arguments under vmap, each tensor with the batch in front."""
    for a, dim in zip(args, in_dims, strict=True):
        if isinstance(a, Tensor):
            a = a.expand(info.batch_size, *a.shape) if dim is None else a.movedim(dim, 0)
        yield a


class RowLoss(Function):
    """(loss, weight of the class t, leader, rest) of every row: x and a of (..., C), t of (...)."""

    @staticmethod
    def forward(x, t, w, a, ignore_index, smoothing):
        z = wide(x)
        if t is not None:
            t = read(t, places(t))
            live = t != ignore_index
            bad = t[live & ((t < 0) | (t >= x.shape[-1]))]
            if bad.numel():
                raise IndexError(f"Target {bad[0].item()} is out of bounds.")
        leader = z.argmax(-1, keepdim=True)
        top = z.gather(-1, leader)
        rest = rest_in_tiles(z, top, leader)
        loss, w_y = torch.zeros_like(rest), torch.ones_like(rest)
        if t is not None:
            y = t.where(live, 0)
            x_y = wide(read(x, places(x.select(-1, 0)) + y * x.stride(-1)))
            if w is not None:
                w_y = wide(w.gather(-1, y.unsqueeze(-1)).squeeze(-1))
            loss = (1 - smoothing) * w_y * (rest.log1p() + (top.squeeze(-1) - x_y))
        if a is not None:
            loss = loss + (a * log_loss(z, leader, rest)).sum(-1)
        return masked(loss, t, ignore_index), w_y, leader, rest

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, t, _, a, *ctx.options = inputs
        ctx.mark_non_differentiable(*output[1:])
        keep(ctx, x, t, a, *output[1:])

    @staticmethod
    def backward(ctx, g, *_):
        if g is None:
            return (None,) * 6
        gx, ga = RowGradient.apply(g, *kept(ctx), *ctx.options)
        return gx, None, None, ga if ctx.needs_input_grad[3] else None, None, None

    @staticmethod
    def jvp(ctx, x_t, t_t, w_t, a_t, *_):
        x, t, a, w_y, leader, rest = kept(ctx)
        z, along = wide(x), torch.zeros_like(rest)
        if x_t is not None:
            along = (slope(z, factors(z, t, a, w_y, *ctx.options), leader, rest) * wide(x_t)).sum(-1)
        if a_t is not None:
            along = along + (log_loss(z, leader, rest) * a_t).sum(-1)
        return masked(along, t, ctx.options[0]), None, None, None

    @staticmethod
    def vmap(info, in_dims, *args):
        return RowLoss.apply(*batch_first(info, in_dims, args)), (0, 0, 0, 0)


class RowGradient(Function):
    """The gradients of the losses in x and in a, times g."""

    @staticmethod
    def forward(g, x, t, a, w_y, leader, rest, ignore_index, smoothing):
        z, g = wide(x), g.unsqueeze(-1)
        full = factors(z, t, a, w_y, ignore_index, smoothing)
        gx = slope(z, full, leader, rest) * g
        ga = log_loss(z, leader, rest) * g
        return masked(gx, t, ignore_index).to(x.dtype), ga

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ignore_index, smoothing = inputs
        ctx.options = (ignore_index, smoothing)
        keep(ctx, *tensors)

    @staticmethod
    def backward(ctx, h, k):
        g, x, t, a, w_y, leader, _ = kept(ctx)
        z = wide(x)
        full, rest = factors(z, t, a, w_y, *ctx.options), rest_at_once(z, leader)
        gg = torch.zeros_like(g)
        if h is not None:
            gg = (slope(z, full, leader, rest) * wide(h)).sum(-1)
        if k is not None:
            gg = gg + (log_loss(z, leader, rest) * k).sum(-1)
        gx, ga = curvature(g, z, full, h, k)
        gg, gx = (masked(v, t, ctx.options[0]) for v in (gg, gx))
        return gg, gx.to(x.dtype), None, None if a is None else ga, *[None] * 5

    @staticmethod
    def jvp(ctx, g_t, x_t, t_t, a_t, *_):
        g, x, t, a, w_y, leader, rest = kept(ctx)
        z = wide(x)
        full = factors(z, t, a, w_y, *ctx.options)
        of_x, of_a = curvature(g, z, full, x_t, a_t)
        if g_t is not None:
            of_x = of_x + slope(z, full, leader, rest) * g_t.unsqueeze(-1)
            of_a = of_a + log_loss(z, leader, rest) * g_t.unsqueeze(-1)
        return masked(of_x, t, ctx.options[0]).to(x.dtype), of_a

    @staticmethod
    def vmap(info, in_dims, *args):
        return RowGradient.apply(*batch_first(info, in_dims, args)), (0, 0)


def traced(x, t, w, a, ignore_index, smoothing):
    """RowLoss in differentiable operators: the compiler does not follow a Function with a jvp."""
    z = masked(wide(x), t, ignore_index)
    leader = z.argmax(-1, keepdim=True)
    all_losses = log_loss(z, leader, rest_at_once(z, leader))
    loss, w_y = torch.zeros_like(z[..., 0]), torch.ones_like(z[..., 0])
    if t is not None:
        y = masked(t, t, ignore_index).unsqueeze(-1)
        if w is not None:
            w_y = wide(w.gather(-1, y).squeeze(-1))
        loss = (1 - smoothing) * w_y * all_losses.gather(-1, y).squeeze(-1)
    if a is not None:
        loss = loss + (a * all_losses).sum(-1)
    return masked(loss, t, ignore_index), w_y
