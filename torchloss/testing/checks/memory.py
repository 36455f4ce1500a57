"""Layouts, and what is left untouched."""

import torch

from ..kit import Problem, against_torch, check, inputs
from ..trial import Unsupported
from .values import upstream, value_and_gradient

# Where the numbers lie.


def sliced(x):
    """The middle of a larger tensor."""
    large = x.new_full([n + 5 for n in x.shape], 7)
    return large[tuple(slice(2, n + 2) for n in x.shape)].copy_(x)


def every_second(x):
    large = x.new_full([2 * n for n in x.shape], 7)
    return large[tuple(slice(None, None, 2) for _ in x.shape)].copy_(x)


def offset_by_one(x):
    """Contiguous, but not aligned to a vector."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


def transposed(x):
    """The first dimension is the innermost."""
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def last_two_transposed(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else every_second(x)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else sliced(x)


def first_expanded(x):
    return x[1:2].expand_as(x)


def last_expanded(x):
    return x[..., 1:2].expand_as(x)


VIEWS = (
    sliced,
    every_second,
    offset_by_one,
    transposed,
    last_two_transposed,
    channels_last,
    first_expanded,
    last_expanded,
)


@check("memory", shapes=[(6, 5), (4, 70), (2, 5, 3, 4)])
def any_layout_of_the_gradient(f, x, t):
    """A gradient from above that is expanded, transposed or every second of a larger one."""
    y = f(x, t)
    g, results = upstream(y), []
    for h in (g, every_second(g), g.flatten()[:1].expand(g.numel()).reshape(g.shape) if g.dim() else g):
        results += torch.autograd.grad(y, x, h, retain_graph=True)
    if y.dim() > 1:
        results += torch.autograd.grad(y, x, transposed(g), retain_graph=True)
    return results


@check("memory", shapes=[(5, 7), (3, 200), (2, 5, 4)], reference=False)
def inputs_untouched(f, x, t):
    """Forward and backward write to none of the caller's tensors, and return none of their memory."""
    y = f(x, t)
    g = upstream(y)
    given = [a for a in (x, t, g) if a is not None]
    before = [(a.detach().clone(), a._version) for a in given]
    y = f(x, t)
    (d,) = torch.autograd.grad(y, x, g, retain_graph=True)
    for a, (copy, version) in zip(given, before, strict=True):
        assert a._version == version and torch.equal(a, copy), "an input was written to"
    places = [a.untyped_storage().data_ptr() for a in (*given, y, d)]
    assert len(set(places)) == len(places), "two of the tensors share their memory"


@check(
    "memory",
    shapes=[(9, 5), (6, 300), (4, 6, 10)],
    where=lambda loss: loss.name != "binary_cross_entropy",
    reference=False,
)
def nan_stays_in_its_row(f, x, t):
    """A NaN changes its own row and no other."""
    before, (a,) = f(x, t), torch.autograd.grad(upstream_sum(f(x, t)), x)
    bad = x.detach().clone()
    bad[2, 3] = torch.nan
    bad.requires_grad_()
    after, (b,) = f(bad, t), torch.autograd.grad(upstream_sum(f(bad, t)), bad)
    if before.dim():
        assert torch.equal(before[:2], after[:2]) and torch.equal(before[3:], after[3:]), "the value of another row"
    if before.dim() or not before.isnan():
        assert torch.equal(a[:2], b[:2]) and torch.equal(a[3:], b[3:]), "the gradient of another row"


def upstream_sum(y):
    return (y * upstream(y)).nansum() if y.dim() else y


# More than 2^31 elements


def far_apart(p: Problem):
    """Three rows, or three classes, each a gigabyte and more from the next; only what is touched takes memory."""
    dtype = torch.bfloat16 if torch.bfloat16 in p.dtypes else p.main
    for loss in p.few if p.device == "cpu" else ():
        for dim in (0, 1):
            shape = (3, 40) if dim == 0 else (40, 3)
            options = loss.options(shape, loss.reductions[-1], dtype)

            def make(loss=loss, shape=shape, dim=dim):
                x, t = inputs(loss, shape, dtype, "cpu", leaves=False)
                try:
                    place = torch.empty(2 * (2**30 + 7) + 40, dtype=dtype)
                except RuntimeError as error:
                    raise Unsupported(f"no address space: {error}") from None
                stride = (2**30 + 7, 1) if dim == 0 else (1, 2**30 + 7)
                return place.as_strided(shape, stride).copy_(x).requires_grad_(), t

            yield against_torch(strides_beyond_2_31, loss, make, options, where=f"{loss}, {shape}", dtype=dtype)


@check("memory", trials=far_apart)
def strides_beyond_2_31(f, x, t):
    """Rows, or classes, more than 2^31 elements apart."""
    return f(x, t).detach()


def layouts(p: Problem):
    for view in VIEWS:
        for shape in ((6, 5), (4, 70), (2, 5, 3, 4), (2, 33, 5, 7)):
            for loss in p.losses:
                for roles in ("x", "t", "xt"):
                    if "t" in roles and loss.target is None:
                        continue
                    for reduction in loss.reductions:

                        def make(loss=loss, shape=shape, view=view, roles=roles):
                            x, t = inputs(loss, shape, p.main, p.device, leaves=False)
                            x = view(x) if "x" in roles else x
                            return x.detach().requires_grad_(), view(t) if "t" in roles else t

                        options = loss.options(shape, reduction, p.main, p.device)
                        where = f"{loss}, reduction={reduction}, {shape}, {view.__name__} {roles}"
                        yield against_torch(any_layout, loss, make, options, where=where)


@check("memory", trials=layouts)
def any_layout(f, x, t):
    """Slices, steps, transposes, channels last, expanded and misaligned inputs and targets."""
    return value_and_gradient(f, x, t)
