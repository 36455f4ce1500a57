#!/usr/bin/env python3
"""Calls the registered operators with spoiled arguments, many thousand times, each call made from a seed and a number.

    python tests/fuzz.py --calls 100000 --seed 0      try, in processes of their own; the exit status is 1 at a finding
    python tests/fuzz.py --seed 0 --only 4711         one call again, told in full

A call is right or wrong by op_rules.py. A wrong one has to raise, with a message of torchloss or of the dispatcher. A
right one has to return what the same op returns for plain copies of the arguments, in the shapes and dtypes declared,
and to write that over what it writes over. Neither may change anything else, crash or hang. New memory is filled with
NaN, to show if it is read.
"""

import argparse
import contextlib
import functools
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from mutations import FLAGS, WILD, mutate
from op_calls import all_calls, fresh, ops, outcome, written
from op_rules import INDEX, fault, holds, named, of_nothing, results, split, traced
from torch import Tensor

from torchloss.testing.losses import DTYPES, EVERY

SHAPES = ((4, 5), (3,), (1,), (2, 3, 4), (3, 33), (5, 1), (0, 5), (2, 5, 3, 4), (2, 270))
LEVELS = ("avx512", "avx2", "default")  # of TORCHLOSS_CPU, which a process reads once
CHUNK = (1000, 10_000)  # calls of one process, at least and at most
PATIENCE = 60  # seconds for one call
LARGE = 2**22  # elements; a right call of more is not made, for it may rightly take long
TAME = (0.5, 2.0)  # parameters of which every loss is finite
CONFIG = ("dim", "reduction", "ignore_index", *FLAGS)
MESSAGES = re.compile(
    r"torchloss::\w+(\(\))? |Could not run 'torchloss::|There were no tensor arguments to this function"
    r"|\w+: (expected|the storage of|the target has no gradient|more than|cannot write to)"
    r"|Target -?\d+ is out of bounds|expected a floating-point dtype|all elements of input and target should be"
    r"|a tensor of more than 12 dimensions|numel: integer multiplication overflow|DefaultCPUAllocator: can't allocate"
)


class Call:
    """The call of a seed and a number."""

    def __init__(self, seed: int, index: int):
        rng = random.Random(f"{seed} {index}")
        loss, dtype, shape = rng.randrange(len(EVERY)), rng.choice(DTYPES), rng.choice(SHAPES)
        reduction = rng.choice(EVERY[loss].reductions)
        op, args = rng.choice(base_calls(loss, dtype, shape, reduction))
        self.name, self.args = op._schema.name.removeprefix("torchloss::"), list(fresh(op, args))
        self.over = written(op)
        self.wild, self.done, arguments = False, [], op._schema.arguments
        if self.name.endswith("_into") and rng.random() < 0.2:  # over the input, which it may be
            self.args[0] = self.args[2] = args[2].clone()
        for i in rng.choices(range(len(args)), k=rng.randint(1, 3)):
            self.spoil(i, arguments[i], next(a for a in args if isinstance(a, Tensor)), rng)
        if rng.random() < 0.02:
            self.args = [a.to("meta") if isinstance(a, Tensor) and dense(a) else a for a in self.args]

    def spoil(self, i: int, argument: Any, like: Tensor, rng: random.Random) -> None:
        try:
            if isinstance(self.args[i], Tensor) and (self.args[i].numel() > LARGE or not holds(self.args[i])):
                return  # torch itself would take for ever, or crash, at it
            value, what = mutate(argument, self.args[i], like, rng)
            if i in self.over and isinstance(value, Tensor) and value.is_neg():
                return  # torch itself can call no op that writes over it and returns another
            self.args[i] = value
        except (RuntimeError, ValueError, IndexError, TypeError, MemoryError, OverflowError):
            return  # there is no such tensor
        self.done.append(what)
        parameter = what.endswith(": number") and argument.name not in CONFIG
        # Saved numbers are those of the right parameter: with them, another one may overflow.
        self.wild |= parameter and ("backward" in self.name or self.args[i] not in TAME)
        self.wild |= what.endswith((": a tensor", *(f": {w.__name__}" for w in WILD)))

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(told, self.args))})  after {'; '.join(self.done) or 'nothing'}"


