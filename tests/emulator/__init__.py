"""Compiles csrc/cuda for the CPU: the same sources, but for the few words that only a GPU knows.

The library registers its ops as torchloss_emulated, for tensors on the CPU, and runs every kernel thread by thread
(emulator.cpp). It shows what a kernel computes, and that no thread reads what has not come yet; nothing of speed, of
what the hardware's own functions round to, or of races between warps.
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-w", "-DTORCH_TARGET_VERSION=0x020b000000000000"]

# For each file, what stands in place of what a pattern finds there; each is found exactly so often.
EDITS = {
    "cuda/pieces.cuh": (
        (r'asm volatile\("cp\.async\.cg.*?;\n', "bring_emulated(to, from);\n", 1),
        (r'asm volatile\("cp\.async\.commit_group;" ::: "memory"\);', "commit_emulated();", 1),
        (r'asm volatile\("cp\.async\.wait_group .*?;" ::"n"\(latest\) : "memory"\);', "wait_emulated(latest);", 1),
        (r"  uint4 v;\n  asm volatile\(\"ld\.shared.*?return v;", "  return brought_emulated(from);", 1),
        (
            r"static_cast<unsigned>\(__cvta_generic_to_shared\(p\)\)",
            "static_cast<unsigned>(reinterpret_cast<const char*>(p) - reinterpret_cast<const char*>(memory))",
            1,
        ),
        (r"namespace torchloss \{", "namespace torchloss {\nextern uint4 memory[];", 1),
    ),
    "cuda/narrow.cuh": (
        (r'asm\("div\.full.*?;\n', "q = a.v / b.v;\n", 1),
        (
            r'asm\("ex2\.approx\.ftz.*?;\n',
            "e = ::exp2f(exponent);\n    if (e < 0x1p-126f) e = 0;\n",
            1,
        ),
    ),
    "cuda/team.cuh": (
        (r"  extern __shared__ uint4 memory\[\];\n", "", 1),
        (r"namespace torchloss \{", "namespace torchloss {\nextern uint4 memory[];", 1),
    ),
    "cuda/launch.h": (
        (
            r"(template <class\.\.\. P>\nvoid launch\(.*?\{\n).*?\n\}\n",
            r"\1  run_emulated(grid.blocks, grid.threads, grid.shared, [&] { kernel(arguments...); });\n}\n",
            1,
        ),
        (r"(inline cudaStream_t current_stream\(int) device\) \{.*?\n\}\n", r"\1) { return nullptr; }\n", 1),
        (
            r"using torch::stable::accelerator::DeviceGuard;",
            "struct DeviceGuard {\n  DeviceGuard(int) {}\n};\n#define STD_CUDA_CHECK(x) (void)(x)",
            1,
        ),
        (r"#include <torch/csrc/stable/(macros|accelerator)\.h>\n", "", 2),
    ),
    "cuda/sums.cu": ((r"aoti_torch_device_type_cuda", "aoti_torch_device_type_cpu", 2),),
    "ops.cpp": ((r"STABLE_TORCH_LIBRARY(\w*)\(torchloss, ", r"STABLE_TORCH_LIBRARY\1(torchloss_emulated, ", 2),),
}
REGISTERED = r"STABLE_TORCH_LIBRARY_IMPL\(torchloss, CUDA, m\)", "STABLE_TORCH_LIBRARY_IMPL(torchloss_emulated, CPU, m)"


def edit(path: Path, pattern: str, replacement: str, times: int) -> None:
    text, found = re.subn(pattern, replacement, path.read_text(), flags=re.DOTALL)
    assert found == times, f"{path.name}: {pattern} was found {found} times, not {times}"
    path.write_text(text)


def build(folder: Path) -> Path:
    """The library, made in a folder from a copy of csrc."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    for name, edits in EDITS.items():
        for pattern, replacement, times in edits:
            edit(csrc / name, pattern, replacement, times)
    kernels = sorted(csrc.glob("cuda/*.cu"))
    for path in kernels:
        if path.name != "sums.cu":
            edit(path, *REGISTERED, 1)
    torch_folder = Path(torch.__file__).parent
    includes = [HERE, csrc, torch_folder / "include", torch_folder / "include/torch/csrc/api/include"]
    options = [*FLAGS, *(f"-I{path}" for path in includes)]

    def compiled(source: Path) -> str:
        target = folder / f"{source.name}.o"
        command = ["g++", *options, "-x", "c++", "-c", str(source), "-o", str(target)]
        made = subprocess.run(command, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr[-5000:]
        return str(target)

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 2))) as pool:
        objects = list(pool.map(compiled, [*kernels, HERE / "emulator.cpp", csrc / "ops.cpp"]))
    library, libs = folder / "emulated.so", torch_folder / "lib"
    command = ["g++", "-shared", "-o", str(library), *objects, f"-L{libs}", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([*command, f"-Wl,-rpath,{libs}"], check=True)
    return library
