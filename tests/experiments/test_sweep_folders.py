"""What lies in a sweep's folder: which run a folder belongs to, and what in it counts as finished."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from caches import make_plan, write_cache
from sweeps import BASE, TEST, read, results, write_inputs

from kdcache.experiments.run_sweep import run_sweep
from kdcache.experiments.sweep_file import ScoredText, Student, Sweep
from kdcache.experiments.sweep_folders import Checker, find_folders
from kdcache.files.atomic import sha256
from kdcache.files.run_records import Run, file_run, folder_run
from kdcache.student.fingerprints import WEIGHTS_FILE, student_fingerprints, text_sha256
from kdcache.student.train_student import open_inputs
from kdcache.text.lines import read_sentences
from kdcache.training.loop import FitResult

# Names of arms, and the value of the one option in which they differ.
Arms = list[tuple[str, str]]
BOTH, STARTS = [("one", "cache"), ("two", "other")], [("one", "s"), ("two", "t")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts of a sweep and two caches, `cache` and `other`, of different teachers."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    write_cache(folder / "other", dataclasses.replace(make_plan(), teacher=sha256(b"other")))
    return folder


@pytest.fixture
def folder(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with all that, in which one works."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep_of(folder: Path, arms: Arms, key: str = "cache") -> Sweep:
    """A sweep of arms that differ in one option."""
    base = BASE.replace('cache = "cache"\n', "") if key == "cache" else BASE
    return read(folder, base, *(f"[[arms]]\nname = {name!r}\n{key} = {value!r}" for name, value in arms))


def place(sweep: Sweep) -> tuple[Student, ...]:
    """The students of a sweep in their folders."""
    return find_folders(sweep, Checker())[0].students


def finish(student: Student) -> None:
    """Leave what student-train leaves, with weights that nobody opens."""
    config = student.config
    run = folder_run(student.folder, "student-train", config, open_inputs(config)[2])
    (student.folder / WEIGHTS_FILE).write_bytes(b"weights")
    run.finish(dataclasses.asdict(FitResult(4, (4,), None, None, None, 2.0, 0.1)))


def folders(students: tuple[Student, ...]) -> dict[str, str]:
    return {one.name: one.folder.name for one in students}


@pytest.mark.parametrize(
    ("key", "first", "moves", "second", "expected", "trained"),
    [
        # An arm in place of another that had the same settings and another cache does not get its folder.
        ("cache", [("masked", "cache")], {}, [("ltr", "other")], {"ltr": "ltr"}, []),
        # Two arms that differ in their cache alone are found after both were renamed and put in another order.
        ("cache", BOTH, {}, [("b", "other"), ("a", "cache")], {"b": "two", "a": "one"}, ["b", "a"]),
        # A cache is known by its content, also under a new name.
        ("cache", [("one", "cache")], {"cache": "moved"}, [("a", "moved")], {"a": "one"}, ["a"]),
        # Caches that cannot be opened are known by their names.
        (
            "cache",
            BOTH,
            {"cache": "away", "other": "away too"},
            [("b", "other"), ("c", "unknown"), ("a", "cache")],
            {"b": "two", "c": "c", "a": "one"},
            ["b", "a"],
        ),
        # The students that arms start from are known by their weights, or else by their names.
        ("start_from", STARTS, {"s": "m"}, [("b", "t"), ("a", "m")], {"b": "two", "a": "one"}, ["b", "a"]),
        ("start_from", STARTS, {"t": "away"}, [("one", "u"), ("b", "t")], {"one": "one", "b": "two"}, ["b"]),
    ],
)
def test_runs_are_found_by_what_they_were_made_from(
    folder: Path,
    key: str,
    first: Arms,
    moves: dict[str, str],
    second: Arms,
    expected: dict[str, str],
    trained: list[str],
) -> None:
    """After arms, caches or first students were renamed, a run has the folder made from its inputs, or a new one."""
    for name in ("s", "t"):
        (folder / name).mkdir()
        (folder / name / WEIGHTS_FILE).write_bytes(name.encode())
    for student in place(sweep_of(folder, first, key)):
        finish(student)
    for name, target in moves.items():
        (folder / name).rename(folder / target)
    sweep, others = find_folders(sweep_of(folder, second, key), Checker())
    assert folders(sweep.students) == expected
    assert others == len({name for name, _ in first} - set(expected.values()))
    assert [one.name for one in sweep.students if Checker().trained(one)] == trained


def test_runs_that_differ_in_what_is_free_keep_their_folders(folder: Path) -> None:
    """Of several runs that could be continued, one gets the folder whose record differs in nothing."""
    base = BASE.replace("max_tokens", "micro_tokens = 100\nmax_tokens")
    arms = "[[arms]]\nname = 'a'\n[[arms]]\nname = 'b'\nmicro_tokens = 200"
    sweep = read(folder, base, arms)
    for student in place(sweep):
        finish(student)
    sweep = read(folder, base, "[[arms]]\nname = 'x'\nmicro_tokens = 200\n[[arms]]\nname = 'y'")
    assert folders(place(sweep)) == {"x": "b", "y": "a"}


def test_without_its_cache_what_is_finished_stays_finished(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep repeated where its cache is out of reach writes the same results, and warns once."""
    sweep = sweep_of(folder, BOTH)
    for student in place(sweep):
        finish(student)
    run_sweep(sweep, jobs=1)
    expected = results(folder)
    assert [one["name"] for one in expected["runs"]] == ["one", "two"]
    assert "could not be compared" not in caplog.text
    (folder / "cache").rename(folder / "away")
    assert run_sweep(sweep, jobs=1)[1] == []
    assert results(folder) == expected
    assert caplog.text.count("could not be compared") == 1
    assert not Checker().trained(place(sweep_of(folder, [("one", "elsewhere")]))[0])