@functools.cache
def base_calls(loss: int, dtype: torch.dtype, shape: tuple, reduction: str) -> list:
    torch.default_generator.manual_seed(0)
    return all_calls(EVERY[loss], dtype, shape=shape, reduction=reduction)


def dense(t: Tensor) -> bool:
    return t.layout == torch.strided and not t.is_quantized


def told(a: object) -> str:
    if not isinstance(a, Tensor):
        return repr(a)
    layout = tuple(a.stride()) if a.layout == torch.strided else a.layout
    return f"Tensor({tuple(a.shape)}, {str(a.dtype)[6:]}, {a.device.type}, strides {layout})"


def memory(args: list) -> list[tuple[Tensor, Tensor]]:
    """The arguments, and what lies in their storage, beyond the tensors too."""
    here = [a for a in args if isinstance(a, Tensor) and dense(a) and a.device.type == "cpu"]
    return [(a, torch.empty(0, dtype=torch.uint8).set_(a.untyped_storage()).clone()) for a in here]


def changed(before: list, over: list[Tensor]) -> bool:
    """Whether something has changed, but for the elements of the tensors that were to be written over."""
    for (a, old), (_, new) in zip(before, memory([a for a, _ in before]), strict=True):
        for o in over:
            if o.untyped_storage().data_ptr() == a.untyped_storage().data_ptr():
                place = (o.storage_offset(), o.shape, o.stride())
                elements, as_they_were = (o.new_empty(0).set_(b.untyped_storage(), *place) for b in (new, old))
                elements.copy_(as_they_were)
        if not torch.equal(old, new):
            return True
    return False


def plain(a: object) -> object:
    return a.detach().resolve_neg().clone(memory_format=torch.contiguous_format) if isinstance(a, Tensor) else a


def differ(a: Tensor, b: Tensor) -> bool:
    """By more than the rounding of sums taken in another order."""
    scale = b.abs().max().clamp(min=1).double() if b.numel() else 1
    return bool(((a.double() - b.double()).abs() > 64 * torch.finfo(a.dtype).eps * scale).any())


def differ_in_bits(a: Tensor, b: Tensor) -> bool:
    a, b = (torch.empty(x.numel(), dtype=x.dtype).copy_(x.reshape(-1)).view(torch.uint8) for x in (a, b))
    return not torch.equal(a, b)


def attempt(call: Call) -> tuple[str, str]:
    """("raised" | "valid" | "traced" | "skipped" | "wrong", why)."""
    wrong = fault(call.name, tuple(call.args))
    if wrong and traced(call.args):
        return trace(call)
    if wrong is None and max(math.prod(n for n in a.shape if n) for a in call.args if isinstance(a, Tensor)) > LARGE:
        return "skipped", ""
    before, copies = memory(call.args), None if wrong else list(map(plain, call.args))
    try:
        out = outcome(getattr(ops, call.name), call.args, call.over)
    except Exception as error:
        if not isinstance(error, (RuntimeError, TypeError, ValueError)):
            return "wrong", f"raised {error!r}"
        if wrong is None:
            return "wrong", f"a right call raised: {error}"
        if not MESSAGES.search(str(error)) or "INTERNAL ASSERT" in str(error):
            return "wrong", f"a message of someone else ({type(error).__name__}): {error}"
        out = None
    if changed(before, [] if wrong else [call.args[i].detach() for i in call.over]):
        return "wrong", "something was changed that was not to be written"
    if out is None:
        return "raised", wrong
    if wrong is not None:
        return "wrong", f"accepted, though: {wrong}"
    return judged(call, [o.detach() for o in out], copies)


def trace(call: Call) -> tuple[str, str]:
    """A call without data."""
    try:
        out = outcome(getattr(ops, call.name), call.args, call.over)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return "raised", ""
    return ("traced", "") if all(o.device.type == "meta" for o in out) else ("wrong", "data from meta tensors")


def told_of(call: Call, k: int) -> tuple:
    """Where a result means something: what is saved of an ignored row does not."""
    loss, suffix = split(call.name)
    if k != 1 or loss not in INDEX or "back" in suffix:
        return (...,)
    a = named(call.name, tuple(call.args))
    return ..., a["target"] != a["ignore_index"]


