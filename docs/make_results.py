"""Write the table of docs/results.md and its two pictures from docs/results/runs.csv and docs/results/comparisons.csv.

An arm is named "experiment/arm"; a run is one seed of an arm, and a run that several experiments share has several
names, divided by "; ". Without arguments the files are written; `--check` only says whether they are current.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

PAGE = Path(__file__).parent / "results.md"
STORE = PAGE.parent / "results"
BEGIN, END = "<!-- written by docs/make_results.py -->\n", "<!-- end -->\n"
HEAD = "task and student | teacher's steps | plain | with labels | difference | 95 % interval | seeds | p"
T_QUANTILE = {2: 12.706, 3: 4.303}  # 97.5 % of Student's t, by the number of seeds
# The name, the score and the colour of each text.
TEXTS = {
    "Multi30k de-en": ("Multi30k", "bleu", "a"),
    "Reuters-21578 headlines": ("Headlines", "rouge1", "b"),
    "demo text": ("Demo", "bleu", "c"),
}
STYLE = """
svg { --ink: #1d2329; --soft: #5b6670; --rule: #dde1e4; --a: #0b6bb8; --b: #b8510b; --c: #6b7280; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6e9eb; --soft: #9ba7b1; --rule: #3a434b; --a: #5eb1f2; --b: #f2995e; --c: #a3abb5; }
}
svg { font: 13px system-ui, sans-serif; fill: var(--ink); }
.soft { fill: var(--soft); } .grid { stroke: var(--rule); } .zero { stroke: var(--soft); }
.a { color: var(--a); } .b { color: var(--b); } .c { color: var(--c); }
.full { fill: currentColor; stroke: currentColor; } .open { fill: none; stroke: currentColor; }
"""
WIDTH = 860

Row = dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """A row of comparisons.csv with the runs of its two arms, both in the order of the seeds that they share."""

    row: Row
    labels: list[Row]
    plain: list[Row]

    @property
    def name(self) -> str:
        """Task, student and teacher."""
        student = self.row["student"] or self.row["arm"].split("/")[0]
        return f"{TEXTS[self.plain[0]['text']][0]}, {student}; {self.row['teacher']}"

    def scores(self, runs: list[Row]) -> list[float]:
        """BLEU or ROUGE-1 on the test text."""
        return [float(run[f"test_{TEXTS[run['text']][1]}"]) for run in runs]

    @property
    def gains(self) -> list[float]:
        """The score with labels less the plain one, by seed."""
        return [a - b for a, b in zip(self.scores(self.labels), self.scores(self.plain), strict=True)]

    @property
    def interval(self) -> str:
        """95 % over seeds by Student's t; for a single run what comparisons.csv has, which is over sentences."""
        n, mean, low, high = len(self.gains), statistics.fmean(self.gains), self.row["low"], self.row["high"]
        if n > 1:
            half = T_QUANTILE[n] * statistics.stdev(self.gains) / n**0.5
            return f"{mean - half:+.2f} to {mean + half:+.2f}"
        return f"{float(low):+.2f} to {float(high):+.2f}" if low else "–"

    @property
    def lead(self) -> float | None:
        """Nats by which the teacher's validation loss is below the plain student's; None where one is not known."""
        losses = [(a["valid_loss"], b["teacher_loss"]) for a, b in zip(self.plain, self.labels, strict=True)]
        return statistics.fmean(float(a) - float(b) for a, b in losses) if all(map(all, losses)) else None


