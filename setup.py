"""Builds torchloss._C (the CPU's library, always) and torchloss._C_cuda, against the PyTorch that is installed.

Environment variables:
    TORCHLOSS_CUDA        1: build _C_cuda too, which needs nvcc, but no GPU and no CUDA build of PyTorch; 0: never.
                          Default: build it when PyTorch has CUDA and nvcc is found. FORCE_CUDA is a synonym.
    CUDA_HOME             the CUDA toolkit, where it is not in a usual place.
    TORCH_CUDA_ARCH_LIST  GPU architectures, such as "8.6;9.0+PTX". Default: sm_80, sm_90, and PTX for newer ones.
    MAX_JOBS              how many compilers run at once. Default: one per core.
    TORCHLOSS_CXXFLAGS    more flags for the C++ compiler, after torchloss's own: see tools/asan.sh.
    TORCHLOSS_SKIP_BUILD  1: leave both libraries out and do not ask for PyTorch (metadata, extras, sdist); `make` then
                          builds them in place, where only what changed is compiled again.
"""

import os
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from glob import glob

from setuptools import __version__ as setuptools_version
from setuptools import setup

STABLE_ABI_TARGET = "0x020b000000000000"  # 2.11, one byte per number: the built files work from that release on
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")  # free-threaded Python has no abi3
CXX_FLAGS = ["-O3", "-std=c++20", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-g0", "-Wall"]
CXX_FLAGS += ["-Wno-psabi"]
# GCC's. The constants of a loop stay in registers, though a call outside of the loop would overwrite them. And a struct
# of vectors is copied by whole vectors: a load of one that two narrower stores have just written waits for the cache.
for option in "-fira-region=all", "-mmove-max=512", "-mstore-max=512":
    known = [*shlex.split(os.environ.get("CXX", "c++")), "-Werror", option, "-E", "-x", "c++", os.devnull]
    if not subprocess.run(known, capture_output=True).returncode:
        CXX_FLAGS += [option]
CXX_FLAGS += os.environ.get("TORCHLOSS_CXXFLAGS", "").split()
NVCC_FLAGS = ["-O3", "-std=c++20", "-Xcompiler", "-fvisibility=hidden", "-Xfatbin", "-compress-all"]
DEFAULT_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]


def flag(*names):
    """The first of these environment variables that is set, as a bool; None if none is."""
    for name in names:
        value = os.environ.get(name, "").strip().lower()
        if value in ("1", "on", "yes", "true"):
            return True
        if value in ("0", "off", "no", "false"):
            return False
        if value:
            raise SystemExit(f"{name} must be 0 or 1, not {value!r}")
    return None


def import_cpp_extension():
    """torch.utils.cpp_extension of the environment being installed into, also from inside pip's build isolation."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        # Isolation hides the installed packages, but the interpreter, and so the paths to them, are the same.
        sys.path += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()]
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            raise SystemExit(
                "torchloss is compiled against your PyTorch and found none: install torch first, then torchloss again "
                "(with --no-build-isolation if torch is installed and this message stays)"
            ) from None
    from torch.utils import cpp_extension

    return cpp_extension


def find_cuda(cpp_extension):
    """The CUDA toolkit's folder, or None. An nvcc alone may be a wrapper script elsewhere: ask for headers too."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), cpp_extension.CUDA_HOME]
    homes += [nvcc and os.path.dirname(os.path.dirname(os.path.realpath(nvcc))), "/usr/local/cuda"]
    homes += sorted(glob("/usr/local/cuda-*"), reverse=True)
    for home in homes:
        if home and os.path.exists(f"{home}/bin/nvcc") and os.path.exists(f"{home}/include/cuda_runtime.h"):
            return home
    return None


def extensions(cpp_extension):
    import torch

    common = {
        "py_limited_api": LIMITED_API,
        # Headers, so that an edited one rebuilds; this file, so that changed flags do.
        "depends": ["setup.py", *glob("csrc/**/*.h", recursive=True), *glob("csrc/**/*.cuh", recursive=True)],
    }
    macros = [("TORCH_TARGET_VERSION", STABLE_ABI_TARGET)]
    yield cpp_extension.CppExtension(
        "torchloss._C",
        sorted(glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp")),
        define_macros=macros,
        extra_compile_args={"cxx": CXX_FLAGS},
        **common,
    )

    wanted = flag("TORCHLOSS_CUDA", "FORCE_CUDA")
    home = find_cuda(cpp_extension)
    if wanted and home is None:
        raise SystemExit("TORCHLOSS_CUDA=1, but no CUDA toolkit with nvcc was found: set CUDA_HOME to its folder")
    if wanted is False or home is None or (wanted is None and torch.version.cuda is None):
        return
    cpp_extension.CUDA_HOME = home  # a CPU build of PyTorch leaves it None and then refuses .cu files
    yield cpp_extension.CppExtension(  # not CUDAExtension, which links libraries that a CPU build of PyTorch lacks
        "torchloss._C_cuda",
        sorted(glob("csrc/cuda/*.cu")),
        include_dirs=[f"{home}/include"],
        define_macros=[*macros, ("USE_CUDA", None)],
        library_dirs=[f"{home}/lib64", f"{home}/lib"],
        libraries=["cudart_static", "rt", "dl", "pthread"],  # static: one file for every CUDA release of PyTorch
        extra_link_args=["-Wl,--no-as-needed", "-ltorch"],  # libtorch.so brings in libtorch_cuda.so where it exists
        extra_compile_args={
            "cxx": CXX_FLAGS,
            "nvcc": NVCC_FLAGS + ([] if os.environ.get("TORCH_CUDA_ARCH_LIST") else DEFAULT_ARCHITECTURES),
        },
        **common,
    )


if int(setuptools_version.partition(".")[0]) < 77:  # it cannot read pyproject.toml, and says so at length
    raise SystemExit(f"torchloss needs setuptools 77, and this is {setuptools_version}: pip install -U setuptools")
if flag("TORCHLOSS_SKIP_BUILD"):
    setup()
else:
    cpp_extension = import_cpp_extension()
    setup(
        ext_modules=list(extensions(cpp_extension)),
        cmdclass={"build_ext": cpp_extension.BuildExtension},
        options={"bdist_wheel": {"py_limited_api": "cp310"}} if LIMITED_API else {},
    )