def judged(call: Call, out: list[Tensor], copies: list) -> tuple[str, str]:
    """A right call's results."""
    if [(tuple(o.shape), o.dtype) for o in out] != results(call.name, tuple(call.args)):
        return "wrong", f"returned {[told(o) for o in out]}"
    right = outcome(getattr(ops, call.name), copies, call.over)
    exact = all(a.is_contiguous() for a in call.args if isinstance(a, Tensor))  # so that sums have the same order
    may_be_nan = call.wild or of_nothing(call.name, tuple(call.args))
    for k, (a, b) in enumerate(zip(out, right, strict=True)):
        if not (may_be_nan or a.isfinite().all()):
            return "wrong", f"result {k} is not finite: {a}"
        a, b = (o[told_of(call, k)] for o in (a, b))
        if differ_in_bits(a, b) if exact else not call.wild and differ(a, b):
            return "wrong", f"result {k} is {a}, and {b} for plain copies"
    return "valid", ""


@contextlib.contextmanager
def filled_memory():
    """Fills what `empty` returns with NaN."""
    torch._C._set_deterministic_algorithms(True)  # the public function imports the compiler, which takes seconds
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(False)


def work(seed: int, begin: int, end: int) -> None:
    """A process: a line before each call, so that the one that ends it is known, and a line after."""
    warnings.simplefilter("ignore")  # of torch's, at the kinds of tensors
    torch.set_num_threads(1)
    for index in range(begin, end):
        print(index, flush=True)
        signal.alarm(PATIENCE)  # ends the process
        call = Call(seed, index)
        bad = fault(call.name, tuple(call.args)) is not None and not traced(call.args)
        with filled_memory():
            result, why = attempt(call)
        finding = " ".join(f"{call}: {why}".split()) if result == "wrong" else ""
        print(result, "bad" if bad else "good", call.name, finding)
    signal.alarm(0)


def run(program: str, level: str, seed: int, begin: int, end: int, counts: Counter, findings: list[str]) -> int:
    """Calls from `begin` on, in a process of their own. Returns where to go on: behind a call that ended it."""
    path = os.pathsep.join(sys.path)
    env = {**os.environ, "PYTHONPATH": path, "TORCHLOSS_CPU": level}
    command = [sys.executable, program, "--seed", str(seed), "--work", str(begin), str(end)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    for index, line in zip(lines[::2], lines[1::2], strict=False):
        result, kind, name, finding = line.split(" ", 3)
        counts.update(("calls", kind, result, f"op {name}"))
        if finding:
            findings.append(f"{index}, {level}: {finding}")
    if done.returncode == 0:
        return end
    if len(lines) % 2 == 0 or done.returncode == 1:
        raise SystemExit("the fuzzer itself failed:\n" + done.stderr)
    ended = "hung" if done.returncode == -signal.SIGALRM else "crashed"
    counts.update(("calls", ended))
    findings.append(f"{lines[-1]}, {level}: {ended}, exit status {done.returncode}\n{done.stderr[-3000:]}")
    return int(lines[-1]) + 1


def fuzz(seed: int, calls: int, seconds: float = float("inf"), processes: int = 1, program: str = __file__):
    """(counts, findings) of the calls from 0 on."""
    counts, findings, start = Counter(), [], time.monotonic()

    size = min(max(calls // 12, CHUNK[0]), CHUNK[1])

    def chunk(begin: int) -> None:
        end, level = min(begin + size, calls), LEVELS[begin // size % len(LEVELS)]
        while begin < end and time.monotonic() - start < seconds:
            begin = run(program, level, seed, begin, end, counts, findings)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(chunk, range(0, calls, size)))
    return counts, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", type=int, help="the number of one call, made in this process")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.seed, *options.work)
    if options.only is not None:
        call = Call(options.seed, options.only)
        print(call, flush=True)
        return print(*attempt(call))
    counts, findings = fuzz(options.seed, options.calls, options.seconds, options.processes)
    print("\n".join(findings))
    kinds = ("calls", "bad", "good", "raised", "valid", "traced", "skipped", "crashed", "hung", "wrong")
    print(", ".join(f"{counts[k]} {k}" for k in kinds), f"({sum(k.startswith('op ') for k in counts)} operators)")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
