"""The measured part of one experiment in Markdown: caches, means, differences, and where each number comes from."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from kdcache.console.markdown import escape, table

Json = dict[str, Any]


def section(name: str, content: Json) -> str:
    """What the page says of one experiment."""
    results = content["results"]
    parts = [
        _caches(content["caches"]),
        f"![Validation loss over the steps of training](results/{name}.svg)",
        _values(content),
        _rouge(results),
        _differences(results),
        _runs(content),
        _signatures(results),
    ]
    made = f"<!-- Written by docs/make_results.py from docs/results/{name}.json. -->"
    return "\n\n".join([made, *filter(None, parts)])


def _caches(caches: Json) -> str:
    head = (
        "cache",
        "pairs",
        "targets",
        "holds",
        "bytes a target",
        "mass",
        "written word first",
        "perplexity",
        "teacher",
    )
    rows = [head, *(_cache_row(folder, one) for folder, one in caches.items())]
    said = (
        "Mass is that of the stored words, perplexity the teacher's at the masked positions of these pairs; bytes count"
        " everything in the folder."
    )
    return f"{said}\n\n{_table(rows)}"


def _cache_row(folder: str, cache: Json) -> tuple[str, ...]:
    summary = cache["summary"]
    plan = summary["plan"]
    return (
        f"`{folder}`",
        f"{summary['pairs']:,}",
        f"{summary['targets']:,}",
        _holds(plan),
        f"{summary['bytes_per_target']:.1f}",
        _share(summary["mass"]),
        _share(summary["best"]),
        f"{summary['perplexity']:.2f}",
        "; ".join(map(_teacher, cache["teachers"])) or "–",
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _teacher(record: Json) -> str:
    result = record["result"]
    right = _right_words(record, result["exported_steps"])
    return f"{result['steps']:,} steps, validation loss {result['valid_nll']:.3f}, {100 * right:.1f} % right"


def _holds(plan: Json) -> str:
    """What is stored at a position, in a few words."""
    parts = [f"{plan['draws']} drawn words" if plan["draws"] else f"the best {plan['topk']}"]
    if len(plan["sources"]) > 1:
        parts.append(f"of an average of {len(plan['sources'])} caches")
    elif plan["maskings"] > 1:
        parts.append(f"of {plan['maskings']} maskings averaged")
    if plan["temperatures"]:
        parts.append("log Z at T = " + ", ".join(f"{one:g}" for one in plan["temperatures"]))
    return ", ".join(parts)


def _values(content: Json) -> str:
    results = content["results"]
    columns = list(dict.fromkeys(column for row in results["rows"] for column in row["values"]))
    rows = [("settings", "seeds", "right words", *(_heading(column) for column in columns))]
    for row in results["rows"]:
        values = row["values"]
        cells = [_spread(values[column], column) if column in values else "–" for column in columns]
        runs = [run for run in results["runs"] if run["row"] == row["row"]]
        right = [_right_words(content["records"][run["folder"]], run["exported_steps"]) for run in runs]
        rows.append((row["row"], str(len(runs)), f"{100 * statistics.fmean(right):.1f} %" if right else "–", *cells))
    return (
        "Mean ± sample standard deviation over seeds; the validation loss in nats a target; right words are the share "
        "of validation targets that the student of the step taken (of an average, its last step) finds most probable "
        "after the written words before them.\n\n" + _table(rows)
    )


def _right_words(record: Json, exported: Sequence[int]) -> float:
    """The share at the step that was exported, the last one of an average."""
    return float(dict(record["curves"]["valid_correct"])[max(exported)])


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
    return _table(rows) if any(cell != "–" for row in rows[1:] for cell in row[2:]) else ""


def _differences(results: Json) -> str:
    found = results["differences"]
    if not found:
        return ""
    columns = list(dict.fromkeys(one["column"] for one in found))
    rows = [(f"against {results['baseline']}", "seeds", *(_heading(column) for column in columns))]
    for name in dict.fromkeys(one["row"] for one in found):
        cells = {one["column"]: _difference(one) for one in found if one["row"] == name}
        seeds = max(one["spread"]["n"] for one in found if one["row"] == name)
        rows.append((name, str(seeds), *(cells.get(column, "–") for column in columns)))
    said = (
        "Mean differences between runs of the same seed, with p in brackets: sacreBLEU's paired bootstrap over the "
        "sentences, which counts one tail; a two-sided test gives about twice as much. The outputs of all seeds stand "
        "one behind the other and are taken as independent, which makes p rather too small."
    )
    return f"{said}{_joined(results.get('joined', []))}\n\n{_table(rows)}"


def _joined(sweeps: Sequence[Sequence[int]]) -> str:
    if not sweeps:
        return ""
    seeds = "; ".join(", ".join(map(str, one)) for one in sweeps)
    return f" The seeds come from {len(sweeps)} sweeps ({seeds}), whose p-values are combined by Stouffer's z."


def _difference(one: Json) -> str:
    said = _spread(one["spread"], one["column"], "+")
    p = one["p_value"]
    if p is None:
        return said
    return f"{said} ({p:.3f})" if round(p, 3) > 0 else f"{said} (< 0.001)"


def _runs(content: Json) -> str:
    """Where each number comes from."""
    runs = content["results"]["runs"]
    texts = list(runs[0]["scores"]) if runs else []
    first = [f"{text} {runs[0]['scores'][text][0]['name']}, 95 % interval" for text in texts]
    rows = [("run", "step taken", "minutes", *first, "student", "cache")]
    for run in runs:
        steps = ", ".join(f"{step:,}" for step in run["exported_steps"])
        scores = [run["scores"][text][0] for text in texts]
        cells = [f"{one['value']:.2f}, {one['low']:.2f} to {one['high']:.2f}" for one in scores]
        marks = (_code(run["student"][:8]), _code(run["cache"][:8]))
        rows.append((_code(run["folder"]), steps, f"{run['seconds'] / 60:.1f}", *cells, *marks))
    found = sorted({json.dumps(record["versions"]) for record in content["records"].values()})
    versions = "; ".join(
        ", ".join(f"{name} {value}" for name, value in json.loads(one).items() if value != "absent") for one in found
    )
    return f"The runs, with the first digits of the SHA-256 of weights and cache ({versions}):\n\n{_table(rows)}"


def _signatures(results: Json) -> str:
    """How the scores were made: each signature with the metrics that have it."""
    signed: dict[str, list[str]] = {}
    for run in results["runs"]:
        for one in (score for scores in run["scores"].values() for score in scores):
            names = signed.setdefault(one["signature"], [])
            if one["name"] not in names:
                names.append(one["name"])
    return "\n".join(f"- {', '.join(names)}: `{signature}`" for signature, names in signed.items())


def _heading(column: str) -> str:
    return "validation loss" if column == "valid_nll" else column


def _spread(spread: Json, column: str, sign: str = "") -> str:
    digits = 3 if column == "valid_nll" else 2
    mean = f"{spread['mean']:{sign}.{digits}f}"
    return mean if spread["deviation"] is None else f"{mean} ± {spread['deviation']:.{digits}f}"


def _code(text: str) -> str:
    return f"`{text}`"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of plain text, where code stays code; the first row is its head."""
    return table([[cell.replace("|", "\\|") if cell.startswith("`") else escape(cell) for cell in row] for row in rows])
