"""What the CPU's library is compiled of. Loops times instruction sets take the time: each loss has its share here."""

import re
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import torchloss

LIBRARY = next(Path(torchloss.__file__).parent.glob("_C.*so"), None)
BODY = re.compile(r" (Baseline|Avx2|MultiIsa)<(Row|Point)Body<(.+), (float|double)> >::(?:run|avx512)<")
KERNELS = {
    "CrossEntropyOfIndex": 9,  # plain, scaled, smoothed: Forward, Backward, WithGradient
    "CrossEntropySecondOrder": 2,
    "CrossEntropyProbs": 5,
    "NLL": 3,
    "Entropy": 3,
    "SoftmaxEntropyOf": 6,
    "SoftmaxEntropySecondOrder": 1,
    "KLDivWithLogits": 5,
    "LogitStats": 3,
    "SoftmaxMap": 3,
    "LogSoftmaxMap": 3,
}
POINTWISE = 4  # the orders of a jet
LOOPS = 220  # in all; each takes about a second to compile


@pytest.fixture(scope="module")
def bodies():
    """For each kernel and type, the instruction sets that it is compiled for."""
    if shutil.which("nm") is None or LIBRARY is None:
        pytest.skip("no nm")
    symbols = subprocess.run(["nm", "-C", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    found = defaultdict(set)
    for line in symbols.replace("torchloss::", "").splitlines():
        if body := BODY.search(" " + line.split(maxsplit=2)[2].removeprefix("void ")):
            found[body[3], body[4]].add(body[1])
    if not found:
        pytest.skip("a library without symbols, or for one instruction set")
    if not any("MultiIsa" in isas for isas in found.values()):
        pytest.skip("compiled for one instruction set")
    return found


def is_second_order(kernel):
    return kernel.endswith(("::DoubleBackward", ", 3"))


def test_each_loop_is_compiled_for_the_sets_that_it_needs(bodies):
    for (kernel, dtype), isas in bodies.items():
        if dtype == "double":
            assert isas == {"Baseline"}, (kernel, dtype)
        elif is_second_order(kernel):
            assert isas - {"Baseline"} == {"Avx2"}, (kernel, dtype)
        else:
            assert isas - {"Baseline"} == {"Avx2", "MultiIsa"}, (kernel, dtype)
    own = {kernel for (kernel, dtype), isas in bodies.items() if dtype == "float" and "Baseline" in isas}
    assert all(re.search("KLDivWithLogits|CrossEntropyProbs", kernel) for kernel in own), "row.h: own_type"


def test_no_loss_has_more_kernels_than_its_share(bodies):
    counts = Counter()
    for kernel, dtype in bodies:
        if dtype == "double":
            counts[re.search(r"^(?:WithGradient<)?(\w+)", kernel)[1]] += 1
    assert {name: n for name, n in counts.items() if n > KERNELS.get(name, POINTWISE)} == {}
    assert sum(len(isas) for isas in bodies.values()) <= LOOPS
