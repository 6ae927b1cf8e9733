"""Write the measured part of `docs/results.md` from what runs left behind.

`python docs/make_results.py add NAME SWEEP` copies what decides from the folder of a sweep into
`docs/results/NAME.json`: its results, the `run.json` of every run, and of the caches and teachers that they came from.
Without arguments the script writes the sections of `docs/results.md` that lie between `<!-- results NAME -->` and
`<!-- end -->` from these files; with `--check` it only says whether they are current.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAGE = DOCS / "results.md"
STORE = DOCS / "results"
_SECTION = re.compile(r"(<!-- results ([\w-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_USAGE = "usage: python docs/make_results.py [--check | add NAME SWEEP]"
_RUN_RESULT = ("steps", "exported_steps", "exported_step", "valid_nll", "averaged_valid_nll", "seconds")

Json = dict[str, Any]


def add(name: str, sweep: Path) -> None:
    """Copy the results of a finished sweep, with the records of its runs, caches and teachers."""
    results = _read(sweep / "results.json")
    if results["unfinished"]:
        print(f"{sweep}: not finished: {', '.join(results['unfinished'])}", file=sys.stderr)
    records = {run["folder"]: _record(_read(sweep / run["folder"] / "run.json")) for run in results["runs"]}
    caches = {}
    for folder in sorted({str(record["config"]["cache"]) for record in records.values()}):
        caches[folder] = _cache(sweep.parent / folder)
    STORE.mkdir(exist_ok=True)
    content = {"results": results, "records": records, "caches": caches}
    (STORE / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _record(record: Json) -> Json:
    kept = {key: record[key] for key in ("config", "inputs", "versions", "started", "finished")}
    return {**kept, "result": {key: value for key, value in record["result"].items() if key in _RUN_RESULT}}


def _cache(folder: Path) -> Json:
    from dataclasses import asdict

    from kdcache.cache.audit import summarize
    from kdcache.cache.reader import CacheReader

    teacher = _teacher(folder)
    found: Json = {"summary": asdict(summarize(CacheReader(folder)))}
    return found if teacher is None else {**found, "teacher": _record(_read(teacher))}


def _teacher(cache: Path) -> Path | None:
    """The record of the teacher at the end of a cache's row of sources, if all of them still lie where they did."""
    record = cache / "run.json"
    if not record.is_file():
        return None
    config = _read(record)["config"]
    if "cache" in config:
        return _teacher(cache.parent / str(config["cache"]))
    teacher = cache.parent / str(config.get("teacher", "")) / "run.json"
    return teacher if teacher.is_file() else None


def _read(path: Path) -> Json:
    value: Json = json.loads(path.read_text(encoding="utf-8"))
    return value


def section(name: str, content: Json) -> str:
    """What the page says of one experiment."""
    results = content["results"]
    parts = [_caches(content["caches"]), _values(results), _rouge(results), _differences(results), _runs(content)]
    return f"<!-- Written by docs/make_results.py from docs/results/{name}.json. -->\n\n" + "\n\n".join(
        filter(None, parts)
    )


def _caches(caches: Json) -> str:
    rows = [
        ("cache", "pairs", "targets", "k", "mass of the k", "written word first", "teacher's perplexity", "teacher")
    ]
    for folder, one in caches.items():
        summary, teacher = one["summary"], one.get("teacher")
        said = "–"
        if teacher is not None:
            result = teacher["result"]
            said = f"{result['steps']:,} steps, validation loss {result['valid_nll']:.3f}"
        rows.append(
            (
                f"`{folder}`",
                f"{summary['pairs']:,}",
                f"{summary['targets']:,}",
                f"{summary['plan']['topk']}",
                f"{100 * summary['mass']:.1f} %",
                f"{100 * summary['best']:.1f} %",
                f"{summary['perplexity']:.2f}",
                said,
            )
        )
    return table(rows)


