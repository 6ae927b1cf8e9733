"""The demo: the whole pipeline on the embedded corpus, short, and what it leaves behind."""

import json
from pathlib import Path

import pytest

from kdcache.cache.reader import open_cache
from kdcache.cli.demo import set_up_process
from kdcache.experiments.demo import (
    EXAMPLES,
    GUIDE_FILE,
    HARD,
    METRICS,
    SOFT,
    TEXT,
    DemoConfig,
    report,
    run_demo,
    verdict,
)
from kdcache.inspection.cache_summary import view_pair
from kdcache.scoring.score_corpus import Difference
from kdcache.student.seq2seq import Student
from kdcache.text.lines import read_sentences

CONFIG = DemoConfig(pairs=60, test_pairs=50, teacher_steps=8, student_steps=4)


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
    assert open_cache(str(folder / "cache")).plan.n_pairs == CONFIG.pairs
    for name in (SOFT, HARD):
        Student.load(folder / name)
        assert len(read_sentences(folder / f"{name}.txt")) == CONFIG.test_pairs
    assert [one.name for one in differences] == list(METRICS)
    soft, hard = (json.loads((folder / name / "run.json").read_text()) for name in (SOFT, HARD))
    assert soft["inputs"] == hard["inputs"]
    assert (soft["config"]["objective"].pop("alpha"), hard["config"]["objective"].pop("alpha")) == (CONFIG.alpha, 1.0)
    assert soft["config"] == hard["config"]


def test_the_guide_explains_what_is_there(result: tuple[Path, list[Difference]]) -> None:
    """The text for newcomers has the table, the verdict, and names every entry of the folder."""
    folder, differences = result
    guide = (folder / GUIDE_FILE).read_text()
    assert verdict(differences) in guide
    assert f"{differences[0].system:.2f}" in guide
    for entry in folder.iterdir():
        assert entry.name in guide or entry.name == GUIDE_FILE or entry.name.startswith((SOFT, HARD)), entry.name


def test_running_it_again_does_nothing_new(result: tuple[Path, list[Difference]]) -> None:
    """A second run finds everything finished, and the same differences."""
    folder, differences = result
    models = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert run_demo(folder, CONFIG, set_up_process) == differences
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == models


def test_the_report_shows_sentences_and_labels(result: tuple[Path, list[Difference]]) -> None:
    """The first test sentences that the students translate differently stand there in all versions, and no others.

    Below them stand the teacher's best word and its share at each position of the first training pair.
    """
    folder, differences = result
    shown = report(folder, differences)
    soft, hard, source, english, reference = (
        read_sentences(folder / name)
        for name in (f"{SOFT}.txt", f"{HARD}.txt", f"{TEXT}/test.src", f"{TEXT}/test.en", f"{TEXT}/test.tgt")
    )
    differing = [i for i in range(len(soft)) if soft[i] != hard[i]][:EXAMPLES]
    assert differing
    for i in range(differing[-1] + 1):
        assert all(text in shown for text in (soft[i], hard[i], source[i], english[i], reference[i])) == (
            i in differing
        )
    for written, _, best in view_pair(open_cache(str(folder / "cache")), 0).words:
        assert f"\n{written:<12}{best[0][0]} " in shown


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ([(0.1, 2), (0.2, 1)], "helped"),
        ([(-2, -0.1), (-1, -0.5)], "hurt"),
        ([(-1, 1), (0.2, 1)], "No difference"),
        ([(-2, -1), (0.2, 1)], "No difference"),
    ],
)
def test_the_verdict_is_that_of_the_intervals(intervals: list[tuple[float, float]], words: str) -> None:
    """Labels helped where both intervals lie above 0, hurt where both lie below; all else shows no difference."""
    found = [
        Difference(name, 50, 50 + (low + high) / 2, (low + high) / 2, low, high, 0.5, 1_000, 1, "s")
        for name, (low, high) in zip(METRICS, intervals, strict=True)
    ]
    assert words in verdict(found)
