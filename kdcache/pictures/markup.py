"""HTML from parts, up to the whole page: everything that comes from a text or a file is escaped here."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import kdcache

# Not characters of HTML: a parser reports them as errors, or replaces them in its own way.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
# These could end the element that holds the JSON, or open a comment in it.
_JSON_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


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


def table(header: Sequence[str], rows: Sequence[Sequence[str]], marked: str | None = None) -> str:
    """A table in a box of its own to scroll in; the first column names the row, and the row `marked` stands out."""
    head = "".join(tag("th", {"scope": "col"}, escape(cell)) for cell in header)
    body = "".join(_row(row, {"class": "marked"} if row[0] == marked else {}) for row in rows)
    # In the order of the keys, so that a box that overflows can be scrolled without a mouse.
    box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}
    return tag("div", box, tag("table", {}, tag("thead", {}, tag("tr", {}, head)) + tag("tbody", {}, body)))


def _row(row: Sequence[str], attributes: Mapping[str, object]) -> str:
    cells = "".join(tag("td", {}, escape(cell)) for cell in row[1:])
    return tag("tr", attributes, tag("th", {"scope": "row"}, escape(row[0])) + cells)


def section(title: str, content: str) -> str:
    """A part of a page under its heading; `content` is HTML already."""
    return tag("section", {}, tag("h2", {}, escape(title)) + content)


def resource(package: str, name: str) -> str:
    """A text that lies among the modules of a package."""
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def generator(command: str) -> str:
    """What stands in every page that a command of kdcache wrote, and in no other."""
    return f'<meta name="generator" content="kdcache {command} '


def document(title: str, command: str, style: str, body: str, script: str = "") -> str:
    """A page that needs nothing beside itself; its policy lets act only what is handed over here.

    Args:
        title: text.
        command: which writes the page.
        style: its own style sheet, which goes on from that of all pages.
        body: HTML.
        script: code, run when the body is there.
    """
    style = resource("kdcache.pictures", "style.css") + style
    acting = f"script-src '{_digest(script)}'; " if script else ""
    policy = f"default-src 'none'; style-src '{_digest(style)}'; {acting}base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'{generator(command)}{escape(kdcache.__version__)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
