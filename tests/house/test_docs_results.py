"""docs/results.md says what docs/results/runs.csv and comparisons.csv hold."""

from __future__ import annotations

import csv
import re
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
PAGE, STORE = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
SCORES = [f"{text}_{metric}" for text in ("valid", "test") for metric in ("bleu", "rouge1", "rouge2", "rougeL")]
NUMBERS = ("alpha", "valid_loss", "right_words", "minutes", *SCORES)


def rows(name: str) -> list[dict[str, str]]:
    with (STORE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


RUNS = rows("runs.csv")
TABLE = [[cell.strip() for cell in line[1:-2].split("|")] for line in PAGE.read_text().splitlines() if line[:1] == "|"]


def check(docs: Path) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(docs / "make_results.py"), "--check"]
    return subprocess.run(script, capture_output=True, text=True, check=False)


def test_the_page_is_current() -> None:
    """The table and both pictures are what docs/make_results.py writes from the files of docs/results."""
    done = check(ROOT / "docs")
    assert done.returncode == 0, done.stderr


def test_a_changed_run_is_noticed(tmp_path: Path) -> None:
    """One other score makes the page and the pictures stale: --check names each and the remedy, and exits with 1."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    runs = tmp_path / "docs" / "results" / "runs.csv"
    score = next(run["test_bleu"] for run in RUNS if "multi30k-dropout/plain" in run["arms"])
    runs.write_text(runs.read_text().replace(score, "30"))
    done = check(tmp_path / "docs")
    assert done.returncode == 1
    stale = [line.split(" is not current")[0] for line in done.stderr.splitlines()]
    assert [Path(name).name for name in stale] == ["results.md", "gains.svg", "lead.svg"]
    assert "Run python docs/make_results.py" in done.stderr


def test_every_run_can_be_read() -> None:
    """Arm and seed name a run once, its numbers are numbers, its experiment has a file, and its hashes are SHA-256."""
    names = [(arm, run["seed"]) for run in RUNS for arm in run["arms"].split("; ")]
    assert len(names) == len(set(names)) > 150
    for run in RUNS:
        assert all(float(run[key]) >= 0 for key in NUMBERS if run[key] and ":" not in run[key])
        if not run["note"]:
            assert re.fullmatch(r"[0-9a-f]{64} [0-9a-f]{64}", f"{run['weights_sha256']} {run['cache_sha256']}")
            experiments = [arm.split("/")[0] for arm in run["arms"].split("; ")]
            assert all((ROOT / "benchmarks" / "experiments" / f"{name}.toml").is_file() for name in experiments)


def test_every_comparison_names_runs_and_the_origin_of_its_p() -> None:
    """Both arms have a run of a common seed; each p is a probability, and the row says where it comes from."""
    seeds: dict[str, set[str]] = {}
    for run in RUNS:
        for arm in run["arms"].split("; "):
            seeds.setdefault(arm, set()).add(run["seed"])
    for one in rows("comparisons.csv"):
        assert seeds[one["arm"]] & seeds[one["baseline"]]
        assert one["origin"]
        assert all(0 < float(one[f"p_{score}"]) <= 0.5 for score in SCORES if one[f"p_{score}"])


@pytest.mark.parametrize("number", range(len(TABLE) - 2))
def test_a_row_of_the_table_follows_from_the_runs(number: int) -> None:
    """Means, difference and interval of a row of the page are those of the runs, computed anew."""
    shown = TABLE[number + 2]
    row = [one for one in rows("comparisons.csv") if one["student"]][number]
    score = "test_rouge1" if shown[0].startswith("Headlines") else "test_bleu"
    plain, labels = (
        {run["seed"]: float(run[score]) for run in RUNS if row[side] in run["arms"].split("; ")}
        for side in ("baseline", "arm")
    )
    assert plain.keys() == labels.keys()
    gains = [labels[seed] - plain[seed] for seed in plain]
    assert shown[0].endswith(row["student"])
    means = [statistics.fmean(plain.values()), statistics.fmean(labels.values()), statistics.fmean(gains)]
    assert [float(cell) for cell in shown[2:5]] == pytest.approx(means, abs=0.0051)
    assert int(shown[6]) == len(gains)
    if len(gains) == 3:  # Student's t with two degrees of freedom has 95 % within 4.303, and √3 is 1.732
        low, high = map(float, shown[5].split(" to "))
        half = 4.303 * statistics.stdev(gains) / 1.732
        assert (low, high) == pytest.approx((means[2] - half, means[2] + half), abs=0.006)


def test_the_picture_of_leads_says_what_the_page_says() -> None:
    """Right of 1 nat all 14 marks are above 0, left of it 8 of 16 are below, as the page has it."""
    picture = ElementTree.parse(STORE / "lead.svg").getroot()  # noqa: S314
    name = "{http://www.w3.org/2000/svg}"
    texts = {(one.text, one.get("text-anchor")): one for one in picture.iter(f"{name}text")}
    # The number of a tick stands below its line, in the middle, or left of it, 4 pixels lower.
    one_nat = float(texts["1", "middle"].get("x", ""))
    zero = float(texts["0", "end"].get("y", "")) - 4
    marks = [(float(m.get("x", "")) + 4.5, float(m.get("y", "")) + 4.5) for m in picture.iter(f"{name}rect")]
    above = [y < zero for x, y in marks if x > one_nat]
    below = [y > zero for x, y in marks if x <= one_nat]
    assert (len(above), sum(above), len(below), sum(below)) == (14, 14, 16, 8)
    assert "Above 1 nat all 14 comparisons gained; of the 16 others, 8 lost" in " ".join(PAGE.read_text().split())
