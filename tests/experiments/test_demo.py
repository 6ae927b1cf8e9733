"""The demo: the whole pipeline on the embedded corpus, short, and what it leaves behind."""

import json
from pathlib import Path

import pytest

from kdcache.cache.reader import CacheReader
from kdcache.cli.demo import set_up_process
from kdcache.experiments.demo import GUIDE_FILE, HARD, METRICS, SOFT, DemoConfig, run_demo, verdict
from kdcache.scoring.score_corpus import Difference
from kdcache.student.seq2seq import Student
from kdcache.text.lines import read_sentences

CONFIG = DemoConfig(pairs=60, teacher_steps=8, student_steps=4)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Difference]]:
    """A demo of a few steps: its folder and what it found."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, run_demo(folder, CONFIG, set_up_process)


def test_all_stages_leave_their_results(result: tuple[Path, list[Difference]]) -> None:
    """Teacher, a complete cache of all pairs, both students and what they wrote are there.

    Both students have the same configuration and inputs, but for alpha.
    """
    folder, differences = result
    assert (folder / "teacher" / "model.safetensors").is_file()
    assert CacheReader(folder / "cache").plan.n_pairs == CONFIG.pairs
    for name in (SOFT, HARD):
        Student.load(folder / name)
        assert len(read_sentences(folder / f"{name}.txt")) == 500
    assert [one.name for one in differences] == list(METRICS)
    soft, hard = (json.loads((folder / name / "run.json").read_text()) for name in (SOFT, HARD))
    assert soft["inputs"] == hard["inputs"]
    assert (soft["config"]["objective"].pop("alpha"), hard["config"]["objective"].pop("alpha")) == (0.5, 1.0)
    assert soft["config"] == hard["config"]


def test_the_guide_explains_what_is_there(result: tuple[Path, list[Difference]]) -> None:
    """The text for newcomers has the table, the verdict, and names every entry of the folder."""
    folder, differences = result
    guide = (folder / GUIDE_FILE).read_text()
    assert verdict(differences[0]) in guide
    assert f"{differences[0].system:.2f}" in guide
    for entry in folder.iterdir():
        assert entry.name in guide or entry.name == GUIDE_FILE or entry.name.startswith((SOFT, HARD)), entry.name


def test_running_it_again_does_nothing_new(result: tuple[Path, list[Difference]]) -> None:
    """A second run finds everything finished, and the same differences."""
    folder, differences = result
    models = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert run_demo(folder, CONFIG, set_up_process) == differences
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == models


@pytest.mark.parametrize(("low", "high", "words"), [(0.1, 2, "helped"), (-2, -0.1, "hurt"), (-1, 1, "No difference")])
def test_the_verdict_is_that_of_the_interval(low: float, high: float, words: str) -> None:
    """An interval above 0 helped, one below 0 hurt, and one around 0 shows no difference."""
    one = Difference("bleu", 50, 50 + (low + high) / 2, (low + high) / 2, low, high, 0.5, 1_000, 1, "s")
    assert words in verdict(one)
