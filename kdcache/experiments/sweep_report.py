"""The report on a sweep: its results as JSON, its tables in Markdown, and both with learning curves as one page."""

import contextlib
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.errors import DataError, UsageError
from kdcache.experiments.sweep_file import Sweep
from kdcache.experiments.sweep_results import VALIDATION, Json, named_scores
from kdcache.files.atomic import replace_file
from kdcache.files.locations import printable
from kdcache.files.run_records import log
from kdcache.files.strict_json import readable_json
from kdcache.pictures import svg
from kdcache.pictures.axes import ticks
from kdcache.pictures.curves import read_curves
from kdcache.pictures.html_page import render_page
from kdcache.scoring.score_config import LESS_IS_BETTER

RESULTS_FILE, TABLE_FILE, PAGE_FILE = "results.json", "table.md", "index.html"
EMPTY = "–"
# The margins hold type that is nearly twice as large, with which the numbers can be read on a telephone.
SHEET = svg.Sheet(width=720, height=420, left=84, right=28, top=14, bottom=54)
# Losses fall steeply at first; only the steps after this share of them decide how high the picture is.
_SETTLED = 0.25
# How many colours and patterns of dashes the style sheet has.
COLOURS, DASHES = 8, 4

# A table; its first row is the header.
Rows = list[tuple[str, ...]]
# Mean curves by row: step and value of each point.
Lines = dict[str, list[tuple[int, float]]]


def write_report(sweep: Sweep, results: Json) -> str:
    """Write `results.json`, `table.md` and `index.html`, and return the tables as text."""
    replace_file(sweep.output / RESULTS_FILE, readable_json(results))
    replace_file(sweep.output / TABLE_FILE, markdown(sweep, results).encode())
    replace_file(sweep.output / PAGE_FILE, page(sweep, results).encode())
    if others := results["not_listed"]:
        left = f"{tables.count(others, 'run')} not in the file {'is' if others == 1 else 'are'} left alone"
        log.info("%s: %s and not in the table.", sweep.output, left)
    log.info("%s: the table as a page; %s and %s lie beside it.", sweep.output / PAGE_FILE, TABLE_FILE, RESULTS_FILE)
    return "\n\n".join(tables.table(rows) for _, rows in make_tables(sweep, results))


def make_tables(sweep: Sweep, results: Json) -> list[tuple[str | None, Rows]]:
    """Means over seeds and, if there are any, differences to the baseline, with their headings."""
    by_row = {row["row"]: row["values"] for row in results["rows"]}
    columns = list(dict.fromkeys(column for found in by_row.values() for column in found))
    planned = Counter(student.row for student in sweep.students)
    finished = Counter(run["row"] for run in results["runs"])
    means: Rows = [("settings", "seeds", *map(_heading, columns))]
    for row in sweep.rows:
        seeds = f"{planned[row]}" if finished[row] == planned[row] else f"{finished[row]} of {planned[row]}"
        found = by_row.get(row, {})
        means.append((row, seeds, *(_spread(found[one], one) if one in found else EMPTY for one in columns)))
    differences: Rows = [("settings", "metric", "difference", "seeds", "p")]
    for one in results["differences"]:
        p_value = EMPTY if one["p_value"] is None else f"{one['p_value']:.3f}"
        numbers = _spread(one["spread"], one["column"], "+"), f"{one['spread']['n']}", p_value
        differences.append((one["row"], _heading(one["column"]), *numbers))
    return [(None, means), *([(f"Against {sweep.baseline}", differences)] if differences[1:] else [])]


def _in_words(rows: Rows, sweep: Sweep, results: Json) -> Rows:
    """The means with words for what stands out: the best of each column, and the baseline."""
    by_row = {row["row"]: row["values"] for row in results["rows"]}
    names = {_heading(column): column for values in by_row.values() for column in values}
    best = {}
    for heading, column in names.items():
        means = {row: values[column]["mean"] for row, values in by_row.items() if column in values}
        less = column == VALIDATION or column.split()[-1] in LESS_IS_BETTER
        best[heading] = (min if less else max)(means, key=lambda row: means[row]) if len(means) > 1 else None
    marked = [rows[0]]
    for row in rows[1:]:
        name = f"{row[0]} (baseline)" if row[0] == sweep.baseline else row[0]
        cells = zip(rows[0][1:], row[1:], strict=True)
        marked.append((name, *(f"{cell} (best)" if best.get(column) == row[0] else cell for column, cell in cells)))
    return marked


def _heading(column: str) -> str:
    return "validation loss" if column == VALIDATION else column


