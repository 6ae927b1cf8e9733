"""The measured part of docs/results.md: what is written follows from the files that runs left behind."""

from __future__ import annotations

import json
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import make_results
import result_join
import result_plot
import result_tables

STORED = sorted((ROOT / "docs" / "results").glob("*.json"))


def rouge(name: str, value: float) -> dict[str, Any]:
    parts = {"precision": {"value": value + 1}, "recall": {"value": value - 1}}
    return {"name": name, "value": value, "signature": "stem:no", **parts}


def run(row: str, seed: int, bleu: float) -> dict[str, Any]:
    measured = {"name": "bleu", "value": bleu, "low": bleu - 1, "high": bleu + 1, "signature": "case:lc"}
    scores = [measured, *(rouge(name, bleu + 10) for name in ("rouge1", "rouge2", "rougeL"))]
    return {
        "row": row, "folder": f"{row},seed={seed}", "seed": seed, "scores": {"test": scores}, "exported_steps": [1000],
        "seconds": 90.0, "student": "ab" * 32, "cache": "cd" * 32, "valid_nll": 2.0, "settings": {"size": "tiny"},
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
        "records": {
            one["folder"]: {
                "versions": {"torch": "2.13.0", "absent-one": "absent"},
                "curves": {
                    "valid_correct": [[500, 0.5], [1000, 0.6 + 0.01 * (one["seed"] - 1)]],
                    "valid_nll": [[500, 3.0], [1000, 2.0 if one["seed"] == 1 else 1.0]],
                },
            }
            for one in runs
        },
        "caches": {
            "cache": {
                "summary": {
                    "pairs": 9_000, "targets": 145_000, "plan": plan(topk=8), "mass": 0.789, "best": 0.655,
                    "perplexity": 5.5, "bytes_per_target": 27.34,
                },
                "teachers": [
                    {
                        "result": {"steps": 900, "exported_steps": [800], "valid_nll": 1.9},
                        "curves": {"valid_correct": [[800, 0.676], [900, 0.675]]},
                    }
                ],
            }
        },
    }  # fmt: skip


def test_a_section_says_what_its_file_holds() -> None:
    """Means, deviations, differences, p-values, ROUGE's three parts and fingerprints stand in the rows by hand."""
    text = result_tables.section("demo", experiment())
    teacher = "900 steps, validation loss 1.900, 67.6 % right"
    for line in (
        f"| `cache` | 9,000 | 145,000 | the best 8 | 27.3 | 78.9 % | 65.5 % | 5.50 | {teacher} |",
        "| plain | 2 | 60.5 % | 31.00 ± 1.41 |",
        "| soft | test | 44.50 / 42.50 / 43.50 | 44.50 / 42.50 / 43.50 | 44.50 / 42.50 / 43.50 |",
        "| soft | 2 | +2.50 ± 0.71 (0.004) |",
        "| `soft,seed=2` | 1,000 | 1.5 | 34.00, 33.00 to 35.00 | `abababab` | `cdcdcdcd` |",
        "- bleu: `case:lc`",
        "- rouge1, rouge2, rougeL: `stem:no`",
    ):
        assert line in text.splitlines()
    assert "torch 2.13.0" in text
    assert "absent-one" not in text


def third_seed() -> dict[str, Any]:
    """Seed 3 of the same rows: 31 and 30 BLEU."""
    content = experiment()
    runs = [run("soft", 3, 30.0), run("plain", 3, 31.0)]
    spread = {"mean": -1.0, "deviation": None, "n": 1}
    differences = [{"row": "soft", "column": "test bleu", "spread": spread, "p_value": 0.2}]
    records = {one["folder"]: content["records"]["soft,seed=1"] for one in runs}
    return {**content, "results": {**content["results"], "runs": runs, "differences": differences}, "records": records}


def test_a_sweep_of_another_seed_is_joined() -> None:
    """Means and deviations are over all seeds; p-values are combined with signs, by hand with tables of the normal."""
    joined = result_join.join(experiment(), third_seed())
    text = result_tables.section("demo", joined)
    lines = text.splitlines()
    # 30, 32, 31 and 33, 34, 30; the differences 3, 2 and -1.
    assert any(line.startswith("| plain | 3 | 60.") and "| 31.00 ± 1.00 |" in line for line in lines)
    assert any(line.startswith("| soft | 3 | 60.") and "| 32.33 ± 2.08 |" in line for line in lines)
    # z of 0.0042 is 2.636, that of 0.2 is 0.842: (√2 · 2.636 - 0.842) / √3 = 1.666, above which lies 0.048.
    assert "| soft | 3 | +1.33 ± 2.08 (0.048) |" in lines
    assert "2 sweeps (1, 2; 3)" in text
    surer = third_seed()
    surer["results"]["differences"][0] |= {"spread": {"mean": 1.0, "deviation": None, "n": 1}, "p_value": 0.001}
    assert "(&lt; 0.001) |" in result_tables.section("demo", result_join.join(experiment(), surer))
    assert [(one["row"], one["seed"]) for one in joined["results"]["runs"]][-2:] == [("plain", 3), ("soft", 3)]
    assert list(joined["caches"]) == ["cache", "cache, again"]
    assert "sweeps (" not in result_tables.section("demo", experiment())


