#!/usr/bin/env python3
"""Makes another PyTorch release importable for CPU work, without a GPU and without its gigabytes of CUDA packages.

    tools/other_torch.py 2.11.0 build/torch-2.11.0
    . build/torch-2.11.0/env.sh && python tests/smoke.py

Downloads the wheel of torch alone (half a gigabyte; unpacked 1.2) into the folder, and puts stub libraries beside it,
with the names, symbols and versions that it wants of cuBLAS, cuDNN, NCCL and so on. A CPU program calls next to none of
them, and those few are told that there is no GPU. What else torch imports (sympy, networkx, jinja2 ...) comes from the
environment this runs in. Needs gcc.
"""

import argparse
import collections
import re
import subprocess
import sys
from pathlib import Path

# What of CUDA the wheel's libraries are linked to: the library's name, and how its symbols begin.
STUBBED = {
    "cudart": "(__)?cuda[A-Z]",
    "cupti": "cupti",
    "cublas": "cublas(?!Lt)",
    "cublasLt": "cublasLt",
    "cudnn": "cudnn",
    "cufft": "cufft",
    "cufile": "cuFile",
    "curand": "curand",
    "cusolver": "cusolver",
    "cusparse": "cusparse(?!Lt)",
    "cusparseLt": "cusparseLt",
    "nccl": "p?nccl",
    "nvrtc": "nvrtc",
    "nvshmem_host": "nvshmem",
}
NO_DEVICE = 100  # cudaErrorNoDevice; in every other library, too, a result that is not 0 is a failure


def run(*command: object) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"other_torch: {' '.join(map(str, command))}\n{result.stderr or result.stdout}")
    return result.stdout


def pip(command: str, version: str, *options: object) -> None:
    # Three equal signs: the release as it is named, not a CPU build "+cpu" that pip may also be offered.
    run(sys.executable, "-m", "pip", command, "-q", "--no-deps", *options, f"torch==={version}")


def download(version: str, folder: Path) -> None:
    if not (folder / "torch" / "version.py").exists():
        pip("install", version, "--target", folder)


def wanted_symbols(libraries: list[Path]) -> dict[str, set[str]]:
    """Undefined symbols by their version, which is empty for most."""
    wanted = collections.defaultdict(set)
    for library in libraries:
        for line in run("nm", "-D", "--undefined-only", library).splitlines():
            name, _, version = line.split()[-1].partition("@")
            wanted[version.lstrip("@")].add(name)
    return wanted


def stub_function(name: str) -> str:
    if name in ("cudaGetErrorString", "cudaGetErrorName"):
        return f'const char* {name}(void) {{ return "no GPU: a stub of CUDA"; }}\n'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}\n"


def write_stub(soname: str, symbols: str, wanted: dict[str, set[str]], folder: Path) -> None:
    """A shared library with this soname and every wanted symbol that matches, under the version it is wanted in."""
    names: set[str] = set()
    versions = []
    for version, candidates in wanted.items():
        mine = sorted(name for name in candidates if re.match(symbols, name))
        names.update(mine)
        if version and mine:
            versions.append(f"{version} {{ global: {' '.join(f'{name};' for name in mine)} }};\n")
    source, script = folder / f"{soname}.c", folder / f"{soname}.map"
    source.write_text("".join(map(stub_function, sorted(names))))
    script.write_text("".join(versions))
    flags = [f"-Wl,--version-script,{script}"] if versions else []
    run("gcc", "-shared", "-fPIC", "-w", source, f"-Wl,-soname,{soname}", *flags, "-o", folder / soname)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="a release of torch, such as 2.11.0")
    parser.add_argument("folder", type=Path, help="where to unpack it; kept and used again")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    stubs = folder / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)

    download(arguments.version, folder)
    libraries = sorted((folder / "torch" / "lib").glob("*.so"))
    needed = {name for lib in libraries for name in re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-dW", lib))}
    wanted = wanted_symbols(libraries)
    for soname in sorted(needed):
        stem = soname.removeprefix("lib").partition(".so")[0]
        if stem in STUBBED:
            write_stub(soname, STUBBED[stem], wanted, stubs)
    (folder / "env.sh").write_text(
        f'export PYTHONPATH="{folder}${{PYTHONPATH:+:$PYTHONPATH}}"\n'
        f'export LD_LIBRARY_PATH="{stubs}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"\n'
    )
    print(f"torch {arguments.version}: . {folder}/env.sh")


if __name__ == "__main__":
    main()
