"""Small models made once for all tests. Heavy imports happen when a fixture is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from loops import Trainer

    from kdcache.teacher.teacher_config import TeacherConfig
    from kdcache.text.corpus import TextFiles

CACHE_PAIRS = 150
CACHE_SHARD = 40


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    """Pairs of the toy corpus: training text of the small models."""
    from models import toy_text

    return toy_text(tmp_path_factory.mktemp("text"), CACHE_PAIRS, name="train")


@pytest.fixture(scope="session")
def small_valid(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    """Other pairs of the toy corpus."""
    from models import toy_text

    return toy_text(tmp_path_factory.mktemp("text"), 40, first=CACHE_PAIRS, name="valid")


@pytest.fixture(scope="session")
def small_bert(small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT as the library saves one."""
    from models import all_lines, save_bert

    return save_bert(tmp_path_factory.mktemp("bert") / "bert", all_lines(small_text))


@pytest.fixture(scope="session")
def small_teacher(small_bert: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's folder: the small BERT, trimmed, with its distributions as sharp as chance made them."""
    from kdcache.teacher.prepare_teacher import prepare_teacher
    from kdcache.text.corpus import Corpus

    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    prepare_teacher(str(small_bert), Corpus(small_text), trim_vocab=True, seed=1).save(folder)
    return folder


@pytest.fixture(scope="session")
def small_cache(small_teacher: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of several shards, the last one shorter."""
    from kdcache.dump.dump_config import DumpConfig
    from kdcache.dump.dump_shards import dump

    folder = tmp_path_factory.mktemp("cache") / "cache"
    dump(DumpConfig(str(small_teacher), small_text, shard_pairs=CACHE_SHARD, device="cpu"), folder)
    return folder


@pytest.fixture
def nano(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a size of student that is smaller than any that users can ask for."""
    from models import NANO

    from kdcache.student.student_config import SIZES

    monkeypatch.setitem(SIZES, "nano", NANO)
    return "nano"


@pytest.fixture(scope="session")
def small_student(small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder, trained until it ends its sentences."""
    from models import NANO, steps

    from kdcache.losses.objective_config import ObjectiveConfig
    from kdcache.student.student_config import SIZES, StudentConfig
    from kdcache.student.train_student import train_student

    folder = tmp_path_factory.mktemp("student") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "nano", NANO)
        training = steps(350, max_tokens=1_500, learning_rate=1e-2)
        train_student(StudentConfig(str(small_cache), ObjectiveConfig(alpha=1.0), training, size="nano"), folder)
    return folder


@pytest.fixture(scope="session")
def elsewhere(
    small_teacher: Path, small_student: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, Any]]:
    """Some lines, and what the library alone makes of them with the small teacher and the small student."""
    from models import open_elsewhere, toy_lines

    lines = [*toy_lines("src", 5), "[SEP] [MASK] ."]
    return lines, open_elsewhere(small_teacher, small_student, lines, tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def trainer(small_cache: Path, small_valid: TextFiles, nano: str) -> Trainer:
    """Two epochs of a small student with dropout and validation, to be run as often as a test likes."""
    from loops import Trainer

    from kdcache.training.group import Group

    return Trainer.on(small_cache, small_valid, nano, Group())


@pytest.fixture
def teacher_config(small_bert: Path, small_text: TextFiles, small_valid: TextFiles) -> TeacherConfig:
    """A few steps of a small teacher."""
    from models import steps

    from kdcache.teacher.teacher_config import TeacherConfig

    training = steps(9, max_tokens=1_500, valid_every=4)
    return TeacherConfig(small_text, str(small_bert), small_valid, skip_bad=True, training=training)
