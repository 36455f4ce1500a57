"""`python -m torchloss.bench`: the command `bench` for a machine that has torch and nothing else."""

import argparse
import sys
from pathlib import Path

from torchloss.arguments import Refusal
from torchloss.bench.command import Options, bench
from torchloss.bench.compare import compare


def options(arguments: list[str]) -> Options:
    """Those of `python -m torchloss bench`, which tells what they mean."""
    parser = argparse.ArgumentParser(prog="python -m torchloss.bench", description=__doc__)
    for name in ("set", "only", "device", "dtype", "direction", "threads", "rivals"):
        parser.add_argument(f"--{name}", default=getattr(Options, name))
    parser.add_argument("--quick", dest="set", action="store_const", const="quick")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    return Options(**vars(parser.parse_args(arguments)))


def compared(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m torchloss.bench compare")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--threshold", type=float, default=0.1)
    return compare(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["compare"]:
            sys.exit(compared(sys.argv[2:]))
        bench(options(sys.argv[1:]))
    except Refusal as refusal:
        print(f"torchloss: {refusal}", file=sys.stderr)
        sys.exit(2)
