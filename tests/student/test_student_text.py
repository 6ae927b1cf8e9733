"""A student's own text against the words in its cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run_here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import steps

from kdcache.cache.reader import CacheReader
from kdcache.errors import MismatchError
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.cached_labels import check_text
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import train_student
from kdcache.text.corpus import Corpus, TextFiles


def changed(text: TextFiles, folder: Path, line: int, side: int, word: str) -> TextFiles:
    """A copy of the text with one line of one side replaced."""
    paths = []
    for number, path in enumerate(text.paths()):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        if number == side:
            lines[line] = word
        paths.append(folder / f"changed.{number}")
        paths[-1].write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    return TextFiles(*map(str, paths))


def test_the_same_text_is_accepted(small_cache: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """The cache's own text passes, also with white space that the tokenizer does not see."""
    reader = CacheReader(small_cache)
    check_text(reader, Corpus(small_text))
    spaced = changed(small_text, tmp_path, 7, 0, "  " + small_text.paths()[0].read_text().split("\n")[7] + " ")
    check_text(reader, Corpus(spaced))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.integers(0, 149), side=st.integers(0, 1), longer=st.booleans())
def test_any_other_line_is_found(
    small_cache: Path, small_text: TextFiles, tmp_path: Path, line: int, side: int, longer: bool
) -> None:
    """Whatever line of whatever side differs, the refusal names that line and shows both texts."""
    before = small_text.paths()[side].read_text(encoding="utf-8").split("\n")[line]
    words = before.split()
    after = f"{before} {words[0]}" if longer else " ".join(["za", *words[1:]])
    with pytest.raises(MismatchError, match=rf"line {line + 1}: pair differs") as caught:
        check_text(CacheReader(small_cache), Corpus(changed(small_text, tmp_path, line, side, after)))
    assert words[-1].rstrip(".?") in str(caught.value.stored)


def test_rows_that_slipped_are_found(small_cache: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """A text whose target lost its first line is refused at line 1, and one pair less by the number of pairs."""
    source, target = (path.read_text(encoding="utf-8").split("\n")[:-1] for path in small_text.paths())
    (tmp_path / "s").write_text("".join(f"{one}\n" for one in source), encoding="utf-8")
    (tmp_path / "t").write_text("".join(f"{one}\n" for one in [*target[1:], target[0]]), encoding="utf-8")
    reader = CacheReader(small_cache)
    with pytest.raises(MismatchError, match="line 1: pair differs"):
        check_text(reader, Corpus(TextFiles(str(tmp_path / "s"), str(tmp_path / "t"))))
    (tmp_path / "p.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in list(zip(source, target, strict=True))[1:]))
    with pytest.raises(MismatchError, match="number of pairs differs: stored 150, given 149"):
        check_text(reader, Corpus(TextFiles(pairs=str(tmp_path / "p.tsv"))))


def test_student_train_refuses_another_text(small_cache: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """`student-train --source --target` refuses at the first pair that differs and makes no student."""
    other = changed(small_text, tmp_path, 44, 1, "something else.")
    done = run_here(
        "student-train", "--cache", small_cache, "--output", tmp_path / "s", "--max-steps", 1,
        "--source", other.source, "--target", other.target,
    )  # fmt: skip
    assert done.returncode == 1
    assert "line 45: pair differs" in done.stderr
    assert not (tmp_path / "s" / "model.safetensors").exists()


def test_a_finished_student_can_be_held_against_a_text(
    small_cache: Path, small_text: TextFiles, nano: str, tmp_path: Path
) -> None:
    """A text given to a finished run is compared, and neither refused as another setting nor trained again."""
    config = StudentConfig(str(small_cache), ObjectiveConfig(), steps(1), size=nano)
    train_student(config, tmp_path / "s")
    made = (tmp_path / "s" / "model.safetensors").stat().st_mtime_ns
    train_student(replace(config, compared=small_text), tmp_path / "s")
    with pytest.raises(MismatchError, match="line 3: pair differs"):
        train_student(replace(config, compared=changed(small_text, tmp_path, 2, 0, "za.")), tmp_path / "s")
    assert (tmp_path / "s" / "model.safetensors").stat().st_mtime_ns == made
