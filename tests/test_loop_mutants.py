"""The test of the loops' tests: a mistake planted in a loop of the CPU shows in loop_battery.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulator import CSRC, FLAGS, edit
from loop_battery import NAME

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")

TORCH = Path(torch.__file__).parent
INCLUDES = [f"-I{path}" for path in (TORCH / "include", TORCH / "include/torch/csrc/api/include")]
SHARED = ("ops", "cpu/device", "cpu/move", "cpu/softcap", "cpu/staging")
FAMILIES = {"rows": ("cpu/cross_entropy", "cpu/kl_div_with_logits"), "points": ("cpu/pointwise",)}
CE, KL, POINTS, STAGING = "cpu/cross_entropy", "cpu/kl_div_with_logits", "cpu/pointwise", "cpu/staging"

# What goes wrong: (file, what to replace, by what, the sources to compile anew).
MISTAKES = {
    "the tail's maximum is of lanes that were overwritten": (
        "cpu/rows.h",
        "select(~Mask::first(counted), logits[0], largest)",
        "logits[0]",
        (CE,),
    ),
    "the tail is summed twice": ("cpu/rows.h", "if (counted) only_counting(few, ~Mask::first(counted));", "", (CE,)),
    "the tail's terms are summed twice": (
        "cpu/rows.h",
        "for (V& f : few) f = only(~Mask::first(counted), f);",
        "{}",
        (KL,),
    ),
    "the tail is written twice": (
        "cpu/rows.h",
        "give_back(s, first, n * L, counted)",
        "give_back(s, first, n * L, 0)",
        (CE,),
    ),
    "a chunk forgets the ones before": (
        "cpu/rows.h",
        "state.softmax.max), first == 0);",
        "state.softmax.max), true);",
        (CE,),
    ),
    "the lanes of a row are not joined": ("cpu/rows.h", "      join_lanes(state);\n", "", (CE,)),
    "the second softmax is not joined": (
        "cpu/rows.h",
        "if constexpr (Kernel::softmaxes > 1) join_lanes(second);",
        "",
        (KL,),
    ),
    "a cached exponential is seen from another maximum": (
        "cpu/rows.h",
        "factor = V(kernel.exp_of(",
        "V(kernel.exp_of(",
        (CE,),
    ),
    "the first chunk's maximum for all": (
        "cpu/rows.h",
        "exp_cache.maxima[chunk++] - ",
        "exp_cache.maxima[0] - ",
        (CE,),
    ),
    "no exponentials where none were cached": (
        "cpu/rows.h",
        "compute_exp(view(0, first, n, slopes(0, first, counted)), n, cache);",
        "{}",
        (CE,),
    ),
    "an ignored row has a gradient": (
        "cpu/rows.h",
        "Kernel::targets ? only(counts, y[s]) : y[s]).store",
        "y[s]).store",
        (CE,),
    ),
    "the first row's target for all": (
        "cpu/rows.h",
        "out_place[0].p[l + target[l] * out_place[0].step]",
        "out_place[0].p[l + target[0] * out_place[0].step]",
        (CE,),
    ),
    "the first row's gradient for all": (
        "cpu/rows.h",
        "x[l] = compute_number<T>(a, p, offset + row + l);",
        "x[l] = compute_number<T>(a, p, offset + row);",
        (CE,),
    ),
    "a loss without its row's weight": ("cpu/rows.h", "values[k] = values[k] * row_weight;", "{}", (CE,)),
    "a gradient without the softcap's slope": (
        "cpu/rows.h",
        "if (capped && s < Kernel::logits) multiply",
        "if (false) multiply",
        (CE,),
    ),
    "the target's gradient without the slope": ("cpu/rows.h", "gradient = gradient * slope_x_y;", "{}", (CE,)),
    "slopes of exponentials": ("cpu/rows.h", "if (exp_cache.used() && counted) return", "if (false) return", (CE,)),
    "the target's logit without a softcap": ("cpu/rows.h", "if (!capped || s > 0) return raw;", "return raw;", (CE,)),
    "sums lose what they round": (
        "row.h",
        "compensation = compensation + ((sum - (s - b)) + (x - b));",
        "",
        (CE,),
    ),
    "the first tile for all": ("cpu/staging.h", "ins[s] + (varies(a.in[s]) ? row : 0)", "ins[s]", (CE, STAGING)),
    "a run of rows over the one before": ("cpu/staging.cpp", "to + before,", "to,", (STAGING,)),
    "a stream over the one before": (
        "cpu/staging.cpp",
        "ins[s] = p, p += a.classes * step(a.in[s]);",
        "ins[s] = p;",
        (STAGING,),
    ),
    "the last elements counted twice": (
        "cpu/points.h",
        "sum + select(Mask::first(n), out[0], V(0))",
        "sum + out[0]",
        (POINTS,),
    ),
    "the last block alone": (
        "cpu/points.h",
        "for (double s : many) sum += s;",
        "for (double s : many) sum = s;",
        (POINTS,),
    ),
    "a line over the one before": ("cpu/points.h", "here, buffer + i);", "here, buffer);", (POINTS,)),
    "a gradient of the sum for that of the mean": ("cpu/points.h", "factor = factor / V(a.count);", "{}", (POINTS,)),
}


def compiled(csrc, name, folder):
    target = folder / f"{name.replace('/', '_')}.o"
    command = ["g++", *FLAGS, "-DTORCHLOSS_ONE_ISA", *INCLUDES, "-c", str(csrc / f"{name}.cpp"), "-o", str(target)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-5000:]
    return target


def copy_of_sources(folder):
    """With the ops under another name."""
    csrc = Path(shutil.copytree(CSRC, folder / "csrc"))
    edit(csrc / "ops.cpp", r"STABLE_TORCH_LIBRARY(\w*)\(torchloss, ", rf"STABLE_TORCH_LIBRARY\1({NAME}, ", 2)
    for names in FAMILIES.values():
        for name in names:
            path = csrc / f"{name}.cpp"
            edit(path, r"STABLE_TORCH_LIBRARY_IMPL\(torchloss, ", f"STABLE_TORCH_LIBRARY_IMPL({NAME}, ", 1)
    return csrc


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loops")
    csrc = copy_of_sources(folder)
    names = (*SHARED, *(name for names in FAMILIES.values() for name in names))
    return {name: compiled(csrc, name, folder) for name in names}


def battery(objects, family, folder):
    library, libs = folder / "loops.so", TORCH / "lib"
    files = [str(objects[name]) for name in (*SHARED, *FAMILIES[family])]
    command = ["g++", "-shared", "-o", str(library), *files, f"-L{libs}", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([*command, f"-Wl,-rpath,{libs}"], check=True)
    script = Path(__file__).parent / "loop_battery.py"
    return subprocess.run([sys.executable, script, library, family], capture_output=True, text=True)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_can_be_planted(mistake):
    file, right, *_ = MISTAKES[mistake]
    assert (CSRC / file).read_text().count(right) == 1, f"{file} has changed: plant this mistake anew"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_passes(objects, family, tmp_path):
    done = battery(objects, family, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_sees_mistakes(objects, mistake, tmp_path):
    file, right, wrong, names = MISTAKES[mistake]
    csrc = copy_of_sources(tmp_path)
    (csrc / file).write_text((csrc / file).read_text().replace(right, wrong))
    new = {name: compiled(csrc, name, tmp_path) for name in names}
    done = battery(objects | new, "points" if names == (POINTS,) else "rows", tmp_path)
    assert done.returncode != 0, "nothing differs"
