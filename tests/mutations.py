"""Ways to spoil an argument of an operator, or to give the same numbers in another place. `mutate` draws one.

Each takes (value, rng) and returns another value. After one of WILD the results are not worth comparing.
"""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

INT64 = (-(2**63), 2**63 - 1)
DTYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.complex128]
DTYPES += [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.uint16]
INDICES = (5, 6, -1, -2, -101, 2**31, 2**32, 2**62, *INT64)
DIMS = (-1, -2, 0, 1, 2, 3, 64, 10**12, *INT64)
REDUCTIONS = (-1, 0, 1, 2, 3, 4, 2**32, 2**40, *INT64)
IGNORED = (-100, 0, 1, 3, -1, 10**12, *INT64)
PARAMETERS = (0.0, 0.5, 1.0, 2.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e-300, 1e300, 5e-324)
WRONG_KINDS = ("x", None, [], 1.5, object(), 2**70, (1, 2))
SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e30, -1e30, 65504.0, 1e-40, 5e-324)


def dim_of(t: Tensor, rng: random.Random) -> int:
    return rng.randrange(t.dim()) if t.dim() else 0


# Other numbers of dimensions and sizes


def more_dimensions(t: Tensor, rng: random.Random) -> Tensor:
    return t.unsqueeze(rng.randint(0, t.dim()))


def many_dimensions(t: Tensor, rng: random.Random) -> Tensor:
    return t.reshape([1] * rng.choice((12, 13, 40, 63 - t.dim())) + list(t.shape))


def fewer_dimensions(t: Tensor, rng: random.Random) -> Tensor:
    return t.select(dim_of(t, rng), 0) if t.numel() else t.reshape(-1)


def flat(t: Tensor, rng: random.Random) -> Tensor:
    return t.reshape(-1)


def one_number(t: Tensor, rng: random.Random) -> Tensor:
    return t.new_ones(())


def shorter(t: Tensor, rng: random.Random) -> Tensor:
    d = dim_of(t, rng)
    return t.narrow(d, 0, rng.randint(0, t.shape[d])) if t.dim() else t


def longer(t: Tensor, rng: random.Random) -> Tensor:
    return torch.cat([t.detach().reshape(t.shape or (1,))] * 2, dim_of(t, rng))


def empty(t: Tensor, rng: random.Random) -> Tensor:
    return t.new_empty(rng.choice(((0,), (0, 5), (4, 0), (0, 0, 0), (2**45, 0), (2**32, 2**31, 0))))


def huge(t: Tensor, rng: random.Random) -> Tensor:
    """More elements than any memory holds, all of them one."""
    shape = rng.choice(((2**45,), (2**45, 5), (4, 2**45), (2**31, 2**31), (2**62,)))
    return t.new_ones(1).expand(shape)


# The same numbers elsewhere


def transposed(t: Tensor, rng: random.Random) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0) if t.dim() > 1 else t


def with_gaps(t: Tensor, rng: random.Random) -> Tensor:
    large = t.new_empty([n * 3 + 1 for n in t.shape])
    return large[tuple(slice(1, None, 3) for _ in t.shape)].copy_(t)


def misaligned(t: Tensor, rng: random.Random) -> Tensor:
    n = rng.randint(1, 15)
    return t.new_empty(t.numel() + n)[n:].view(t.shape).copy_(t)


def odd_bytes(t: Tensor, rng: random.Random) -> Tensor:
    """Elements that do not lie at multiples of their size. PyTorch's own copy crashes at complex ones."""
    if not t.is_floating_point() or not t.numel():
        return t
    numbers = t.detach().reshape(-1).clone().view(torch.uint8).numpy().tobytes()
    return torch.frombuffer(bytearray(b" " + numbers), dtype=t.dtype, offset=1).view(t.shape)


def negative_bit(t: Tensor, rng: random.Random) -> Tensor:
    return torch._neg_view(-t) if t.is_floating_point() else t


def odd_strides(t: Tensor, rng: random.Random) -> Tensor:
    """Any stride for dimensions of one element."""
    strides = [rng.choice((0, 2**60, 2**62)) if n == 1 else t.stride(d) for d, n in enumerate(t.shape)]
    return t.as_strided(t.shape, strides)


def with_gradient(t: Tensor, rng: random.Random) -> Tensor:
    return t.detach().clone().requires_grad_() if t.is_floating_point() or t.is_complex() else t


