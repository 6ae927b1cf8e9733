"""A sweep as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence

from kdcache.progress import duration
from kdcache.sweep.chart import legend, mean_lines, svg
from kdcache.sweep.folders import Student
from kdcache.sweep.results import Outcome
from kdcache.sweep.table import EMPTY, Report, contrast_cells, notes, value_cells

# Okabe and Ito's palette, which is told apart with every kind of colour vision; what is too dark or too light for
# one of the two backgrounds is replaced there.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b0558f", "#b97f00", "#2f8fc4", "#000000", "#8a7500")
_DARK = ("#4aa8e0", "#f0803c", "#2fc79b", "#e09cc4", "#e6b040", "#8fd0f5", "#ffffff", "#d9c840")


def _colours(colours: Sequence[str]) -> str:
    return "".join(f"--c{number}:{colour};" for number, colour in enumerate(colours))


_STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--paper:#fff;--faint:#6a6a6a;--rule:#dcdcdc;--code:#f4f4f4}
@media (prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#161616;--faint:#a0a0a0;--rule:#3a3a3a;--code:#232323}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:1.5rem 1rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;overflow-wrap:anywhere} h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.35rem .8rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr.baseline td{font-weight:600}
p.note{color:var(--faint);font-size:.85rem;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--faint);font-size:12px}
svg polyline,svg.key path{fill:none;stroke-width:2}
.grid{stroke:var(--rule)}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.5rem;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:.5rem;overflow-wrap:anywhere}
svg.key{width:2rem;flex:none}
@media (max-width:40rem){svg text{font-size:20px}}
details{border-bottom:1px solid var(--rule);padding:.4rem 0}
summary{cursor:pointer;overflow-wrap:anywhere}
pre{background:var(--code);padding:.6rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}
"""


def _style() -> str:
    light, dark = (":root{" + _colours(colours) + "}" for colours in (_LIGHT, _DARK))
    lines = "".join(f".c{number}{{stroke:var(--c{number})}}" for number in range(len(_LIGHT)))
    return f"{_STYLE}{light}@media (prefers-color-scheme:dark){{{dark}}}{lines}"


def page(report: Report, students: Sequence[Student], outcomes: Sequence[Outcome], others: int) -> str:
    """Tables, learning curves, and each run with the command that repeats it."""
    title = html.escape(report.title)
    finished = {one.student.run.name: one for one in outcomes}
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{title}</title><style>{_style()}</style></head><body>",
        f"<h1>{title}</h1><p>{len(outcomes)} of {len(students)} runs are finished.</p>",
        _table(value_cells(report), report.baseline),
    ]
    if report.contrasts:
        parts.append(f"<h2>Against {html.escape(str(report.baseline))}</h2>{_table(contrast_cells(report), None)}")
    parts.extend(f'<p class="note">{html.escape(note)}</p>' for note in notes(report))
    parts.append(_curves(students))
    parts.append("<h2>Runs</h2>")
    parts.append(
        '<p class="note">Each command is run in the folder of the sweep\'s file. Its record (run.json), curves and '
        "weights are in its folder; what it wrote for the test texts and its scores lie beside that.</p>"
    )
    parts.extend(_run(student, finished.get(student.run.name)) for student in students)
    if others:
        parts.append(f'<p class="note">{others} more runs in this folder are not listed in the file.</p>')
    return "\n".join([*parts, "</body></html>", ""])


def _table(rows: Sequence[Sequence[str]], marked: str | None) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in rows[0])
    lines = []
    for row in rows[1:]:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="baseline">{cells}</tr>' if row[0] == marked else f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _curves(students: Sequence[Student]) -> str:
    lines = mean_lines(students)
    if not lines:
        return ""
    return (
        "<h2>Validation loss</h2>"
        f"{svg(lines)}{legend(lines)}"
        '<p class="note">Nats a target, mean over seeds. The height is that of the values after the first quarter of '
        "the steps; earlier ones may lie above it.</p>"
    )


def _run(student: Student, outcome: Outcome | None) -> str:
    run = student.run
    if outcome is None:
        facts = "not finished"
    else:
        steps = ", ".join(f"{step:,}" for step in outcome.exported_steps)
        facts = f"step {steps}, trained for {duration(outcome.seconds)}, weights {outcome.weights[:12]}"
    command = shlex.join(["kdcache", *student.arguments])
    folder = EMPTY if student.folder.name == run.name else student.folder.name
    elsewhere = "" if folder == EMPTY else f" (in {html.escape(folder)})"
    return (
        f"<details><summary>{html.escape(run.name)}{elsewhere}: {html.escape(facts)}</summary>"
        f"<pre>{html.escape(command)}</pre></details>"
    )