def read(name: str) -> list[Row]:
    """The rows of a file of docs/results."""
    with (STORE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def comparisons() -> list[Comparison]:
    """The comparisons that name a teacher; the table has those that name a student as well."""
    runs, found = read("runs.csv"), []
    for row in (row for row in read("comparisons.csv") if row["teacher"]):
        labels, plain = (
            {run["seed"]: run for run in runs if row[arm] in run["arms"].split("; ")} for arm in ("arm", "baseline")
        )
        seeds = sorted(labels.keys() & plain.keys())
        found.append(Comparison(row, [labels[seed] for seed in seeds], [plain[seed] for seed in seeds]))
    return found


def table(found: list[Comparison]) -> str:
    """The comparisons in Markdown."""
    lines = [f"| {HEAD} |", "|---" * 8 + "|"]
    for one in found:
        task, metric, _ = TEXTS[one.plain[0]["text"]]
        plain, labels = (f"{statistics.fmean(one.scores(runs)):.2f}" for runs in (one.plain, one.labels))
        p = one.row[f"p_test_{metric}"] or "–"
        shown = p if p == "–" else "< 0.001" if float(p) < 0.0005 else f"{float(p):.3f}"
        cells = [f"{task}, {one.row['student']}", one.row["teacher"], plain, labels]
        cells += [f"{statistics.fmean(one.gains):+.2f}", one.interval, str(len(one.gains)), shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def gains_picture(found: list[Comparison]) -> str:
    """A line for each comparison: the gain of each seed as an empty mark, their mean as a full one."""
    left, top, row = 460, 34, 22
    bottom = top + row * len(found)
    x = scale(-6, 4, left, WIDTH - 20)
    parts = [text(x(-1), 16, "gain on the test text: BLEU, on headlines ROUGE-1", "middle")]
    parts.append(text(left - 10, 16, "task, student; teacher's steps", "end"))
    for tick in range(-6, 5):
        parts += [line(x(tick), top - 8, x(tick), bottom, tick), text(x(tick), bottom + 18, f"{tick}", "middle")]
    for number, one in enumerate(found):
        y = top + row * (number + 0.5)
        parts += [
            text(left - 10, y + 4, one.name, "end", "name"),
            *(mark(x(gain), y, "open", one) for gain in one.gains),
        ]
        parts.append(mark(x(statistics.fmean(one.gains)), y, "full", one))
    return picture(bottom + 26, "What soft labels gave over plain training", parts)


def lead_picture(found: list[Comparison]) -> str:
    """The gain of each comparison over the lead of its teacher."""
    left, right, top, bottom = 50, WIDTH - 20, 40, 440
    x, y = scale(-2, 2.5, left, right), scale(-6, 3, bottom, top)
    under = "d: the plain student's validation loss less the teacher's, nats a target"
    parts = [text(left, 16, "gain over plain training on the test text: BLEU, on headlines ROUGE-1", "start")]
    parts.append(text((left + right) / 2, bottom + 44, under, "middle"))
    for tick in range(-6, 4):
        parts += [line(left, y(tick), right, y(tick), tick), text(left - 8, y(tick) + 4, f"{tick}", "end")]
    for tick in range(-2, 3):
        parts += [line(x(tick), top, x(tick), bottom, tick), text(x(tick), bottom + 20, f"{tick}", "middle")]
    for one in found:
        kind = "open" if one.labels[0]["teacher"] == "left to right" else "full"
        if one.lead is not None:
            parts.append(mark(x(one.lead), y(statistics.fmean(one.gains)), kind, one))
    return picture(bottom + 56, "When do soft labels pay?", parts)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The place of a value on an axis from `start` to `end`, in pixels."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def text(x: float, y: float, said: str, anchor: str, kind: str = "soft") -> str:
    """Text that starts, ends or has its middle at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, tick: int) -> str:
    """A line of the grid, stronger at 0."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" class="{"grid" if tick else "zero"}"/>'


def mark(x: float, y: float, kind: str, one: Comparison) -> str:
    """A mark in the colour of its text: a square for an RNN, else a circle."""
    radius = 1 if one.plain[0]["arch"] == "rnn" else 4.5
    place = f'x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" rx="{radius}"'
    colour = TEXTS[one.plain[0]["text"]][2]
    return f'<rect {place} class="{kind} {colour}"><title>{escape(one.name)}</title></rect>'


def picture(height: float, title: str, parts: list[str]) -> str:
    """An SVG file that follows the light or dark scheme of the browser that shows it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{title}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def main(arguments: list[str]) -> int:
    """Write the files, or say with `--check` which are not current; return the exit code."""
    found = comparisons()
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    shown = [one for one in found if one.row["student"]]
    made = {PAGE: f"{before}{BEGIN}\n{table(shown)}\n{END}{rest.split(END)[1]}"}
    made.update({STORE / "gains.svg": gains_picture(shown), STORE / "lead.svg": lead_picture(found)})
    old = [path for path, said in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != said]
    for path in old:
        if "--check" in arguments:
            print(f"{path} is not current. Run python docs/make_results.py and commit it.", file=sys.stderr)
        else:
            path.write_text(made[path], encoding="utf-8")
    return 1 if old and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
