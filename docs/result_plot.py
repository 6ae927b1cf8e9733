"""Learning curves of an experiment as a picture of its own, which a browser shows inside a Markdown page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from kdcache.experiments.sweep_chart import SHEET, kind, means, palette, picture
from kdcache.pictures import svg

Json = dict[str, Any]
_ROW = 22
# Of what the pages' own style sheets say, the part that a picture outside a page needs.
_STYLE = """
svg { --ink: #1d2329; --soft: #5b6670; --rule: #dde1e4; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6e9eb; --soft: #9ba7b1; --rule: #3a434b; } }
text { fill: var(--soft); }
.label, .name { fill: var(--ink); }
.grid { stroke: var(--rule); }
.axis { stroke: var(--soft); }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""


def plot(content: Json) -> str:
    """The validation loss of each row over the steps, the mean of its seeds, with a legend below; SVG."""
    runs = content["results"]["runs"]
    curves = [(run["row"], _points(content["records"][run["folder"]])) for run in runs]
    lines = means(curves)
    height = SHEET.height + _ROW * len(lines)
    inside = str(picture(lines)).replace("<svg ", f'<svg width="{SHEET.width:g}" height="{SHEET.height:g}" ', 1)
    legend = []
    for number, line in enumerate(lines):
        y = SHEET.height + _ROW * (number + 0.5)
        place = {"x1": SHEET.left, "x2": SHEET.left + 32, "y1": y, "y2": y, "class": kind(number)}
        legend.append(svg.element("line", place) + svg.text(SHEET.left + 44, y + 4, line.row, "start", "name"))
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {SHEET.width:g} {height:g}"}
    style = svg.element("style", {}, Markup(palette() + _STYLE))  # noqa: S704 (style sheets of our own)
    return f"{svg.element('svg', box, svg.group([style, Markup(inside), *legend]))}\n"  # noqa: S704 (escaped before)


def _points(record: Json) -> dict[int, float]:
    return {int(step): float(value) for step, value in record["curves"]["valid_nll"]}
