"""Several results of `kdcache score --json` as one table, in Markdown or in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.console.tables import escape, markdown_table
from kdcache.errors import DataError
from kdcache.scoring.score_config import LESS_IS_BETTER, SCORES
from kdcache.scoring.score_corpus import Score
from kdcache.scoring.score_file import ScoreFile, read_scores

LEVELS = ((0.01, "‡"), (0.05, "†"))
UNKNOWN = "–"
_DIGITS = 8
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Row:
    """One system: its name in the table, and what was found."""

    name: str
    found: ScoreFile


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, or a score: `text` ± `half`, whether it is the best of its column, and the mark of its p-value."""

    text: str
    half: str = ""
    best: bool = False
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    """The head of a column; `number` tells columns of one metric with different signatures apart, 0 is none."""

    text: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """A line below the table; `code` is its end, in type of fixed width."""

    text: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Cells and notes, not yet in any notation."""

    headings: list[Heading]
    rows: list[list[Cell]]
    notes: list[Note]


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """Read results: files, or folders with such files, in the given order; a folder's by their names.

    Raises:
        CorruptError: a file is not such a result.
        DataError: a folder holds none, or the results are of different test sets.
    """
    files = [file for path in paths for file in _files(path)]
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [str(file.with_suffix("")) for file in files]
    rows = [Row(name, read_scores(file)) for name, file in zip(names, files, strict=True)]
    _check_test_set(rows)
    return rows


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.glob("*.json") if one.with_name(f"{one.name}.run.json").is_file())
    if not found:
        raise DataError(f"{path}: no results here. kdcache score --json writes F and F.run.json; name F or its folder.")
    return found


def _check_test_set(rows: Sequence[Row]) -> None:
    """Raise DataError where references differ, or sources as far as they are known."""
    first = rows[0]
    with_source = next((row for row in rows if row.found.lineage.source is not None), first)
    for row in rows:
        one = row.found.lineage
        if sorted(one.references) != sorted(first.found.lineage.references):
            raise DataError(f"{row.name}: has other references than {first.name}. {_OTHER_TEST_SET}")
        if one.source not in (None, with_source.found.lineage.source):
            raise DataError(f"{row.name}: has another source text than {with_source.name}. {_OTHER_TEST_SET}")


_OTHER_TEST_SET = "Scores of different test sets do not compare; make a table for each."


def build(rows: Sequence[Row]) -> ScoreTable:
    """Lay out at least one row, best values and significance marked; another signature is another column."""
    columns = _columns(rows)
    names = [name for name, _ in columns]
    numbers = [names[:i].count(name) + 1 if names.count(name) > 1 else 0 for i, name in enumerate(names)]
    scores = [_column(rows, name, signature) for name, signature in columns]
    headings = [
        Heading("System"),
        *(Heading(SCORES[name], number) for name, number in zip(names, numbers, strict=True)),
        *map(Heading, ("n", "student", "cache")),
    ]
    cells = []
    for row, *of_row in zip(rows, *scores, strict=True):
        lineage = row.found.lineage
        prints = [Cell(UNKNOWN if one is None else one[:_DIGITS]) for one in (lineage.student, lineage.cache)]
        cells.append([Cell(row.name), *of_row, Cell(f"{row.found.scores[0].n:,}"), *prints])
    signed: dict[str, list[str]] = {}
    for (name, signature), number in zip(columns, numbers, strict=True):
        signed.setdefault(signature, []).append(f"{SCORES[name]}{_superscript(number)}")
    signatures = [Note(f"{', '.join(titles)}: ", signature) for signature, titles in signed.items()]
    return ScoreTable(headings, cells, [*_notes(rows, names), *signatures])


def _columns(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Names and signatures of all scores, by name first."""
    seen = dict.fromkeys((one.name, one.signature) for row in rows for one in row.found.scores)
    return sorted(seen, key=lambda column: list(SCORES).index(column[0]))


def _column(rows: Sequence[Row], name: str, signature: str) -> list[Cell]:
    found = [
        next((one for one in row.found.scores if (one.name, one.signature) == (name, signature)), None) for row in rows
    ]
    printed = [one.value for one in found if one is not None]
    # One value alone is not the best of anything.
    best = f"{(min if name in LESS_IS_BETTER else max)(printed):.2f}" if len(printed) > 1 else None
    cells = []
    for row, one in zip(rows, found, strict=True):
        if one is None:
            cells.append(Cell(UNKNOWN))
        else:
            text = f"{one.value:.2f}"
            cells.append(Cell(text, f"{(one.high - one.low) / 2:.2f}", text == best, _mark(row, one)))
    return cells


