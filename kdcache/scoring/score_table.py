"""Several results of `kdcache score --json` as one table, in Markdown or in LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.console.tables import escape, markdown_table
from kdcache.errors import DataError
from kdcache.scoring.score_config import LESS_IS_BETTER, SCORES
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
class Notation:
    """How Markdown or LaTeX write what a table holds: any text, best values, raised marks, signatures, and ±."""

    text: Callable[[str], str]
    best: Callable[[str], str]
    raised: Callable[[str], str]
    code: Callable[[str], str]
    plus_minus: str


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


def lay_out(rows: Sequence[Row], how: Notation) -> tuple[list[list[str]], list[str]]:
    """The cells of at least one row, below a head, and notes; another signature is another, numbered column."""
    seen = dict.fromkeys((one.name, one.signature) for row in rows for one in row.found.scores)
    columns = sorted(seen, key=lambda column: list(SCORES).index(column[0]))
    names = [name for name, _ in columns]
    titles = []
    for i, name in enumerate(names):
        number = how.raised(str(names[:i].count(name) + 1)) if names.count(name) > 1 else ""
        titles.append(f"{how.text(SCORES[name])}{number}")
    table = [["System", *titles, "n", "student", "cache"]]
    for row, *of_row in zip(rows, *(_column(rows, *column, how) for column in columns), strict=True):
        lineage = row.found.lineage
        prints = [how.text(UNKNOWN if one is None else one[:_DIGITS]) for one in (lineage.student, lineage.cache)]
        table.append([how.text(row.name), *of_row, f"{row.found.scores[0].n:,}", *prints])
    signed: dict[str, list[str]] = {}
    for (_, signature), title in zip(columns, titles, strict=True):
        signed.setdefault(signature, []).append(title)
    signatures = [f"{', '.join(found)}: {how.code(signature)}" for signature, found in signed.items()]
    return table, [*map(how.text, _notes(rows, names)), *signatures]


def _column(rows: Sequence[Row], name: str, signature: str, how: Notation) -> list[str]:
    """A score of each row ± half its interval, with the mark of its p-value; the best one stands out."""
    found = [
        next((one for one in row.found.scores if (one.name, one.signature) == (name, signature)), None) for row in rows
    ]
    printed = [one.value for one in found if one is not None]
    # One value alone is not the best of anything.
    best = f"{(min if name in LESS_IS_BETTER else max)(printed):.2f}" if len(printed) > 1 else None
    cells = []
    for row, one in zip(rows, found, strict=True):
        if one is None:
            cells.append(how.text(UNKNOWN))
            continue
        value, half = f"{one.value:.2f}", f"{(one.high - one.low) / 2:.2f}"
        differences = () if row.found.comparison is None else row.found.comparison.differences
        p_value = next((one.p_value for one in differences if one.name == name), 1.0)
        mark = next((how.raised(mark) for level, mark in LEVELS if p_value < level), "")
        cells.append(f"{how.best(value) if value == best else value} {how.plus_minus} {half}{mark}")
    return cells


def _notes(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    bootstraps = [f"{row.found.bootstrap.resamples:,} resamples, seed {row.found.bootstrap.seed}" for row in rows]
    made = "; ".join(dict.fromkeys(bootstraps))
    notes = [f"±: half of the 95 % interval, by sacreBLEU's bootstrap over sentences ({made})."]
    if not LESS_IS_BETTER.isdisjoint(names):
        notes.append("TER: less is better.")
    compared = []
    for row in rows:
        if (comparison := row.found.comparison) is not None:
            # The baseline is called as the row with the same hypotheses, if there is one.
            text = comparison.lineage.hypothesis
            others = (one.name for one in rows if one is not row and one.found.lineage.hypothesis == text)
            compared.append(f"{row.name} with {next(others, comparison.baseline)}")
    if compared:
        levels = ", ".join(f"{mark} p below {level}" for level, mark in reversed(LEVELS))
        notes.append(f"{levels}: paired bootstrap, one tail; compared were {', '.join(compared)}.")
    return notes


def markdown(rows: Sequence[Row]) -> str:
    """The table of at least one row in Markdown, its notes as a list below."""
    how = Notation(escape, "**{}**".format, lambda text: text.translate(_SUPERSCRIPTS), "`{}`".format, "±")
    table, notes = lay_out(rows, how)
    return "\n".join([markdown_table(table, numbers=True), "", *(f"- {note}" for note in notes)])


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


def latex(rows: Sequence[Row]) -> str:
    """The table of at least one row as a `tabular` with the rules of booktabs, its notes as lines below."""
    how = Notation(
        latex_text,
        r"\textbf{{{}}}".format,
        lambda text: f"$^{{{latex_text(text).strip('$')}}}$",
        lambda text: rf"\texttt{{{latex_text(text)}}}",
        r"$\pm$",
    )
    (head, *cells), notes = lay_out(rows, how)
    # Behind the end of a row or a rule, across line ends, these begin an option of the command before.
    lines = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in map(" & ".join, cells)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(head)} \\",
            r"\midrule",
            *(rf"{line} \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par{{\footnotesize {note}}}" for note in notes),
        ]
    )


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it stands, with nothing but what its kernel of 2020 knows."""
    escaped = "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
    # Two in a row would become one dash or quotation mark.
    return re.sub(r"([-'])(?=\1)", r"\1{}", escaped)
