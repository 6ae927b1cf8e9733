"""Write the measured part of `docs/results.md` from what runs left behind.

`python docs/make_results.py add NAME SWEEP` copies what decides from the folder of a sweep into
`docs/results/NAME.json`: its results, the `run.json` of every run, and of the caches and teachers that they came from.
`extend` in place of `add` joins another sweep, with the same settings and other seeds, to what is there.
Without arguments the script writes the sections of `docs/results.md` that lie between `<!-- results NAME -->` and
`<!-- end -->` from these files, and draws their curves into `docs/results/NAME.svg`; with `--check` it only says
whether they are current.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from result_join import join
from result_plot import plot
from result_tables import section

DOCS = Path(__file__).parent
PAGE = DOCS / "results.md"
STORE = DOCS / "results"
_SECTION = re.compile(r"(<!-- results ([\w-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_USAGE = "usage: python docs/make_results.py [--check | add NAME SWEEP | extend NAME SWEEP]"
_RUN_RESULT = ("steps", "exported_steps", "valid_nll", "averaged_valid_nll", "seconds")
_CURVES, _CURVE_DIGITS = ("valid_nll", "valid_correct"), 5

Json = dict[str, Any]


def add(name: str, sweep: Path) -> None:
    """Copy the results of a finished sweep, with the records of its runs, caches and teachers."""
    _store(name, _content(sweep))


def extend(name: str, sweep: Path) -> None:
    """Join a finished sweep of other seeds to what is there."""
    _store(name, join(_read(STORE / f"{name}.json"), _content(sweep)))


def _store(name: str, content: Json) -> None:
    STORE.mkdir(exist_ok=True)
    (STORE / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _content(sweep: Path) -> Json:
    results = _read(sweep / "results.json")
    if results["unfinished"]:
        print(f"{sweep}: not finished: {', '.join(results['unfinished'])}", file=sys.stderr)
    records = {run["folder"]: _record(sweep / run["folder"]) for run in results["runs"]}
    folders = sorted({str(record["config"]["cache"]) for record in records.values()})
    caches = {folder: _cache(sweep.parent / folder) for folder in folders}
    return {"results": results, "records": records, "caches": caches}


def _record(folder: Path) -> Json:
    """What a training wrote: its `run.json`, and the curves of its validation from `metrics.jsonl`."""
    record = _read(folder / "run.json")
    kept = {key: record[key] for key in ("config", "inputs", "versions", "started", "finished")}
    result = {key: value for key, value in record["result"].items() if key in _RUN_RESULT}
    return {**kept, "result": result, "curves": {metric: _curve(folder, metric) for metric in _CURVES}}


def _curve(folder: Path, metric: str) -> list[list[float]]:
    from kdcache.pictures.curves import read_curves

    (curve,) = read_curves([folder], metric)
    return [[step, round(value, _CURVE_DIGITS)] for step, value in curve.known]


def _cache(folder: Path) -> Json:
    from dataclasses import asdict

    from kdcache.cache.reader import CacheReader
    from kdcache.inspection.cache_summary import summarize

    return {"summary": asdict(summarize(CacheReader(folder))), "teachers": [_record(one) for one in _teachers(folder)]}


def _teachers(cache: Path) -> list[Path]:
    """The folders of the teachers at the ends of a cache's rows of sources, as far as they still lie where they did."""
    record = cache / "run.json"
    if not record.is_file():
        return []
    config = _read(record)["config"]
    sources = config.get("caches") or ([config["cache"]] if "cache" in config else [])
    if sources:
        return list(dict.fromkeys(path for one in sources for path in _teachers(cache.parent / str(one))))
    teacher = cache.parent / str(config["teacher"])
    return [teacher] if (teacher / "run.json").is_file() else []


def _read(path: Path) -> Json:
    value: Json = json.loads(path.read_text(encoding="utf-8"))
    return value


def page(text: str, stored: Mapping[str, Json]) -> str:
    """The page with its sections made anew from the stored experiments, by name."""
    found = sorted(match[2] for match in _SECTION.finditer(text))
    if found != sorted(stored):
        raise SystemExit(
            f"{PAGE}: has sections of {found}, docs/results has {sorted(stored)}; each has its place once."
        )
    return _SECTION.sub(lambda match: f"{match[1]}{section(match[2], stored[match[2]])}\n\n{match[3]}", text)


def main(arguments: list[str]) -> int:
    """Add results, write the page or check it; return the exit code."""
    copiers = {"add": add, "extend": extend}
    if len(arguments) == 3 and arguments[0] in copiers:
        copiers[arguments[0]](arguments[1], Path(arguments[2]))
        return 0
    if arguments not in ([], ["--check"]):
        print(_USAGE, file=sys.stderr)
        return 2
    stored = {source.stem: _read(source) for source in sorted(STORE.glob("*.json"))}
    made = {PAGE: page(PAGE.read_text(encoding="utf-8"), stored)}
    made.update({STORE / f"{name}.svg": plot(content) for name, content in stored.items()})
    if not arguments:
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
        return 0
    old = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in old:
        print(f"{path} is not current. Run python docs/make_results.py and commit it.", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
