"""The HTML report: one file that loads nothing from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from torchloss.lab.summary import Row, Setting

SIGNATURE = "<!doctype html>\n<!-- report of: python -m torchloss demo -->\n"
STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6775; --line: #dde3ea; --pale: #f4f7fa; --blue: #0072b2; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.2rem 4rem; max-width: 62rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif;
}
h1 { font-size: 1.9rem; margin: .4em 0 .1em; line-height: 1.2; }
h2 { font-size: 1.3rem; margin: 2.6em 0 .4em; padding-top: .6em; border-top: 2px solid var(--line); }
p { max-width: 46rem; }
.lead { font-size: 1.1rem; color: var(--soft); }
.scroll { overflow-x: auto; }
figure { margin: 1.2em 0; }
figure img { display: block; width: 100%; min-width: 38rem; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; }
.formula {
  background: var(--pale); border-left: 4px solid var(--blue); padding: .5em .9em; overflow-x: auto;
  white-space: nowrap; font: 1.05rem/1.7 Georgia, "DejaVu Serif", serif;
}
.found { background: #f2f8f2; border-left: 4px solid #009e73; padding: .5em 1em .5em 2em; max-width: 46rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32em 1.1em .32em 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.part, .verdict { font-weight: 600; white-space: nowrap; }
tr.first td { border-top: 2px solid var(--line); }
code, pre { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { background: var(--pale); padding: .8em 1em; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1em 1.2em; font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .5em; }
}
"""


@dataclass
class Section:
    """A piece of the report; `text`, `formula` and `after` are HTML, `found` are plain sentences."""

    title: str
    text: str
    formula: str = ""
    figures: list[tuple[str, str, str]] = field(default_factory=list)  # data URI, what it shows, caption
    found: list[str] = field(default_factory=list)
    after: str = ""


def page(setting: Setting, lead: list[str], rows: list[Row], sections: Iterable[Section]) -> str:
    """The whole report."""
    body = "\n".join(section_html(section) for section in sections)
    quick = (
        "<p><strong>A quick run: a few steps of everything, too few to conclude from.</strong></p>"
        if setting.quick
        else ""
    )
    return f"""{SIGNATURE}<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>torchloss demo</title><style>{STYLE}</style></head><body>
<h1>torchloss against torch.nn, on real data</h1>
<p class="lead">The same models, weights and batches, once with PyTorch's losses and once with torchloss's.</p>{quick}
{bullets(lead)}
<h2>How it was run</h2>{setting_html(setting)}
<h2>The numbers in brief</h2>{table_html(rows)}
{body}
</body></html>
"""


def section_html(section: Section) -> str:
    """Heading, explanation, formula, figures, findings."""
    formula = f'<p class="formula">{section.formula}</p>' if section.formula else ""
    figures = "".join(
        f'<figure><div class="scroll"><img src="{source}" alt="{escape(shows)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for source, shows, caption in section.figures
    )
    opening = f"<h2>{escape(section.title)}</h2>\n<p>{section.text}</p>{formula}"
    return f"{opening}{figures}{bullets(section.found)}{section.after}"


def bullets(sentences: list[str]) -> str:
    """Findings as a list."""
    return f'<ul class="found">{"".join(f"<li>{escape(s)}</li>" for s in sentences)}</ul>' if sentences else ""


def setting_html(setting: Setting) -> str:
    """Command, seed, machine, versions."""
    items = {
        "command": f"<code>{escape(setting.command)}</code>",
        "seed": f"{setting.seed}",
        "threads": f"1 to train, {setting.threads} for the cost of the loss alone",
        "processor": escape(setting.cpu) + "; no GPU was used",
        "versions": escape(", ".join(f"{name} {number}" for name, number in setting.versions.items())),
        "date, duration": f"{escape(setting.date)}, {setting.seconds:.0f} s",
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in items.items())}</dl>"


def table_html(rows: list[Row]) -> str:
    """The table that the terminal shows."""
    lines, part = [], None
    for row in rows:
        first, part = row.part != part, row.part
        opening = f'<tr class="first"><td class="part">{escape(part)}' if first else "<tr><td>"
        numbers = "".join(f'<td class="n">{escape(number)}</td>' for number in (row.torch, row.ours))
        lines.append(f"{opening}</td><td>{escape(row.quantity)}</td>{numbers}<td>{escape(row.relation)}</td></tr>")
    head = '<tr><th></th><th></th><th class="n">torch.nn</th><th class="n">torchloss</th><th>compared</th></tr>'
    return f'<div class="scroll"><table id="numbers">{head}{"".join(lines)}</table></div>'


def foreign(path: Path) -> bool:
    """Whether there is something at that path that this demo did not write."""
    if not path.exists():
        return False
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) != SIGNATURE.encode()


def beside(path: Path) -> Path:
    """A name of our own in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def writable(path: Path) -> bool:
    """Whether a file can be made there, found out by making one."""
    try:
        beside(path).touch()
        beside(path).unlink()
    except OSError:
        return False
    return True


def write(path: Path, html: str) -> None:
    """All or nothing: a half-written report never replaces an old one."""
    part = beside(path)
    try:
        part.write_text(html, encoding="utf-8", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
