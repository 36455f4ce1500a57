"""Bugs that losses have had, each as a change of a line or three in a stand-in: what the tests must not let live.

They stand in the files *.diff, named after the loss whose stand-in they change:

    @@ name (the report of such a bug: repository#number): what goes wrong -> the check that finds it
    -lines of the stand-in, which occur once
    +what they become
"""

import linecache
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

FOLDER = Path(__file__).parent
STAND_INS = {"cross_entropy": "stand_in.py", "huber_loss": "stand_in_huber.py"}


class Bug(NamedTuple):
    name: str
    like: str  # the loss
    precedent: str
    old: str
    new: str
    what: str  # goes wrong
    check: str  # of the conformance kit, which finds it

    def __str__(self) -> str:
        return f"{self.like}: {self.name}"


def read(file: Path) -> Iterator[Bug]:
    _, *hunks = file.read_text().split("\n@@ ")
    for hunk in hunks:
        head, *lines = hunk.rstrip("\n").split("\n")
        name, precedent, what, check = re.fullmatch(r"(.+?) \(([^()]+)\): (.+) -> (\w+)", head).groups()
        old, new = ("\n".join(line[1:] for line in lines if line[:1] != other) for other in "+-")
        yield Bug(name, file.stem.split("-")[0], precedent, old, new, what, check)


BUGS = [bug for file in sorted(FOLDER.glob("*.diff")) for bug in read(file)]


def mutant(bug: Bug) -> Callable:
    """The stand-in with the bug in it."""
    text, name = (FOLDER / STAND_INS[bug.like]).read_text(), re.sub(r"\W+", "_", f"mutant_{bug}")
    if text.count(f"\n{bug.old}\n") != 1:
        raise ValueError(f"{bug}: {text.count(bug.old)} places to put it")
    text = text.replace(f"\n{bug.old}\n", f"\n{bug.new}\n")
    module = ModuleType(f"{__package__}.{name}")
    module.__package__, module.__file__ = __package__, f"<{name}>"
    sys.modules[module.__name__] = module  # where torch.compile looks for it
    linecache.cache[module.__file__] = (len(text), None, text.splitlines(True), module.__file__)
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return getattr(module, bug.like)
