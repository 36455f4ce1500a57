"""The C++ below the operators, without torch: compiles tests/cpp and runs it on each of the CPU's instruction sets."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
COMPILER = shlex.split(os.environ.get("CXX") or "g++")
FLAGS = ["-std=c++20", "-O2", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wno-psabi", "-pthread"]
LEVELS = ("default", "avx2", "avx512")
PROGRAMS = ("test_parts", "test_math", "test_walk")

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler: set CXX")


def compile_program(name, csrc, folder):
    program = folder / name
    command = [*COMPILER, *FLAGS, "-I", str(csrc), str(HERE / "cpp" / f"{name}.cpp"), "-o", str(program)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return program


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    made = {}

    def program(name):
        if name not in made:
            made[name] = compile_program(name, CSRC, tmp_path_factory.mktemp(name))
        return made[name]

    return program


def run(program, level, *args):
    done = subprocess.run([program, *args], env={**os.environ, "TORCHLOSS_CPU": level}, capture_output=True, text=True)
    print(done.stdout)  # the errors measured: pytest -s shows them
    return done


def skip_if_lower(output, level):
    """The program lowers the instruction set, by itself, to what the processor has."""
    reached = re.search(r"level (\d)|vectors of (\d+) bytes", output)
    if reached is not None:
        number = int(reached[1]) if reached[1] else {16: 0, 32: 1, 64: 2}[int(reached[2])]
        if number < LEVELS.index(level):
            pytest.skip(f"this processor has no {level}")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_passes(programs, name, level):
    done = run(programs(name), level)
    assert done.returncode == 0, done.stdout + done.stderr
    skip_if_lower(done.stdout, level)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_float(programs, level):
    done = run(programs("test_math"), level, "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    skip_if_lower(done.stdout, level)


# Mistakes that a test of these must see: (program, file, what to replace, by what).
MISTAKES = {
    "no rescaling": (
        "test_parts",
        "row.h",
        "(softmax.leaders + softmax.others) * factor)",
        "softmax.leaders + softmax.others)",
    ),
    "the old maximum counted twice": (
        "test_parts",
        "row.h",
        "softmax.leaders = select(same, softmax.leaders, V(0));",
        "",
    ),
    "-inf - -inf": ("test_parts", "row.h", "select(max == SoftmaxState<V>::lowest(), V(0), max)", "max"),
    "NaN forgotten": ("test_parts", "row.h", "select(leads, V(0), V(e))", "select(d < V(0), V(e), V(0))"),
    "0 * inf of an empty part": ("test_parts", "losses/cross_entropy.h", "times(sums[1], d)", "sums[1] * d"),
    "the weights not moved": ("test_parts", "losses/cross_entropy.h", "sums[0] = sums[0] + times(mass, d);", ""),
    "a former leader": ("test_parts", "losses/cross_entropy.h", "sums[2] = select(same, sums[2], V(0));", ""),
    "the moment not moved": ("test_parts", "losses/entropy.h", "f * *sums + times(f, d) *", "f * *sums + V(0) *"),
    "a digit of exp": ("test_math", "cpu/lanes.h", "8.363232884e-3f", "8.373232884e-3f"),
    "a digit of log": ("test_math", "cpu/lanes.h", "3.999999999989889051e-1", "3.999999999999889051e-1"),
    "exp without subnormals": ("test_math", "cpu/lanes.h", "exp_low = -104.f", "exp_low = -88.f"),
    "log1p of the rounded 1 + x": ("test_math", "cpu/lanes.h", "(u, compensation / u,", "(u, L(0) * compensation,"),
    "expm1 loses the sign of 0": ("test_math", "cpu/lanes.h", "return select(x == L(0), x, y + y);", "return y + y;"),
    "log of a subnormal": ("test_math", "cpu/lanes.h", "tiny.i & -shift", "tiny.i & (1 - shift)"),
    "a slot too few": ("test_walk", "cuda/walk.h", "place + chunk < slots ?", "place + 2 * chunk < slots ?"),
    "the second reading begins elsewhere": ("test_walk", "cuda/walk.h", "last % kGroups * chunk", "0"),
    "a piece is not waited for": ("test_walk", "cuda/walk.h", "ring.commit();\n      place", "place"),
    "an edge read twice": ("test_walk", "cuda/walk.h", "e < head ? e : e + pieces", "e <= head ? e : e + pieces"),
    "a target of another thread": ("test_walk", "cuda/walk.h", "c / width : j", "c : j"),
    "a digit of exp_excess": ("test_math", "math.h", "4.166673660e-2f", "4.166773660e-2f"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_sees_mistakes(mistake, tmp_path):
    name, file, right, wrong = MISTAKES[mistake]
    csrc = shutil.copytree(CSRC, tmp_path / "csrc")
    text = (csrc / file).read_text()
    assert text.count(right) == 1, f"{file} has changed: plant this mistake anew"
    (csrc / file).write_text(text.replace(right, wrong))
    done = run(compile_program(name, csrc, tmp_path), "avx512")
    assert done.returncode == 1 and "FAILED" in done.stdout, done.stdout
