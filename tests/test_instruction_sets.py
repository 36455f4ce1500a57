"""The CPU's code is compiled once for each instruction set: each is right."""

import os
import subprocess
import sys

import pytest
import torch

PARITY = """
import hashlib, torch
from torchloss.testing.losses import LOSSES, leaves
from torch.testing import assert_close
digest = hashlib.sha256()
for loss in LOSSES:
    for shape in ((7, 33), (4, 10, 6), (3, 1000)):
        for dtype in (torch.float64, torch.float32):
            results = []
            for call, to in ((loss.ours, dtype), (loss.oracle, torch.float64)):
                x, t = leaves(loss, *loss.sample(shape), to)
                value = call(x, t, loss.reductions[-1])
                value.backward(torch.linspace(1, 2, value.numel(), dtype=to).reshape(value.shape))
                results.append([value.detach(), x.grad, *([t.grad] if loss.target_grad else [])])
            for mine, right in zip(*results):
                assert_close(mine, right.to(dtype), msg=lambda m: f"{loss} {shape}: {m}")
                digest.update(mine.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def digest():
    """digest(level): of the results on one of the CPU's instruction sets."""
    found = {}

    def run(level):
        if level not in found:
            path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
            env = {**os.environ, "TORCHLOSS_CPU": level, "PYTHONPATH": path}
            done = subprocess.run([sys.executable, "-c", PARITY], env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            found[level] = done.stdout
        return found[level]

    return run


@pytest.mark.parametrize("level", ["default", "avx2", "avx512"])
def test_each_instruction_set(level, digest):
    """Each is right, and differs from the one below in its rounding: so it was another that ran."""
    has = torch.backends.cpu.get_cpu_capability()
    if level != "default" and not has.startswith(level.upper()) and has != "AVX512":
        pytest.skip(f"this processor has {has}")
    assert level == "default" or digest(level) != digest({"avx2": "default", "avx512": "avx2"}[level])
    digest(level)
