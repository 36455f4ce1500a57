"""The same bits every time."""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch

from ..kit import check
from .values import upstream


def bits(f, x, t):
    y = f(x, t)
    return y.detach(), *torch.autograd.grad(y, x, upstream(y))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def difference(a, b):
    p, q = next((p, q) for p, q in zip(a, b, strict=True) if not torch.equal(p, q))
    at = (p != q).flatten().nonzero()[0, 0]
    return f"{p.flatten()[at].item()} on one thread, {q.flatten()[at].item()} on more"


large = functools.partial(
    check,
    "determinism",
    shapes=[(300, 331), (5000, 7), (3, 50, 400)],
    dtypes=lambda p: p.dtypes[1:2] or p.dtypes,
    reference=False,
)


@large(few=True)
def the_same_bits_every_run(f, x, t):
    """Repeated runs give the same bits."""
    first = bits(f, x, t)
    for _ in range(3):
        assert same(first, bits(f, x, t)), "another result"


@large(few=True)
def the_same_bits_on_any_number_of_threads(f, x, t):
    """1, 2 and 4 threads give the same bits."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(bits(f, x, t))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert same(results[0], other), difference(results[0], other)


@large(few=True, reductions="last")
def eight_python_threads(f, x, t):
    """Eight threads of Python at once give the same bits."""
    first = bits(f, x, t)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: bits(f, x.detach().requires_grad_(), t), range(16)))
    assert all(same(first, other) for other in found), "another result"