# Other numbers


def expanded(t: Tensor, rng: random.Random) -> Tensor:
    return t.narrow(0, 0, 1).expand_as(t) if t.dim() and t.numel() else t


def overlapping(t: Tensor, rng: random.Random) -> Tensor:
    stride = [rng.choice((0, 1)) for _ in t.shape]
    return t.contiguous().as_strided(t.shape, stride) if t.numel() > sum(t.shape) else t


def special(t: Tensor, rng: random.Random) -> Tensor:
    t = t.detach().clone()
    for _ in range(rng.randint(1, 3)):
        if t.numel():
            t.view(-1)[rng.randrange(t.numel())] = rng.choice(SPECIAL if t.is_floating_point() else INDICES)
    return t


def garbage(t: Tensor, rng: random.Random) -> Tensor:
    """Any bits, as a tensor has that nobody initialised."""
    if not t.is_floating_point():
        return t
    bits = torch.tensor([rng.randrange(256) for _ in range(t.numel() * t.element_size())], dtype=torch.uint8)
    return bits.view(t.dtype).view(t.shape)


# Tensors of another kind


def other_dtype(t: Tensor, rng: random.Random) -> Tensor:
    return t.detach().to(rng.choice(DTYPES))


def quantised(t: Tensor, rng: random.Random) -> Tensor:
    return torch.quantize_per_tensor(t.detach().float(), 0.1, 0, torch.qint8)


def meta(t: Tensor, rng: random.Random) -> Tensor:
    return t.to("meta")


def conjugate(t: Tensor, rng: random.Random) -> Tensor:
    z = torch.complex(t.detach().double(), -t.detach().double()).conj()
    return z if rng.random() < 0.5 else z.imag


def sparse(t: Tensor, rng: random.Random) -> Tensor:
    t = t.detach()
    if t.dim() == 2 and t.numel() and rng.random() < 0.5:
        return t.to_sparse_csr()
    return t.to_sparse() if t.dim() else t.to("meta")


def opaque(t: Tensor, rng: random.Random) -> Tensor:
    return t.detach().float().to_mkldnn() if torch.backends.mkldnn.is_available() and t.dim() else t.to("meta")


def shrunk(t: Tensor, rng: random.Random) -> Tensor:
    """A tensor whose storage has been given up, wholly or in part."""
    t = t.detach().contiguous().clone()
    storage = t.untyped_storage()
    storage.resize_(rng.choice((0, storage.nbytes() // 2, max(storage.nbytes() - 1, 0))))
    return t


def nothing(t: Tensor, rng: random.Random) -> None:
    return None


def no_tensor(t: Tensor, rng: random.Random) -> object:
    return rng.choice((1.0, 1, "x", [1.0], object()))


def choice(values: tuple) -> Callable:
    def number(_: object, rng: random.Random) -> object:
        return rng.choice(values)

    return number


SIZES = [more_dimensions, many_dimensions, fewer_dimensions, flat, one_number, shorter, longer, empty, huge]
PLACES = [transposed, with_gaps, misaligned, odd_bytes, negative_bit, odd_strides, with_gradient]
WILD = [special, garbage]
KINDS = [other_dtype, other_dtype, quantised, meta, conjugate, sparse, opaque, shrunk, nothing, no_tensor]
TENSOR = [SIZES, SIZES, PLACES, [expanded, overlapping], WILD, KINDS, KINDS]
FLAGS = ("target_grad", "holds_gradient")
NUMBERS = {
    "dim": choice(DIMS),
    "reduction": choice(REDUCTIONS),
    "ignore_index": choice(IGNORED),
    **dict.fromkeys(FLAGS, choice((False, True))),
}


def mutate(argument: Any, value: object, like: Tensor, rng: random.Random) -> tuple[object, str]:
    """Another value for the argument, and what was done; `like` is a tensor to give where there may be none."""
    name = argument.name
    if isinstance(value, Tensor):
        change = rng.choice(rng.choice(TENSOR))
    elif rng.random() < 0.1 and name not in FLAGS:  # the dispatcher takes anything for a bool
        change = choice(WRONG_KINDS)
    elif value is None and "Tensor" in str(argument.type):
        return like.detach().clone(), f"{name}: a tensor"
    else:
        change = NUMBERS.get(name, choice(PARAMETERS))
    return change(value, rng), f"{name}: {change.__name__}"
