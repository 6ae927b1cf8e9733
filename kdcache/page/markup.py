"""HTML from parts: everything that comes from a text or a file is escaped here."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdcache.cache.statistics import LEVELS

# Not characters of HTML: a parser reports them as errors, or replaces them in its own way.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
# These could end the element that holds the JSON, or open a comment in it.
_JSON_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

# What the page calls the groups of `kdcache.cache.statistics.LEVELS`.
LEVEL_NAMES = (
    f"at least {100 * LEVELS[0]:g} %",
    *(f"{100 * low:g} to {100 * high:g} %" for high, low in itertools.pairwise(LEVELS)),
    f"below {100 * LEVELS[-1]:g} %",
)


def escape(text: str) -> str:
    """Text as HTML, for the inside of elements and of quoted attributes; control characters become U+FFFD."""
    return html.escape(_CONTROLS.sub("\ufffd", text))


def tag(name: str, attributes: Mapping[str, object], content: str = "") -> str:
    """An element; attributes are escaped, `content` is HTML already."""
    written = "".join(f' {key}="{escape(str(value))}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def embedded_json(value: Any) -> str:
    """JSON that can stand inside a `script` element: ASCII, without a character that means something in HTML."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_JSON_ESCAPES)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in a box of its own to scroll in; the first column names the row."""
    head = "".join(tag("th", {"scope": "col"}, escape(cell)) for cell in header)
    body = "".join(
        tag("tr", {}, tag("th", {"scope": "row"}, escape(row[0])) + "".join(tag("td", {}, escape(c)) for c in row[1:]))
        for row in rows
    )
    # In the order of the keys, so that a box that overflows can be scrolled without a mouse.
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}
    return tag("div", box, tag("table", {}, tag("thead", {}, tag("tr", {}, head)) + tag("tbody", {}, body)))


def percent(share: float, digits: int = 1) -> str:
    """A share as people read it."""
    return f"{100 * share:.{digits}f} %"
