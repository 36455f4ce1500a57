#!/usr/bin/env python3
"""Checks that the source compiles against the headers of other PyTorch releases; no code is generated.

    tools/check_headers.py 2.11.0 2.12.1 [...]

Files and flags are those of setup.py, whose environment variables hold here as well. Where there is nvcc, the host's
part of the .cu files is checked too, unless TORCHLOSS_CUDA=0. Downloads each release's wheel (half a gigabyte), and
keeps its headers in build/. A release that pip cannot get is named as SKIPPED; exits with 1 if a file does not compile.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from distutils.core import run_setup  # setuptools brings it where Python no longer does
from pathlib import Path

import other_torch
import torch
from setuptools import Extension
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = str(Path(torch.__file__).parent)
# One architecture, not optimized: what asks for torch is the host's part.
HOST_PART = ["--cuda", "-gencode=arch=compute_80,code=compute_80", "-Xcicc", "-O0"]


def headers(version: str) -> Path:
    """The release's torch/, of which only include/ is there."""
    folder = ROOT / "build" / f"headers-{version}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            temporary = Path(name)
            other_torch.pip("download", version, "--dest", temporary, "--timeout", 30, "--retries", 2)
            with zipfile.ZipFile(next(temporary.glob("*.whl"))) as wheel:
                wheel.extractall(temporary, [file for file in wheel.namelist() if file.startswith("torch/include/")])
            (temporary / "torch").rename(folder)
    return folder


def commands(extensions: list[Extension], folder: Path, scratch: str) -> Iterator[list[str]]:
    """What checks each file that setup.py would compile; the file is the last argument."""
    for extension in extensions:
        flags = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in extension.define_macros]
        flags += [f"-I{include}".replace(INSTALLED, str(folder)) for include in extension.include_dirs]
        cxx = [os.environ.get("CXX", "c++"), *extension.extra_compile_args["cxx"], "-fsyntax-only"]
        nvcc = [f"{cpp_extension.CUDA_HOME}/bin/nvcc", *cpp_extension.COMMON_NVCC_FLAGS]
        nvcc += [flag for flag in extension.extra_compile_args.get("nvcc", []) if not flag.startswith("-gencode")]
        for source in extension.sources:
            if source.endswith(".cu"):
                yield [*nvcc, *flags, *HOST_PART, "-o", f"{scratch}/{Path(source).stem}.ii", source]
            else:
                yield [*cxx, *flags, source]


def compiles(command: list[str]) -> bool:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout, end="", flush=True)
    return result.returncode == 0


def main(versions: list[str]) -> int:
    os.chdir(ROOT)
    if shutil.which("nvcc"):
        os.environ.setdefault("TORCHLOSS_CUDA", "1")
    extensions = run_setup("setup.py", stop_after="init").ext_modules
    failed = False
    for version in versions:
        try:
            folder = headers(version)
        except SystemExit as error:
            print(f"{error}\nSKIPPED: the headers of torch {version} cannot be downloaded", flush=True)
            continue
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
            checks = list(commands(extensions, folder, scratch))
            bad = [check[-1] for check, good in zip(checks, pool.map(compiles, checks), strict=True) if not good]
        verdict = f"NOT {', '.join(bad)}" if bad else f"all {len(checks)} files compile"
        print(f"headers of torch {version}: {verdict}", flush=True)
        failed |= bool(bad)
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
