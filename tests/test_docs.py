"""What the documents say of the code, against the code."""

import ast
import re
from pathlib import Path

import torchloss
from torchloss.testing import CHECKS

ROOT = Path(__file__).parent.parent


def contributing_diffs():
    """The diffs of CONTRIBUTING.md: the hunks of each file."""
    for diff in re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S):
        parts = re.split(r"^--- .*\n\+\+\+ (.*)\n", diff, flags=re.M)[1:]
        yield {file: change.removeprefix("@@\n").split("@@\n") for file, change in zip(*[iter(parts)] * 2, strict=True)}


def side(hunk, other):
    """The lines of a hunk before or after the change: those that `other` does not begin."""
    return "".join(line[1:] + "\n" for line in hunk.splitlines() if line[:1] != other)


def test_contributing_shows_the_lines_that_are_there():
    """The lines of every diff stand in their file, in the same order; what they replace does not."""
    loss, option = contributing_diffs()
    assert len(loss) == 9 and len(option) == 4
    for file, hunks in [*loss.items(), *option.items()]:
        text, at = (ROOT / file).read_text(), 0
        for hunk in hunks:
            before, after = side(hunk, "+"), side(hunk, "-")
            at = text.find(after, at)
            assert at >= 0, f"CONTRIBUTING.md shows other lines than {file} has:\n{after}"
            at += 1
            gone, new = ({line[1:] for line in hunk.splitlines() if line[:1] == sign} for sign in "-+")
            assert not gone & new, f"CONTRIBUTING.md replaces a line of {file} by itself"
            assert not gone or before not in text, f"{file} still has what is replaced:\n{before}"


def test_contributing_shows_every_line_of_smooth_l1():
    """In the sources, but for what tests and times it."""
    loss, _ = contributing_diffs()
    for path in sorted([*ROOT.glob("csrc/**/*.[hc]*"), *ROOT.glob("torchloss/**/*.py")]):
        file = path.relative_to(ROOT).as_posix()
        if not re.match(r"torchloss/(bench|testing/(?!losses))", file):
            shown = [line for hunk in loss.get(file, ()) for line in side(hunk, "-").splitlines()]
            there = [line for line in path.read_text().splitlines() if re.search("smooth_?l1", line, re.I)]
            assert set(there) <= set(shown), file


def test_readme_lists_every_loss():
    readme = (ROOT / "README.md").read_text()
    for name in torchloss.functional.__all__:
        assert f"`{name}`" in readme, f"the README's table lacks {name}"
    for path in re.findall(r"\]\((csrc/[^)]+|torchloss/[^)]+|[A-Z]+\.md)\)", readme):
        assert (ROOT / path).exists(), path


def test_readme_example(capsys):
    """The first code block runs and prints what its comment says."""
    (code, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(code, {})
    printed = capsys.readouterr().out
    assert "1.87" in printed and "e-13" in printed and "9.357" in printed


def test_examples_of_the_options(capsys):
    """The page's code runs from top to bottom and prints what its comments say."""
    code = "".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "options.md").read_text(), re.S))
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", code, re.M)


# docs/failures.md. A test is (file, function) or, where one function runs many checks, (file, key of its FAILURES).

NAMED = re.compile(r"`(tests/\w+\.py)::(\w+)`(?:\s+\[([^\]]+)\])?")


def failures_on_the_page():
    """The tests by number, and every (file, function) that is named."""
    page = (ROOT / "docs" / "failures.md").read_text()
    items = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^## |\Z)", page, re.M | re.S)
    assert [int(number) for number, _ in items] == list(range(1, 98))
    numbers, functions = {}, set()
    for number, text in items:
        found = NAMED.findall(text)
        assert text.count("tests/") == len(found), f"{number}: a test is named in another way"
        assert bool(found) == ("Tests:" in text) == ("Cannot occur: " not in text), number
        for file, function, keys in found:
            functions.add((file, function))
            for key in re.split(r",\s+", keys) if keys else [function]:
                numbers.setdefault((file, key), set()).add(int(number))
    return numbers, functions


def marked_failures():
    """The numbers that tests carry, and every (file, function) that there is; read, not imported."""
    numbers, functions = {}, set()
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        file = f"tests/{path.name}"
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FAILURES":
                numbers |= {(file, key): set(value) for key, value in ast.literal_eval(node.value).items()}
            if isinstance(node, ast.FunctionDef):
                functions.add((file, node.name))
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) in ("failure", "pytest.mark.failure"):
                        numbers[file, node.name] = {ast.literal_eval(a) for a in mark.args}
    return numbers, functions


def test_failures_are_those_that_tests_are_marked_with():
    """Every number has its tests or a reason, every test that is named is there, and each side names the other."""
    (page, named), (marks, there) = failures_on_the_page(), marked_failures()
    assert not named - there, f"no such tests: {sorted(named - there)}"
    wrong = {test for test in page.keys() | marks.keys() if page.get(test) != marks.get(test)}
    assert not wrong, [(test, "page:", page.get(test), "marked:", marks.get(test)) for test in wrong]


def test_failures_name_checks_that_there_are():
    marks, functions = marked_failures()
    assert functions >= {t for t in marks if t[0] != "tests/test_conformance.py"}
    assert set(CHECKS) >= {name for file, name in marks if file == "tests/test_conformance.py"}


def test_conformance_shows_every_check_and_no_failure_of_torchloss():
    """`make docs` writes the page."""
    page = (ROOT / "docs" / "conformance.md").read_text()
    for check in CHECKS.values():
        assert check.slow or f"| {check.promise} |" in page, check.name
    assert "What failed: torchloss" not in page and "### What failed: torch `F.cross_entropy`" in page
    groups = (ROOT / "docs" / "check.md").read_text()
    assert all(f"| {check.group} |" in groups for check in CHECKS.values())
