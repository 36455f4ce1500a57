"""The operators as an attacker calls them, and what importing them does. Figures of a long run: docs/adversarial.md."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
import torch
from op_calls import all_calls, ops, registered, written

from torchloss.testing.losses import EVERY

HERE = Path(__file__).parent


def python(*args: str, **env: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(HERE), *sys.path])
    return subprocess.run(
        [sys.executable, *args], env={**os.environ, "PYTHONPATH": path, **env}, capture_output=True, text=True
    )


# Spoiled arguments


@pytest.mark.failure(3, 59, 63)
def test_a_short_fuzz():
    """The first calls of `make fuzz`."""
    counts, findings = fuzz.fuzz(seed=0, calls=3000)
    assert not findings, "\n".join(findings)
    assert counts["calls"] == 3000 and counts["bad"] > 1500 and counts["valid"] > 500
    assert {k[3:] for k in counts if k.startswith("op ")} == {n for n in registered() if not n.endswith("_sizes")}


SPOILED = """
import os, sys, time, fuzz
right, calls = fuzz.attempt, []
def attempt(call):
    calls.append(call)
    if len(calls) == 3:
        {}
    return right(call)
fuzz.attempt, fuzz.PATIENCE = attempt, 3
fuzz.main()
"""


@pytest.mark.parametrize("what, fault", [("crashed", "os.kill(os.getpid(), 11)"), ("hung", "time.sleep(30)")])
def test_the_fuzzer_sees_a_process_end(what, fault, tmp_path):
    """A call that ends its process is told, and the fuzzer goes on behind it."""
    program = tmp_path / "program.py"
    program.write_text(SPOILED.format(fault))
    counts, findings = fuzz.fuzz(seed=0, calls=5, program=str(program))
    assert counts["calls"] == 5 and counts[what] == 1
    assert [f.startswith(f"2, avx512: {what}") for f in findings] == [True]


class Spoiled:
    """The operators, each with a bug."""

    def __init__(self, bug):
        self.bug = bug

    def __getattr__(self, name):
        return lambda *args: self.bug(getattr(ops, name), args)


def accepts_anything(op, args):
    try:
        return op(*args)
    except RuntimeError:
        return torch.zeros(())


def refuses_strides(op, args):
    if not all(a.is_contiguous() for a in args if torch.is_tensor(a)):
        raise RuntimeError("softmax: expected contiguous tensors")
    return op(*args)


def first(op, args, change):
    out = op(*args)
    return (change(out[0]), *out[1:]) if isinstance(out, tuple) else out if out is None else change(out)


def writes_to_its_input(op, args):
    out = op(*args)
    next(a for a in args if torch.is_tensor(a)).detach().mul_(2)
    return out


def writes_and_refuses(op, args):
    try:
        return op(*args)
    except RuntimeError:
        for i in written(op.default):
            if torch.is_tensor(args[i]) and args[i].layout == torch.strided and args[i].device.type == "cpu":
                args[i].detach().view(torch.uint8).fill_(0)
        raise


BUGS = {
    "accepts anything": accepts_anything,
    "refuses strides": refuses_strides,
    "writes to its input": writes_to_its_input,
    "writes though it refuses": writes_and_refuses,
    "does not write over": lambda op, args: None if str(op).endswith("_into") else op(*args),
    "reads as contiguous": lambda op, args: op(*(ignoring_strides(a) if torch.is_tensor(a) else a for a in args)),
    "does not write": lambda op, args: first(op, args, torch.empty_like),
    "other dtype": lambda op, args: first(op, args, torch.Tensor.cfloat),
    "other shape": lambda op, args: first(op, args, lambda x: x[None]),
    "bad message": lambda op, args: op(*args) if fuzz.fault(op._qualified_op_name[11:], args) is None else 1 / None,
}


def ignoring_strides(a):
    dense = a.layout == torch.strided and a.numel() <= fuzz.LARGE and fuzz.holds(a) and a.device.type == "cpu"
    same = dense and a.numel() <= a.untyped_storage().nbytes() // a.element_size() - a.storage_offset()
    return a.as_strided(a.shape, torch.empty(a.shape, device="meta").stride()) if same else a


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.filterwarnings("ignore")  # of torch's, at the kinds of tensors
def test_the_fuzzer_sees_a_bug(bug, monkeypatch):
    calls = [fuzz.Call(0, index) for index in range(500)]
    monkeypatch.setattr(fuzz, "ops", Spoiled(BUGS[bug]))
    fuzz.base_calls.cache_clear()
    with fuzz.filled_memory():
        assert any(fuzz.attempt(call)[0] == "wrong" for call in calls)
    fuzz.base_calls.cache_clear()


def test_the_fuzzer_sees_what_is_written_beside_a_place():
    whole = torch.zeros(4, 7)
    place = whole[1:, ::2]
    before = fuzz.memory([place])
    place.fill_(1)
    assert not fuzz.changed(before, [place]) and fuzz.changed(before, [])
    whole[1, 1] = 1
    assert fuzz.changed(before, [place])


def test_storage_that_was_given_up():
    """Sharding frees parameters so. Read as they are, they are zeros or a crash."""
    for loss in EVERY:
        for op, args in all_calls(loss):
            for i, value in enumerate(args):
                if not torch.is_tensor(value) or not value.numel():
                    continue
                gone = value.detach().clone()
                gone.untyped_storage().resize_(gone.untyped_storage().nbytes() - 1)
                with pytest.raises(RuntimeError, match="the storage of .* is too small"):
                    op(*args[:i], gone, *args[i + 1 :])


def test_no_tensor():
    """None in place of a tensor arrives in C++ as a tensor without anything."""
    for loss in EVERY:
        for op, args in all_calls(loss):
            tensors = sum(torch.is_tensor(a) for a in args)
            for i, argument in enumerate(op._schema.arguments):
                if str(argument.type) == "Tensor" and tensors > 1:  # else there is no device to choose an op by
                    with pytest.raises(RuntimeError, match="expected a tensor for"):
                        op(*args[:i], None, *args[i + 1 :])


def test_meta_tensors_are_not_mixed_with_others():
    for loss in EVERY:
        for op, args in all_calls(loss):
            tensors = [i for i, a in enumerate(args) if torch.is_tensor(a)]
            for i in tensors if len(tensors) > 1 else ():
                with pytest.raises(RuntimeError, match="on one device"):
                    op(*args[:i], args[i].to("meta"), *args[i + 1 :])


@pytest.mark.failure(48)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_any_number_of_rows_of_nothing(name):
    """They cost nothing."""
    for shape in ((2**45, 0), (2**31, 0, 2**31)):
        x = torch.empty(shape)
        dim = shape.index(0)
        assert getattr(ops, name)(x, dim).shape == getattr(ops, name + "_backward")(x, x, dim).shape == shape


def test_too_many_rows():
    x = torch.empty(2**32, 0, 2**31)
    with pytest.raises(RuntimeError, match="more than 2\\^63 rows"):
        ops.softmax_entropy(x, 1, 1)


def test_more_elements_than_memory():
    """A right call that cannot be carried out raises, whatever ran out."""
    x = torch.ones(1).expand(2**62)
    rows, one = x.unsqueeze(1), torch.ones(())
    for call in (
        lambda: ops.mse_loss(x, x, None, 0),
        lambda: ops.mse_loss(x, x, None, 1),
        lambda: ops.mse_loss_backward(one, x, x, None, True),
        lambda: ops.softmax(x, 0),
        lambda: ops.softmax_entropy(rows, 1, 1),
        lambda: ops.nll_loss(rows, torch.zeros(1, dtype=torch.long).expand(2**62), None, 1, -100, 1),
    ):
        with pytest.raises((RuntimeError, MemoryError)):
            call()


def test_more_dimensions_than_a_layout_holds():
    x = torch.ones([2] * 14).permute(*range(0, 14, 2), *range(1, 14, 2))  # no two neighbours merge
    with pytest.raises(RuntimeError, match="more than 12 dimensions"):
        ops.softmax(x, 0)
    assert ops.mse_loss(x, x, None, 1) == 0  # whose order is that of memory


# Reads outside


@pytest.mark.failure(3, 8, 27, 59, 63)
@pytest.mark.parametrize("level", ["avx512", *(pytest.param(s, marks=pytest.mark.slow) for s in ("avx2", "default"))])
def test_guard_pages(level):
    """With the widest vectors that the processor has, or narrower ones."""
    done = python(str(HERE / "guarded.py"), TORCHLOSS_CPU=level)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 5000


@pytest.mark.parametrize("where, elements", [("after", 1), ("after", 7), ("before", 1), ("before", 7)])
def test_guard_pages_catch(where, elements):
    assert python(str(HERE / "guarded.py"), where, str(elements)).returncode == -signal.SIGSEGV


# What importing does

EVENTS = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.spawn", "socket.", "pickle.")
AUDIT = f"""
import sys
seen = []
def hook(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    if event.startswith({EVENTS}) or writes:
        seen.append((event, args))
sys.dont_write_bytecode = True
"""
IMPORT = "import torch; sys.addaudithook(hook); import torchloss, torchloss.testing.losses; assert not seen, seen"
FORBIDDEN = {
    "subprocess.Popen": "import subprocess; subprocess.run(['true'])",
    "os.system": "import os; os.system('true')",
    "pickle.find_class": "import pickle; pickle.loads(b'cos\\ngetpid\\n.')",
    "socket.getaddrinfo": "import socket; socket.getaddrinfo('localhost', 80)",
    "open": "open('/dev/null', 'w')",
}


@pytest.mark.failure(80)
def test_import_runs_and_loads_nothing():
    """No compiler or other program, no pickle, no network, no file written."""
    done = python("-c", AUDIT + IMPORT)
    assert done.returncode == 0, done.stderr


def test_the_audit_sees():
    actions = "\n".join(FORBIDDEN.values())
    done = python("-c", f"{AUDIT}sys.addaudithook(hook)\n{actions}\nprint(*(event for event, _ in seen))")
    assert set(FORBIDDEN) <= set(done.stdout.split()), done.stderr