def _values(results: Json) -> str:
    columns = list(dict.fromkeys(column for row in results["rows"] for column in row["values"]))
    rows = [("settings", "seeds", *(_heading(column) for column in columns))]
    for row in results["rows"]:
        values = row["values"]
        cells = [_spread(values[column], column) if column in values else "–" for column in columns]
        rows.append((row["row"], str(max((one["n"] for one in values.values()), default=0)), *cells))
    return "Mean ± sample standard deviation over seeds; the validation loss in nats a target.\n\n" + table(rows)


def _rouge(results: Json) -> str:
    """Precision, recall and F of ROUGE, over the seeds of a row."""
    rows = [("settings", "text", *(f"{name} P / R / F" for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L")))]
    for row in results["rows"]:
        runs = [run for run in results["runs"] if run["row"] == row["row"]]
        for text in runs[0]["scores"] if runs else ():
            cells = []
            for name in ("rouge1", "rouge2", "rougeL"):
                found = [score for run in runs for score in run["scores"][text] if score["name"] == name]
                triples = [(one["precision"]["value"], one["recall"]["value"], one["value"]) for one in found]
                means = [statistics.fmean(part) for part in zip(*triples, strict=True)]
                cells.append(" / ".join(f"{mean:.2f}" for mean in means) or "–")
            rows.append((row["row"], text, *cells))
    return table(rows) if any(cell != "–" for row in rows[1:] for cell in row[2:]) else ""


def _differences(results: Json) -> str:
    if not results["differences"]:
        return ""
    rows = [("settings", "metric", f"difference to {results['baseline']}", "seeds", "p")]
    for one in results["differences"]:
        p_value = "–" if one["p_value"] is None else f"{one['p_value']:.3f}"
        cells = (_spread(one["spread"], one["column"], "+"), str(one["spread"]["n"]), p_value)
        rows.append((one["row"], _heading(one["column"]), *cells))
    return (
        "Differences between runs of the same seed; p is that of a paired bootstrap over the sentences, with the "
        "outputs of all seeds one behind the other.\n\n" + table(rows)
    )


def _runs(content: Json) -> str:
    """Where each number comes from."""
    rows = [("run", "step taken", "minutes", "student", "cache")]
    for run in content["results"]["runs"]:
        steps = ", ".join(f"{step:,}" for step in run["exported_steps"])
        marks = (f"`{run['student'][:8]}`", f"`{run['cache'][:8]}`")
        rows.append((f"`{run['folder']}`", steps, f"{run['seconds'] / 60:.1f}", *marks))
    found = sorted({json.dumps(record["versions"]) for record in content["records"].values()})
    versions = "; ".join(
        ", ".join(f"{name} {value}" for name, value in json.loads(one).items() if value != "absent") for one in found
    )
    return f"The runs, with the first digits of the SHA-256 of weights and cache ({versions}):\n\n{table(rows)}"


def _heading(column: str) -> str:
    return "validation loss" if column == "valid_nll" else column


def _spread(spread: Json, column: str, sign: str = "") -> str:
    digits = 3 if column == "valid_nll" else 2
    mean = f"{spread['mean']:{sign}.{digits}f}"
    return mean if spread["deviation"] is None else f"{mean} ± {spread['deviation']:.{digits}f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    rule = ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def page(text: str) -> str:
    """The page with its sections made anew."""

    def made(match: re.Match[str]) -> str:
        source = STORE / f"{match.group(2)}.json"
        return f"{match.group(1)}{section(match.group(2), _read(source))}\n\n{match.group(3)}"

    return _SECTION.sub(made, text)


def main(arguments: list[str]) -> int:
    """Add results, write the page or check it; return the exit code."""
    if len(arguments) == 3 and arguments[0] == "add":
        add(arguments[1], Path(arguments[2]))
        return 0
    if arguments not in ([], ["--check"]):
        print(_USAGE, file=sys.stderr)
        return 2
    text = PAGE.read_text(encoding="utf-8")
    made = page(text)
    if not arguments:
        PAGE.write_text(made, encoding="utf-8")
    elif made != text:
        print("docs/results.md is not current. Run python docs/make_results.py and commit it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    sys.exit(main(sys.argv[1:]))