def _spread(spread: Json, column: str, sign: str = "") -> str:
    """`28.31 ± 0.42`; the second number is missing for one seed. `sign` is that of format specifications."""
    digits = 4 if column == VALIDATION else 2
    mean = f"{spread['mean']:{sign}.{digits}f}"
    return mean if spread["deviation"] is None else f"{mean} ± {spread['deviation']:.{digits}f}"


def notes(results: Json) -> list[str]:
    """Sentences that explain the numbers, and the signatures of the metrics."""
    sentences = [
        "Mean ± sample standard deviation over seeds. The validation loss is in nats a target, of what was exported."
    ]
    if results["differences"]:
        sentences.append(
            f"Differences are those to {results['baseline']}, between runs of the same seed. p is that of sacreBLEU's "
            "paired bootstrap test over the test sentences, which counts one tail, of the mean over these seeds, each "
            "scored by itself. It covers the choice of sentences, not that of the seeds; the deviation of the "
            "difference says what the seed does."
        )
    signatures: dict[str, dict[str, None]] = {}
    for column, score in (pair for run in results["runs"] for pair in named_scores(run)):
        signatures.setdefault(score["signature"], {})[column] = None
    return [*sentences, *(f"{', '.join(columns)}: {signature}" for signature, columns in signatures.items())]


def markdown(sweep: Sweep, results: Json) -> str:
    """Tables and notes in Markdown."""
    parts = [f"# {tables.escape(printable(sweep.file.name))}"]
    for heading, rows in make_tables(sweep, results):
        parts += [f"## {tables.escape(heading)}"] if heading else []
        parts.append(tables.markdown_table([[*map(tables.escape, row)] for row in rows], numbers=True))
    return "\n\n".join([*parts, *map(tables.escape, notes(results))]) + "\n"


def page(sweep: Sweep, results: Json) -> str:
    """Tables, notes, learning curves, and each run with the command that repeats it, as HTML."""
    runs = {run["name"]: run for run in results["runs"]}
    curves = []
    for student in sweep.students:
        # There may be no validation text, or none validated yet.
        with contextlib.suppress(DataError, UsageError):
            curves.append((student.row, dict(read_curves([student.folder], VALIDATION)[0].finite)))
    lines = mean_curves(curves)
    (_, means), *differences = make_tables(sweep, results)
    shown = {
        **results,
        "title": printable(sweep.file.name),
        "tables": [(None, _in_words(means, sweep, results)), *differences],
        "marked": f"{sweep.baseline} (baseline)",
        "notes": notes(results),
        "curves": picture(lines) if lines else None,
        "legend": [(svg.key(kind(number)), row) for number, row in enumerate(lines)],
        "students": [(one, runs.get(one.name), shlex.join(["kdcache", *one.arguments])) for one in sweep.students],
        "count": tables.count,
        "duration": duration,
    }
    return render_page("kdcache.experiments", "sweep", "sweep.html", shown, ("palette.css", "sweep.css"))


def mean_curves(curves: Sequence[tuple[str, Mapping[int, float]]]) -> Lines:
    """The mean curve of each row at the steps that all its runs have; `curves` are rows and points of single runs."""
    by_row: dict[str, list[Mapping[int, float]]] = {}
    for row, points in curves:
        by_row.setdefault(row, []).append(points)
    lines = {}
    for row, runs in by_row.items():
        if steps := sorted(set(runs[0]).intersection(*runs[1:])):
            lines[row] = [(step, statistics.fmean(run[step] for run in runs)) for step in steps]
    return lines


def kind(number: int) -> str:
    """The class of line `number`: a colour, and other dashes once the colours are used up."""
    return f"curve c{number % COLOURS} d{number // COLOURS % DASHES}"


def picture(lines: Lines) -> Markup:
    """The lines over each other; there must be at least one."""
    last = max(step for points in lines.values() for step, _ in points)
    settled = [value for points in lines.values() for step, value in points if step >= _SETTLED * last]
    across, down = ticks(0, last), ticks(min(settled), max(settled))
    area = svg.Frame((across[0], across[-1]), (down[0], down[-1]), SHEET)
    drawn = [svg.curve(area, points, kind(number), row) for number, (row, points) in enumerate(lines.items())]
    parts = [
        svg.y_axis(area, "nats a target", down),
        svg.clipped(area, "inside", drawn),
        svg.x_axis(area, "optimizer step", across),
    ]
    ends = "; ".join(f"{row}: {points[-1][1]:.4g}" for row, points in lines.items())
    return svg.picture("Validation loss over optimizer steps", f"At the end {ends}", parts, SHEET)