def test_sweeps_that_cannot_be_joined() -> None:
    """A seed that is in both, and other settings, are refused."""
    with pytest.raises(SystemExit, match="A seed is in both"):
        result_join.join(experiment(), experiment())
    other = third_seed()
    other["results"]["runs"][0]["settings"] = {"size": "small"}
    with pytest.raises(SystemExit, match="other settings"):
        result_join.join(experiment(), other)


@pytest.mark.parametrize(
    ("described", "words"),
    [
        (plan(draws=43), "43 drawn words"),
        (plan(topk=8, sources=2), "the best 8, of an average of 2 caches"),
        (plan(topk=64, sources=1, at=(2.0, 5.5)), "the best 64, log Z at T = 2, 5.5"),
        (plan(topk=8, maskings=4), "the best 8, of 4 maskings averaged"),
    ],
)
def test_a_cache_is_described_by_its_plan(described: dict[str, Any], words: str) -> None:
    """Draws, averages, maskings and normalizers are told apart; one source alone is no average."""
    assert result_tables._holds(described) == words


def test_teachers_are_found_through_all_sources(tmp_path: Path) -> None:
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
    assert make_results._teachers(tmp_path / "average") == [tmp_path / name for name in ("one", "two")]


def test_only_the_marked_part_of_the_page_is_written() -> None:
    """What stands outside the marks stays, what stands between them is made anew, twice the same."""
    stored = {"demo": experiment()}
    once = make_results.page("before\n<!-- results demo -->\nstale\n<!-- end -->\nafter\n", stored)
    assert once.startswith("before\n<!-- results demo -->\n")
    assert once.endswith("\n<!-- end -->\nafter\n")
    assert "stale" not in once
    assert "33.50 ± 0.71" in once
    assert make_results.page(once, stored) == once


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
        record = content["records"][one["folder"]]
        assert record["inputs"]["cache"] == one["cache"]
        assert (one["settings"]["max_steps"], one["seed"]) == (
            record["config"]["training"]["max_steps"],
            record["config"]["training"]["seed"],
        )
        result, exported = record["result"], one["exported_steps"]
        assert (exported, one["seconds"]) == (result["exported_steps"], result["seconds"])
        # The loss of an average of checkpoints is measured apart and stands in no curve.
        averaged = len(exported) > 1
        assert one["valid_nll"] == result["averaged_valid_nll" if averaged else "valid_nll"]
        curve = dict(record["curves"]["valid_nll"])
        assert set(exported) <= curve.keys()
        assert averaged or curve[exported[0]] == pytest.approx(one["valid_nll"], abs=1e-5)
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
        assert one["spread"]["n"] == len(found)
        assert one["spread"]["mean"] == pytest.approx(statistics.fmean(found))
        assert len(found) < 2 or one["spread"]["deviation"] == pytest.approx(statistics.stdev(found))


@pytest.mark.parametrize(
    "text",
    ["", "<!-- results demo -->\nnever ended\n", 2 * "<!-- results demo -->\n<!-- end -->\n"],
    ids=["none", "open", "twice"],
)
def test_every_stored_experiment_has_one_section(text: str) -> None:
    """A file without a section, with one that does not end or with two of them is no current page."""
    with pytest.raises(SystemExit, match="demo"):
        make_results.page(text, {"demo": experiment()})


def test_the_picture_has_a_curve_for_each_row() -> None:
    """The picture is XML of its own; a row's line is the mean of its seeds, and its name stands in the legend."""
    content = experiment()
    found = ElementTree.fromstring(result_plot.plot(content))  # noqa: S314
    names = [one.text for one in found.iter("{http://www.w3.org/2000/svg}text") if one.get("class") == "name"]
    assert names == ["plain", "soft"]
    lines = [one.get("points", "").split() for one in found.iter("{http://www.w3.org/2000/svg}polyline")]
    heights = [[float(point.split(",")[1]) for point in line] for line in lines]
    grid = [
        float(one.get("y1", "")) for one in found.iter("{http://www.w3.org/2000/svg}line") if one.get("class") == "grid"
    ]
    labels = [one.text for one in found.iter("{http://www.w3.org/2000/svg}text") if one.get("text-anchor") == "end"]
    places = dict(zip(map(float, labels), grid, strict=True))
    assert heights[0] == heights[1]
    # 3 at the first step and the mean of 2 and 1 at the second; places are written with one digit.
    per_nat = places[2.0] - places[3.0]
    assert heights[0] == pytest.approx([places[3.0], places[3.0] + 1.5 * per_nat], abs=0.2)


def test_text_in_a_table_has_no_notation() -> None:
    """Signs of Markdown in the name of a row are escaped."""
    content = experiment()
    content["results"]["rows"][0]["row"] = "a|b~c_d"
    assert r"| a\|b\~c\_d | 0 |" in result_tables.section("demo", content)
