"""The command line: one function per command, listed in COMMANDS; what a command needs is imported when it runs."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from torchloss.arguments import Refusal

try:
    import typer
except ModuleNotFoundError:  # torchloss itself needs torch alone; main() says what to install
    typer = None


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong use."""
    require("typer", "rich")
    app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(overview)
    for command in COMMANDS:
        app.command()(command)
    benchmark = typer.Typer(invoke_without_command=True)
    benchmark.callback()(bench)
    benchmark.command()(compare)
    app.add_typer(benchmark, name="bench")
    try:
        app(prog_name="python -m torchloss")
    except Refusal as refusal:
        stop(str(refusal))


def overview() -> None:
    """Loss functions for PyTorch as fused kernels: try them on real data."""


def demo(
    out: Annotated[Path, typer.Option(help="Where the HTML report goes.")] = Path("torchloss-demo.html"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that this demo did not write.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps of everything: seconds, not minutes.")] = False,
    threads: Annotated[
        int,
        typer.Option(min=0, help="CPU threads for the cost of the loss alone; 0: PyTorch's choice. Training uses 1."),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers (timings aside).")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print every number as JSON instead of the table.")] = False,
) -> None:
    """Train real models with torch.nn's losses and with torchloss's, and write a report comparing them.

    Digits and English text that are already on this machine, no download; about two minutes on two cores.
    """
    require("rich", "matplotlib", "sklearn")
    from torchloss.lab import demo as lab

    lab.demo(lab.Options(out, force, quick, threads, seed, json))


def bench(
    context: typer.Context,
    set: Annotated[
        str, typer.Option(help="Which cases: quick, main, all, scaling; for GPUs grid, big, small.")
    ] = "main",
    quick: Annotated[bool, typer.Option("--quick", help="The same as --set quick: under a minute.")] = False,
    only: Annotated[str, typer.Option(help="Only cases whose name has this text, or matches it as a regex.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, or all: both, side by side, where there is a GPU.")] = "all",
    dtype: Annotated[str, typer.Option(help="float64, float32, bfloat16, float16, with commas; else the set's.")] = "",
    direction: Annotated[str, typer.Option(help="forward, both (with backward), or forward,both.")] = "",
    threads: Annotated[str, typer.Option(help="CPU threads, several with commas; 0: PyTorch's choice.")] = "",
    rivals: Annotated[
        str, typer.Option(help="Of torchloss, eager, compile, liger, quack, cce, apex, with commas; else the set's.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0, help="Time to spend on the rounds of each case.")] = 0.0,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file, too.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw them in this file, too.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no other case after so long; 0: run them all.")] = 0.0,
) -> None:
    """Time the losses against torch's and others'. Losing cases are printed too.

    `bench compare old.json new.json` tells what changed between two runs.
    """
    if context.invoked_subcommand:
        return
    from torchloss.bench import command

    chosen = "quick" if quick else set
    command.bench(command.Options(chosen, only, device, dtype, direction, threads, rivals, seconds, json, svg, minutes))


def compare(
    old: Annotated[Path, typer.Argument(help="What bench --json wrote.")],
    new: Annotated[Path, typer.Argument(help="And later.")],
    threshold: Annotated[float, typer.Option(min=0, help="The least change that counts: 0.1 is a tenth.")] = 0.1,
) -> None:
    """Compare two runs of bench. Exit code 1 if torchloss became slower somewhere."""
    from torchloss.bench import compare as comparison

    sys.exit(comparison.compare(old, new, threshold))


def check(
    target: Annotated[str, typer.Argument(help="The loss, as module:function or module:Class.")],
    like: Annotated[str, typer.Option(help="The loss that it should be, by its name in torchloss.functional.")],
    device: Annotated[str, typer.Option(help="Where the inputs lie: cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="The dtypes that it takes, with commas.")
    ] = "float64,float32,bfloat16,float16",
    only: Annotated[str, typer.Option(help="Checks, or groups of them, with commas.")] = "",
    slow: Annotated[bool, typer.Option("--slow", help="Also those that start a C++ compiler.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this file, too.")] = None,
) -> None:
    """Put your own loss to the tests of torchloss's. Exit code 1 if one failed, each shown as a script."""
    require("rich")
    from torchloss.testing import command

    sys.exit(not command.check(command.Options(target, like, device, dtype, only, slow, json)))


COMMANDS = (demo, check)


def require(*modules: str) -> None:
    """Stop with one line if a package of the extra is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        stop(f'{" and ".join(missing)} not installed here; the command line needs: pip install "torchloss[demo]"')


def stop(reason: str) -> None:
    """Say why nothing was done, in one line, and exit with 2."""
    sys.stderr.write(f"torchloss: {reason}\n")
    sys.exit(2)
