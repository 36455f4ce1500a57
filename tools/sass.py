"""What the compiler made of the CUDA kernels: registers, spills, and the instructions of the loops that move memory.

    nvcc -cubin -arch=sm_90 ... -o softmax.cubin csrc/cuda/softmax.cu       (flags: setup.py, and PyTorch's includes)
    python tools/sass.py softmax.cubin [part of a kernel's name]

Needs cuobjdump and c++filt; CUOBJDUMP names another. For each innermost loop that moves 16 bytes at a time, the ways
through it, those that move most first: with every optional stream, then without. Of the ways that move equally much the
one of the fewest instructions, which leaves out what rarely happens (a new maximum); how many of them the special
function unit does; bytes read and written.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

Code = list[tuple[int, str]]  # address, instruction
WIDE = re.compile(r"^(@!?U?P\w+ +)?(LDS|LDG|STG)\b\S*\.128")


def run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def kernels(cubin: str) -> Iterator[tuple[str, str, Code]]:
    """Name, resources and code of each."""
    cuobjdump = os.environ.get("CUOBJDUMP", "cuobjdump")
    used = dict(re.findall(r"Function (\S+):\n\s*(.*)", run(cuobjdump, "-res-usage", cubin)))
    for part in run(cuobjdump, "-sass", cubin).split("Function : ")[1:]:
        name = part.split("\n", 1)[0].strip()
        code = [(int(a, 16), i.strip()) for a, i in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", part)]
        yield run("c++filt", text=name).strip(), used.get(name, ""), code


def target(instruction: str) -> int | None:
    found = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", instruction)
    return int(found[1], 16) if found else None


def usual_turns(code: Code) -> Iterator[list[str]]:
    """The instructions of the ways from the first to the last: of those that move equally much, the shortest."""
    place = {address: i for i, (address, _) in enumerate(code)}
    # For each instruction, by how much was moved on the way to it.
    best: dict[int, dict[int, list[int]]] = {0: {bool(WIDE.match(code[0][1])): [0]}}
    for i, (_, instruction) in enumerate(code[:-1]):
        jump = place.get(target(instruction) or -1, -1)
        always = re.match(r"(BRA|EXIT)\b", instruction)
        for after in ([] if always else [i + 1]) + ([jump] if jump > i else []):
            moves, ways = bool(WIDE.match(code[after][1])), best.setdefault(after, {})
            for moved, way in best.get(i, {}).items():
                if len(way) + 1 < len(ways.get(moved + moves, code * 2)):
                    ways[moved + moves] = [*way, after]
    yield from ([code[i][1] for i in way] for _, way in sorted(best.get(len(code) - 1, {}).items(), reverse=True))


def loops(code: Code) -> Iterator[list[str]]:
    """Those that move 16 bytes at a time and hold no other such loop."""
    place = {address: i for i, (address, _) in enumerate(code)}
    spans = [(place[t], i) for i, (a, text) in enumerate(code) if (t := target(text)) in place and t < a]
    wide = [(a, b) for a, b in spans if any(WIDE.match(text) for _, text in code[a : b + 1])]
    for a, b in wide:
        if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in wide):
            turns = list(usual_turns(code[a : b + 1]))
            yield from (turn for turn in turns if moved(turn, "STG") == moved(turns[0], "STG"))


def moved(turn: list[str], *kinds: str) -> int:
    return 16 * sum(bool(found := WIDE.match(text)) and found[2] in kinds for text in turn)


def main(cubin: str, part: str = "") -> None:
    for name, used, code in kernels(cubin):
        if part not in name:
            continue
        registers, stack = (re.search(rf"{field}:(\d+)", used) for field in ("REG", "STACK"))
        spills = sum(bool(re.search(r"\b(LDL|STL)\b", text)) for _, text in code)
        print(name.replace("torchloss::", "").split("(")[0])
        print(f"  registers {registers and registers[1]}, stack {stack and stack[1]}, spill instructions {spills}")
        for turn in loops(code):
            special = sum("MUFU" in text for text in turn)
            read, written = moved(turn, "LDS", "LDG"), moved(turn, "STG")
            if read:
                print(f"  turn of {len(turn)} instructions, {special} special, {read} bytes read, {written} written")


if __name__ == "__main__":
    main(*sys.argv[1:])
