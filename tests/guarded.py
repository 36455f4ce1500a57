"""Tensors that lie against memory that may not be touched: the first read outside ends the process.

python tests/guarded.py            every op over such tensors gives the bits it gives over ordinary ones
python tests/guarded.py after 1    one element too many, behind or `before`, which has to end in SIGSEGV
"""

import ctypes
import math
import mmap
import sys

import torch
from op_calls import all_calls, fresh, ops, outcome, written
from torch import Tensor

from torchloss.testing.losses import EVERY

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
CLASSES = (1, 3, 17, 33, 1000, 1017)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def forbid(address: int) -> None:
    if LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded_bytes(size: int, end: bool) -> tuple[int, mmap.mmap]:
    """The address of so many bytes that end at a forbidden page, or begin behind one; and what keeps them alive."""
    pages = math.ceil(max(size, 1) / PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbid(first)
    forbid(first + (pages + 1) * PAGE)
    return first + PAGE + (pages * PAGE - size if end else 0), memory


def at(address: int, size: int, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype)


def guarded(t: Tensor, end: bool, too_many: int = 0) -> Tensor:
    """The tensor, in its layout, as far as its last element (or from its first) in guarded memory."""
    span = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
    if not span:
        return t
    size, more = span * t.element_size(), too_many * t.element_size()
    address, memory = guarded_bytes(size, end)
    # Nothing frees it: a tensor over an address cannot hold the memory, and a process of this file lives shortly.
    KEPT.append(memory)
    at(address, size, t.dtype).copy_(torch.as_strided(t.detach(), (span,), (1,)))
    if not too_many:
        return at(address, size, t.dtype).as_strided(t.shape, t.stride())
    return at(address - (0 if end else more), size + more, t.dtype)


KEPT: list[mmap.mmap] = []


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous()


def transposed(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0) if t.dim() > 1 else t


def with_gaps(t: Tensor) -> Tensor:
    return t.new_zeros([3 * n for n in t.shape])[tuple(slice(1, None, 3) for _ in t.shape)].copy_(t)


def bits(op, args: list) -> list[bytes]:
    """The bits of what the op returns or writes over."""
    out = outcome(op, args, written(op))
    return [o.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for o in out]


def laid_out(args: tuple, names: list[str], layout) -> list:
    """Saved numbers are contiguous by contract."""
    return [layout(a) if isinstance(a, Tensor) and n != "saved" else a for a, n in zip(args, names, strict=True)]


def check_all() -> int:
    calls = 0
    for number, loss in enumerate(EVERY):
        for turn, classes in enumerate(CLASSES):
            # Every dtype meets every loss and every size, not every pair of them.
            for dtype in (torch.float64, DTYPES[1 + (number + turn) % 3]):
                for op, args in all_calls(loss, dtype, shape=(3, classes), reduction=loss.reductions[-1]):
                    names = [a.name for a in op._schema.arguments]
                    for layout in (contiguous, transposed, with_gaps):
                        for end in (True, False):
                            there = laid_out(fresh(op, args), names, layout)
                            here = [guarded(a, end) if isinstance(a, Tensor) else a for a in there]
                            assert bits(op, here) == bits(op, there), (op, classes, dtype, layout, end)
                            calls += 1
                    KEPT.clear()
    return calls


def overstep(end: bool, elements: int) -> None:
    x = guarded(torch.ones(33), end, elements)
    print(ops.mse_loss(x, torch.ones_like(x, memory_format=torch.contiguous_format), None, 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        overstep(sys.argv[1] == "after", int(sys.argv[2]))
    else:
        print(check_all())
