"""The measured part of docs/results.md: what is written follows from the files that runs left behind."""

from __future__ import annotations

import importlib.util
import json
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT

STORED = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rouge(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "value": value, "precision": {"value": value + 1}, "recall": {"value": value - 1}}


def run(row: str, seed: int, bleu: float) -> dict[str, Any]:
    scores = [{"name": "bleu", "value": bleu}, *(rouge(name, bleu + 10) for name in ("rouge1", "rouge2", "rougeL"))]
    return {
        "row": row, "folder": f"{row},seed={seed}", "seed": seed, "scores": {"test": scores}, "exported_steps": [1000],
        "seconds": 90.0, "student": "ab" * 32, "cache": "cd" * 32,
    }  # fmt: skip


def plan(
    topk: int = 0, draws: int = 0, maskings: int = 1, sources: int = 0, at: tuple[float, ...] = ()
) -> dict[str, Any]:
    return {"topk": topk, "draws": draws, "maskings": maskings, "sources": [{}] * sources, "temperatures": list(at)}


def experiment() -> dict[str, Any]:
    """Two rows of two seeds: 30 and 32, 33 and 34 BLEU."""
    runs = [run("plain", 1, 30.0), run("plain", 2, 32.0), run("soft", 1, 33.0), run("soft", 2, 34.0)]
    spread = {"mean": 2.5, "deviation": 0.5**0.5, "n": 2}
    return {
        "results": {
            "baseline": "plain",
            "rows": [
                {"row": "plain", "values": {"test bleu": {"mean": 31.0, "deviation": 2**0.5, "n": 2}}},
                {"row": "soft", "values": {"test bleu": {"mean": 33.5, "deviation": 0.5**0.5, "n": 2}}},
            ],
            "differences": [{"row": "soft", "column": "test bleu", "spread": spread, "p_value": 0.0042}],
            "runs": runs,
        },
        "records": {one["folder"]: {"versions": {"torch": "2.13.0", "absent-one": "absent"}} for one in runs},
        "caches": {
            "cache": {
                "summary": {
                    "pairs": 9_000, "targets": 145_000, "plan": plan(topk=8), "mass": 0.789, "best": 0.655,
                    "perplexity": 5.5, "bytes_per_target": 27.34,
                },
                "teachers": [{"result": {"steps": 900, "valid_nll": 1.9}}],
            }
        },
    }  # fmt: skip


def test_a_section_says_what_its_file_holds(script: ModuleType) -> None:
    """Means, deviations, differences, p-values, ROUGE's three parts and fingerprints stand in the rows by hand."""
    text = script.section("demo", experiment())
    for line in (
        "| `cache` | 9,000 | 145,000 | the best 8 | 27.3 | 78.9 % | 65.5 % | 5.50 | 900 steps, validation loss 1.900 |",
        "| plain | 2 | 31.00 ± 1.41 |",
        "| soft | test | 44.50 / 42.50 / 43.50 | 44.50 / 42.50 / 43.50 | 44.50 / 42.50 / 43.50 |",
        "| soft | test bleu | +2.50 ± 0.71 | 2 | 0.004 |",
        "| `soft,seed=2` | 1,000 | 1.5 | `abababab` | `cdcdcdcd` |",
    ):
        assert line in text.splitlines()
    assert "torch 2.13.0" in text
    assert "absent-one" not in text


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (plan(draws=43), "43 drawn words"),
        (plan(topk=8, sources=2), "the best 8, of an average of 2 caches"),
        (plan(topk=64, sources=1, at=(2.0, 5.5)), "the best 64, log Z at T = 2, 5.5"),
        (plan(topk=8, maskings=4), "the best 8, of 4 maskings averaged"),
    ],
)
def test_a_cache_is_described_by_its_plan(script: ModuleType, described: dict[str, Any], words: str) -> None:
    """Draws, averages, maskings and normalizers are told apart; one source alone is no average."""
    assert script._holds(described) == words


def test_teachers_are_found_through_all_sources(script: ModuleType, tmp_path: Path) -> None:
    """An average of a cut cache and a dump has the teachers of both, each once; a teacher that is gone is left out."""

    def write(folder: str, config: dict[str, Any]) -> None:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_text(json.dumps({"config": config}))

    write("one", {})
    write("two", {})
    write("dump1", {"teacher": "one"})
    write("dump2", {"teacher": str(tmp_path / "two")})
    write("dump3", {"teacher": "gone"})
    write("cut", {"cache": "dump1"})
    write("average", {"caches": ["cut", "dump2", "dump3", "dump1"]})
    assert script._teachers(tmp_path / "average") == [tmp_path / name / "run.json" for name in ("one", "two")]


def test_only_the_marked_part_of_the_page_is_written(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands outside the marks stays, what stands between them is made anew, twice the same."""
    (tmp_path / "demo.json").write_text(json.dumps(experiment()))
    monkeypatch.setattr(script, "STORE", tmp_path)
    once = script.page("before\n<!-- results demo -->\nstale\n<!-- end -->\nafter\n")
    assert once.startswith("before\n<!-- results demo -->\n")
    assert once.endswith("\n<!-- end -->\nafter\n")
    assert "stale" not in once
    assert "33.50 ± 0.71" in once
    assert script.page(once) == once


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_means_are_those_of_the_stored_runs(path: Path) -> None:
    """Every mean, deviation and difference in a file follows from the scores of its single runs."""
    content = json.loads(path.read_text())
    runs, results = content["results"]["runs"], content["results"]
    value = {}
    for one in runs:
        for text, scores in one["scores"].items():
            value.update({(one["row"], one["seed"], f"{text} {score['name']}"): score["value"] for score in scores})
        value[one["row"], one["seed"], "valid_nll"] = one["valid_nll"]
        assert content["records"][one["folder"]]["inputs"]["cache"] == one["cache"]
    for row in results["rows"]:
        for column, spread in row["values"].items():
            found = [number for (name, _, where), number in value.items() if (name, where) == (row["row"], column)]
            assert spread["n"] == len(found)
            assert spread["mean"] == pytest.approx(statistics.fmean(found))
            assert len(found) < 2 or spread["deviation"] == pytest.approx(statistics.stdev(found))
    for one in results["differences"]:
        row, column, baseline = one["row"], one["column"], results["baseline"]
        seeds = [seed for name, seed, where in value if (name, where) == (row, column)]
        found = [
            value[row, seed, column] - value[baseline, seed, column]
            for seed in seeds
            if (baseline, seed, column) in value
        ]
        assert one["spread"]["mean"] == pytest.approx(statistics.fmean(found))


def test_every_stored_experiment_is_on_the_page() -> None:
    """No file lies in docs/results without a section that shows it."""
    page = (ROOT / "docs" / "results.md").read_text()
    assert [path.stem for path in STORED if f"<!-- results {path.stem} -->" not in page] == []
