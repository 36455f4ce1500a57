"""`python -m torchloss.bench`: the command `bench` for a machine that has torch and nothing else."""

import argparse
import sys
from pathlib import Path

from torchloss.arguments import Refusal
from torchloss.bench.report import Options, bench

parser = argparse.ArgumentParser(prog="python -m torchloss.bench", description=__doc__)
parser.add_argument("--device", default="all")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--json", type=Path)
try:
    bench(Options(**vars(parser.parse_args())))
except Refusal as refusal:
    print(f"torchloss: {refusal}", file=sys.stderr)
    sys.exit(2)