def _mark(row: Row, score: Score) -> str:
    differences = () if row.found.comparison is None else row.found.comparison.differences
    p_value = next((one.p_value for one in differences if one.name == score.name), 1.0)
    return next((mark for level, mark in LEVELS if p_value < level), "")


def _notes(rows: Sequence[Row], names: Sequence[str]) -> list[Note]:
    bootstraps = [f"{row.found.bootstrap.resamples:,} resamples, seed {row.found.bootstrap.seed}" for row in rows]
    made = "; ".join(dict.fromkeys(bootstraps))
    notes = [Note(f"±: half of the 95 % interval, by sacreBLEU's bootstrap over sentences ({made}).")]
    if not LESS_IS_BETTER.isdisjoint(names):
        notes.append(Note("TER: less is better."))
    compared = [f"{row.name} with {_baseline(row, rows)}" for row in rows if row.found.comparison is not None]
    if compared:
        levels = ", ".join(f"{mark} p below {level}" for level, mark in reversed(LEVELS))
        notes.append(Note(f"{levels}: paired bootstrap, one tail; compared were {', '.join(compared)}."))
    return notes


def _baseline(row: Row, rows: Sequence[Row]) -> str:
    """The name of a row's baseline: that of the row with the same hypotheses, if it is in the table."""
    comparison = row.found.comparison
    if comparison is None:
        return ""
    text = comparison.lineage.hypothesis
    others = (one for one in rows if one is not row and one.found.lineage.hypothesis == text)
    return next((one.name for one in others), comparison.baseline)


def _superscript(number: int) -> str:
    return str(number).translate(_SUPERSCRIPTS) if number else ""


def markdown(made: ScoreTable) -> str:
    """The table in Markdown, its notes as a list below."""
    head = [escape(one.text) + _superscript(one.number) for one in made.headings]
    rows = [head, *([_markdown_cell(cell) for cell in row] for row in made.rows)]
    notes = (f"- {escape(note.text)}{f' `{note.code}`' if note.code else ''}" for note in made.notes)
    return "\n".join([markdown_table(rows, numbers=True), "", *notes])


def _markdown_cell(cell: Cell) -> str:
    text = escape(cell.text)
    shown = f"**{text}**" if cell.best else text
    return f"{shown} ± {cell.half}{cell.mark}" if cell.half else shown


_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    # \textquotedbl is unknown to OT1, LaTeX's default encoding; this place in a typewriter face is the same in both.
    '"': r"\texttt{\char34}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    **{digit.translate(_SUPERSCRIPTS): f"$^{{{digit}}}$" for digit in "0123456789"},
}


def latex(table: ScoreTable) -> str:
    """The table as a `tabular` with the rules of booktabs, its notes as lines below."""
    headings = [latex_text(one.text) + (f"$^{{{one.number}}}$" if one.number else "") for one in table.headings]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        rf"{' & '.join(headings)} \\",
        r"\midrule",
        *(rf"{_latex_row(row)} \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par{{\footnotesize {_latex_note(note)}}}" for note in table.notes),
    ]
    return "\n".join(lines)


def _latex_row(row: Sequence[Cell]) -> str:
    cells = " & ".join(map(_latex_cell, row))
    # Behind the end of a row or a rule, across line ends, these begin an option of the command before.
    return f"{{}}{cells}" if cells.startswith(("[", "*")) else cells


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    shown = rf"\textbf{{{text}}}" if cell.best else text
    mark = f"$^{{{latex_text(cell.mark).strip('$')}}}$" if cell.mark else ""
    return rf"{shown} $\pm$ {cell.half}{mark}" if cell.half else shown


def _latex_note(note: Note) -> str:
    return latex_text(note.text) + (rf" \texttt{{{latex_text(note.code)}}}" if note.code else "")


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it stands, with nothing but what its kernel of 2020 knows."""
    escaped = "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
    # Two in a row would become one dash or quotation mark.
    return re.sub(r"([-'])(?=\1)", r"\1{}", escaped)
