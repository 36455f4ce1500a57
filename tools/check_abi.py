#!/usr/bin/env python3
"""Checks that built libraries ask for nothing but PyTorch's stable C ABI and the system's own libraries (Linux).

    tools/check_abi.py torchloss/_C.abi3.so [...]

An undefined symbol is fine if it is a C function of the stable ABI (aoti_torch_*, torch_*) or belongs to glibc,
libstdc++ or libgcc. The C++ classes of PyTorch (at::, c10::, torch::) and everything of Python are not: they change
from release to release. Prints the oldest system that will do (GLIBC, GLIBCXX ...); exits with 1 and the names of the
offending symbols if there are any.
"""

import re
import subprocess
import sys

# The libraries that every build of PyTorch has, and every Linux system. Not libcudart: it is linked statically.
LIBRARIES = re.compile(r"lib(torch|torch_cpu|c10|stdc\+\+|gcc_s|c|m|dl|rt|pthread)\.so[.\d]*|ld-linux[-\w]*\.so[.\d]*")
SYSTEM_VERSION = re.compile(r"(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)")
STABLE_ABI = re.compile(r"(aoti_torch|torch)_\w+")
PYTHON = re.compile(r"_?Py[A-Z_]\w*")
# The loader's hooks, all weak: absent ones are null.
WEAK_HOOKS = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize"}
# PyTorch's libraries contain, and export without a version, what they use of a newer libstdc++ than old systems have.
# The linker finds these symbols there first; a libstdc++ that is new enough (GCC 12's) has them too.
STANDARD_LIBRARY = re.compile(r"((vtable|VTT|typeinfo|typeinfo name) for )?std::(?!.*\b(at|c10|torch)::)")


def run(*command: str, text: str | None = None) -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"check_abi: {result.stderr.strip() or command}")
    return result.stdout


def demangled(names: list[str]) -> list[str]:
    return run("c++filt", text="\n".join(names)).splitlines()


def symbols(library: str, *options: str) -> list[tuple[str, str]]:
    """(name, version) of the dynamic symbols; the version is empty where there is none."""
    lines = run("nm", "-D", "--with-symbol-versions", *options, library).splitlines()
    return [(name, version.lstrip("@")) for name, _, version in (line.split()[-1].partition("@") for line in lines)]


def offences(library: str) -> list[str]:
    unversioned = [n for n, v in symbols(library, "--undefined-only") if not SYSTEM_VERSION.fullmatch(v)]
    unknown = [name for name in unversioned if not STABLE_ABI.fullmatch(name) and name not in WEAK_HOOKS]
    found = {name for name in demangled(unknown) if not STANDARD_LIBRARY.match(name)}
    found |= {name for name, _ in symbols(library) if PYTHON.fullmatch(name)}
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "--dynamic", "--wide", library))
    return sorted(found) + [f"the library {name}" for name in needed if not LIBRARIES.fullmatch(name)]


def oldest_system(library: str) -> str:
    """The newest version of each system library that is asked for, such as 'GLIBC 2.34, GLIBCXX 3.4.21'."""
    newest: dict[str, tuple[int, ...]] = {}
    for _, version in symbols(library, "--undefined-only"):
        if match := SYSTEM_VERSION.fullmatch(version):
            family, number = match[1], tuple(int(part) for part in match[2].split("."))
            newest[family] = max(newest.get(family, ()), number)
    return ", ".join(f"{family} {'.'.join(map(str, number))}" for family, number in sorted(newest.items()))


def main(libraries: list[str]) -> int:
    bad = 0
    for library in libraries:
        found = offences(library)
        bad += bool(found)
        verdict = f"NOT stable, {len(found)} offences" if found else "stable ABI only"
        print(f"{library}: {verdict}; needs {oldest_system(library)}")
        for name in found:
            print(f"    asks for {name}")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