# What a student has written


LINES = ["ein Hund", "", "eine Brücke"]
TEXT = ScoredText("t", "test.src", ("test.tgt",))


def begin_writing(student: Student) -> Run:
    """Leave a text and the record of a `kdcache generate` that has not finished."""
    output = student.hypotheses(TEXT)
    inputs = {"source": text_sha256(read_sentences(Path(TEXT.source))), **student_fingerprints(student.folder)}
    run = file_run(output, "generate", student.generation(TEXT), inputs)
    output.write_text("".join(f"{line}\n" for line in LINES))
    return run


def write(student: Student) -> None:
    """Leave what `kdcache generate` leaves."""
    begin_writing(student).finish({"sentences": 3, "sha256": text_sha256(LINES)})


def test_an_edited_text_is_not_the_students(folder: Path) -> None:
    """A text that was changed after `kdcache generate` wrote it, or is no longer text, does not count as generated."""
    (student,) = place(sweep_of(folder, [("one", "cache")]))
    finish(student)
    begin_writing(student)
    assert not Checker().generated(student, TEXT)
    write(student)
    output = student.hypotheses(TEXT)
    assert Checker().generated(student, TEXT)
    content = output.read_bytes()
    for changed in (content.replace(b"Hund", b"Fuchs"), content + b"\n", b"\xff\n", b""):
        output.write_bytes(changed)
        assert not Checker().generated(student, TEXT)
    output.write_bytes(content)
    assert Checker().generated(student, TEXT)


def test_scores_of_another_scorer_are_made_anew(folder: Path) -> None:
    """Kept scores are taken while nothing changed, and made anew where another version of a scorer made them."""
    sweep = read(folder, BASE, TEST)
    (student,) = place(sweep)
    finish(student)
    write(student)
    run_sweep(sweep)
    expected = results(folder)
    kept = student.beside("t.json")
    content = json.loads(kept.read_text())
    content["scores"][0]["value"] = 99.5
    kept.write_text(json.dumps(content))
    run_sweep(sweep)
    assert results(folder)["runs"][0]["scores"]["t"][0]["value"] == 99.5
    versions = content["made_of"].pop("versions", {})
    for more in ({}, {"versions": {**versions, "sacrebleu": "0.1"}}):
        kept.write_text(json.dumps({**content, "made_of": {**content["made_of"], **more}}))
        run_sweep(sweep)
        assert results(folder) == expected
