"""What lies in a sweep's folder: which run a folder belongs to, and what in it counts as finished."""

from __future__ import annotations

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
from kdcache.experiments.sweep_report import write_report
from kdcache.files.atomic import sha256
from kdcache.files.run_records import Run, file_run, folder_run
from kdcache.process.signals import StopRequest
from kdcache.student.fingerprints import WEIGHTS_FILE, student_prints, text_sha256
from kdcache.student.train_student import open_inputs
from kdcache.text.lines import read_sentences
from kdcache.training.loop import FitResult

# Names and caches of arms that differ in nothing else.
Arms = list[tuple[str, str]]
BOTH = [("one", "cache"), ("two", "other")]


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


def sweep_of(folder: Path, arms: Arms) -> Sweep:
    base = BASE.replace('cache = "cache"\n', "")
    return read(folder, base, *(f"[[arms]]\nname = {name!r}\ncache = {cache!r}" for name, cache in arms))


def place(sweep: Sweep) -> tuple[Student, ...]:
    """The students of a sweep in their folders."""
    return find_folders(sweep, Checker())[0].students


def find(folder: Path, arms: Arms) -> tuple[tuple[Student, ...], int]:
    sweep, others = find_folders(sweep_of(folder, arms), Checker())
    return sweep.students, others


def finish(student: Student) -> None:
    """Leave what student-train leaves, with weights that nobody opens."""
    config = student.config
    run = folder_run(student.folder, "student-train", config, open_inputs(config)[2])
    (student.folder / WEIGHTS_FILE).write_bytes(b"weights")
    run.finish(FitResult(4, (4,), None, None, 2.0, 0.1).record())


def folders(students: tuple[Student, ...]) -> dict[str, str]:
    return {one.name: one.folder.name for one in students}


@pytest.mark.parametrize(
    ("first", "moves", "second", "expected"),
    [
        # An arm in place of another that had the same settings and another cache does not get its folder.
        ([("masked", "cache")], {}, [("ltr", "other")], {"ltr": "ltr"}),
        # Two arms that differ in their cache alone are found after both were renamed and put in another order.
        (BOTH, {}, [("second", "other"), ("first", "cache")], {"second": "two", "first": "one"}),
        # A cache is known by its content, also under a new name.
        ([("one", "cache")], {"cache": "moved"}, [("first", "moved")], {"first": "one"}),
        # Caches that cannot be opened are known by their names.
        (
            BOTH,
            {"cache": "away", "other": "away too"},
            [("second", "other"), ("third", "unknown"), ("first", "cache")],
            {"second": "two", "third": "third", "first": "one"},
        ),
    ],
)
def test_runs_are_found_by_their_caches(
    folder: Path, first: Arms, moves: dict[str, str], second: Arms, expected: dict[str, str]
) -> None:
    """After arms or caches were renamed, a run has the folder that was made from its cache, or else a new one."""
    for student in place(sweep_of(folder, first)):
        finish(student)
    for name, target in moves.items():
        (folder / name).rename(folder / target)
    students, others = find(folder, second)
    assert folders(students) == expected
    kept = [name for name, place in expected.items() if place != name]
    assert others == len(first) - len(kept)
    assert [one.name for one in students if Checker().trained(one)] == kept


def test_runs_are_told_apart_by_the_students_that_they_start_from(folder: Path) -> None:
    """Arms that differ in the student they start from alone are found again by its weights, or by its name."""

    def found(*arms: tuple[str, str]) -> tuple[tuple[Student, ...], dict[str, str]]:
        parts = (f"[[arms]]\nname = {name!r}\nstart_from = {start!r}" for name, start in arms)
        sweep = read(folder, BASE, *parts)
        students = place(sweep)
        return students, folders(students)

    for name in ("s", "t"):
        (folder / name).mkdir()
        (folder / name / WEIGHTS_FILE).write_bytes(name.encode())
    for student in found(("one", "s"), ("two", "t"))[0]:
        finish(student)
    (folder / "s").rename(folder / "moved")
    students, names_found = found(("second", "t"), ("first", "moved"))
    assert names_found == {"second": "two", "first": "one"}
    assert all(Checker().trained(one) for one in students)
    (folder / "t").rename(folder / "away")
    students, names_found = found(("one", "u"), ("second", "t"))
    assert names_found == {"one": "one", "second": "two"}
    assert [Checker().trained(one) for one in students] == [False, True]


def test_runs_that_differ_in_what_is_free_keep_their_folders(folder: Path) -> None:
    """Of several runs that could be continued, one gets the folder whose record differs in nothing."""
    base = BASE.replace("max_tokens", "micro_tokens = 100\nmax_tokens")
    arms = "[[arms]]\nname = 'a'\n[[arms]]\nname = 'b'\nmicro_tokens = 200"
    sweep = read(folder, base, arms)
    for student in place(sweep):
        finish(student)
    sweep = read(folder, base, "[[arms]]\nname = 'x'\nmicro_tokens = 200\n[[arms]]\nname = 'y'")
    students = place(sweep)
    assert folders(students) == {"x": "b", "y": "a"}


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
    assert run_sweep(sweep, jobs=1).failures == []
    assert results(folder) == expected
    assert caplog.text.count("could not be compared") == 1
    assert not Checker().trained(find(folder, [("one", "elsewhere")])[0][0])


def test_seeds_are_counted_without_any_number(folder: Path) -> None:
    """Where there is neither a validation text nor a test, the table still says how many seeds are finished."""
    base = BASE.replace('valid_source = "valid.src"\nvalid_target = "valid.tgt"\n', "")
    for seeds, said in (("[1, 2]", "2"), ("[1, 2, 3]", "2 of 3")):
        sweep = read(folder, base, f"[grid]\nseed = {seeds}")
        checker = Checker()
        sweep, others = find_folders(sweep, checker)
        for student in sweep.students[:2]:
            finish(student)
        table = write_report(sweep, others, checker, StopRequest())
        assert table.splitlines()[-1].split(maxsplit=1) == ["run", said]


# What a student has written


LINES = ["ein Hund", "", "eine Brücke"]
TEXT = ScoredText("t", "test.src", ("test.tgt",))


def begin_writing(student: Student) -> Run:
    """Leave a text and the record of a `kdcache generate` that has not finished."""
    output = student.hypotheses(TEXT)
    inputs = {"source": text_sha256(read_sentences(Path(TEXT.source))), **student_prints(student.folder)}
    run = file_run(output, "generate", student.generation(TEXT), inputs)
    output.write_text("".join(f"{line}\n" for line in LINES))
    return run


def write(student: Student) -> None:
    """Leave what `kdcache generate` leaves."""
    begin_writing(student).finish({"sentences": 3, "sha256": text_sha256(LINES)})


def test_an_edited_text_is_not_the_students(folder: Path) -> None:
    """A text that was changed after `kdcache generate` wrote it, or is no longer text, does not count as generated."""
    (student,) = find(folder, [("one", "cache")])[0]
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
