"""What the documents say of the code, against the code."""

import ast
import re
from pathlib import Path

import torchloss
from torchloss.testing import CHECKS

ROOT = Path(__file__).parent.parent


def test_contributing_shows_the_lines_that_are_there():
    """Every added line of the diff stands in its file, in the same order."""
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    parts = re.split(r"^--- .*\n\+\+\+ (.*)\n", diff, flags=re.M)[1:]
    shown = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(shown) >= 8
    for name, change in shown.items():
        text = (ROOT / name).read_text()
        for hunk in change.split("@@\n"):
            now = "".join(line[1:] + "\n" for line in hunk.splitlines() if line[:1] != "-")
            assert now in text, f"CONTRIBUTING.md shows other lines than {name} has"


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


# docs/failures.md. A test is (file, function) or, where one function runs many checks, (file, key of its FAILURES).

NAMED = re.compile(r"`(tests/\w+\.py)::(\w+)`(?:\s+\[([^\]]+)\])?")


def failures_on_the_page():
    """The tests by number, and every (file, function) that is named."""
    page = (ROOT / "docs" / "failures.md").read_text()
    items = re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |^## |\Z)", page, re.M | re.S)
    assert [int(number) for number, _ in items] == list(range(1, 96))
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
