"""Tables and facts as plain text, tables in Markdown, and numbers as people read them."""

import html
from collections.abc import Sequence

_NOTATION = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_|[]~"})


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns: the first to the left, the others to the right; the first row is the head."""
    return _layout(rows, "simple", "right")


def markdown_table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """A table of cells that are Markdown already; the first row is its head. Numbers stand right, but for the first."""
    return _layout(rows, "pipe", "right" if numbers else "left")


def _layout(rows: Sequence[Sequence[str]], notation: str, others: str) -> str:
    align = ["left", *[others] * (len(rows[0]) - 1)]
    return _tabulate(rows[1:], rows[0], notation, align if rows[1:] else None)


def _tabulate(
    rows: Sequence[Sequence[str]], head: Sequence[str], notation: str, align: Sequence[str] | None = None
) -> str:
    # Not at the top: `kdcache --help` needs no table.
    from tabulate import tabulate

    text = tabulate(rows, head, notation, disable_numparse=True, colalign=align)
    return "\n".join(line.rstrip() for line in text.splitlines())


def facts(items: Sequence[tuple[str, str]]) -> str:
    """Lay out names and values, one a line."""
    return _tabulate(items, (), "plain")


def escape(text: str) -> str:
    """Text on one line in which no reader of Markdown sees notation, nor HTML."""
    return html.escape(" ".join(text.split()), quote=False).translate(_NOTATION)


def count(number: int, unit: str) -> str:
    """A number of units, each called `unit`: `1 shard`, `1,200 shards`."""
    return f"{number:,} {unit if number == 1 else f'{unit}s'}"


def size(count: float) -> str:
    """A number of bytes as people read it: `812 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
