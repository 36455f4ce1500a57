"""What the documents say of the code, against the code."""

import re
from pathlib import Path

import torchloss

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
