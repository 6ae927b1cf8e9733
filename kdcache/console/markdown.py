"""Tables and text in Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence

_NOTATION = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_|[]~"})


def table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A table of cells that are Markdown already; the first row is its head. Numbers stand right, but for the first."""
    rule = ["---", *["---:" if numbers else "---"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def escape(text: str) -> str:
    """Text on one line in which no reader of Markdown sees notation, nor HTML."""
    return html.escape(" ".join(text.split()), quote=False).translate(_NOTATION)
