"""docs/what-works-where.md is up to date in its rows, and the tool that writes it tells outcomes apart."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("what_works_where", ROOT / "tools" / "what_works_where.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_lists_every_capability(shown_capabilities):
    """Every capability of the tests that were collected."""
    page = (ROOT / "docs" / "what-works-where.md").read_text()
    missing = [name for name in sorted(shown_capabilities) if f"\n| {name} |" not in page]
    assert not missing, f"`make docs` would add {missing}"


REPORT = """<testsuites><testsuite>
<testcase name="a"><properties>P<property name="loss" value="softmax"/></properties></testcase>
<testcase name="b"><properties>P<property name="loss" value="huber_loss"/></properties><failure/></testcase>
<testcase name="c"><properties>P<property name="loss" value="huber_loss"/></properties></testcase>
<testcase name="d"><properties>P<property name="loss" value="nll_loss"/></properties><skipped message="why"/></testcase>
<testcase name="e"><properties>P<property name="loss" value="l1_loss"/></properties></testcase>
<testcase name="f"><properties>P<property name="loss" value="l1_loss"/></properties><skipped message="why"/></testcase>
<testcase name="other"/>
</testsuite></testsuites>
""".replace("P", '<property name="capability" value="vmap"/><property name="device" value="cpu"/>')


def test_outcomes(tool, tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert tool.count(report) == {"passed": 3, "failed": 1, "skipped": 2}
    row = tool.read(report)["cpu"]["vmap"]
    cells = {column: tool.cell(row[column], []) for column in tool.COLUMNS}
    assert {k: v for k, v in cells.items() if v} == {
        "softmax": "yes",
        "huber_loss": "**no**",
        "nll_loss": "not run [1]",
        "others": "yes [1]",
    }
    text = tool.page(tool.read(report), tool.count(report))
    assert "1 failed" in text and "1. why" in text and str(ROOT) not in text
