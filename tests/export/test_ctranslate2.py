"""A Transformer student in CTranslate2's format says what the student says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import run_here
from ctranslate2 import Translator
from ctranslate2.converters import TransformersConverter
from models import toy_lines
from transformers import AutoTokenizer

from kdcache.cache.reader import open_cache
from kdcache.export.ctranslate2_folder import TOLERANCE, StudentAnswers
from kdcache.files.strict_json import read_json
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import Student, build_student
from kdcache.student.student_config import RNN_SIZES, RnnSize


@pytest.fixture(scope="module")
def exported(small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "translator"
    done = run_here("export", small_student, folder, "--format", "ctranslate2", "--quantization", "float32")
    assert done.returncode == 0, done.stderr
    return folder


def translated(folder: Path, lines: list[str], most: int = 255) -> list[str]:
    """What the export makes of `lines`, by the two libraries that its users have."""
    tokenizer, translator = AutoTokenizer.from_pretrained(folder), Translator(str(folder))
    sources = [tokenizer.convert_ids_to_tokens(tokenizer(line)["input_ids"]) for line in lines]
    found = translator.translate_batch(sources, beam_size=1, max_decoding_length=most)
    ids = [tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found]
    return [" ".join(tokenizer.decode(one, skip_special_tokens=True).split()) for one in ids]


def test_the_export_writes_what_the_student_writes(small_student: Path, exported: Path) -> None:
    """Searching greedily, CTranslate2 and AutoTokenizer give the student's own translation of every line."""
    lines = toy_lines("src", 40)
    student = Student.load(small_student)
    expected = generate(student, lines, GenerateConfig(student="", source="", beam_size=1, device="cpu"))
    # CTranslate2 does not count the start token.
    assert translated(exported, lines, student.max_length - 1) == expected
    assert len(set(expected)) > 2


def test_positions_where_the_library_expects_them_are_noticed(small_student: Path, tmp_path: Path) -> None:
    """CTranslate2's converter alone begins the positions a row too late, and the comparison shows it."""
    TransformersConverter(str(small_student)).convert(str(tmp_path / "plain"))
    answers = StudentAnswers(Student.load(small_student), toy_lines("src", 10))
    found = answers.compare(Translator(str(tmp_path / "plain")))
    assert found.log_prob_difference > 10 * TOLERANCE


def test_int8_says_how_far_it_is(small_student: Path, exported: Path, tmp_path: Path) -> None:
    """An int8 export is smaller, and how it differs from the student is printed and stored."""
    done = run_here("export", small_student, tmp_path / "small", "--format", "ctranslate2", "--quantization", "int8")
    assert done.returncode == 0, done.stderr
    assert "int8: " in done.stderr
    assert (tmp_path / "small" / "model.bin").stat().st_size < (exported / "model.bin").stat().st_size
    result = read_json(tmp_path / "small" / "run.json")["result"]
    assert result["int8"]["log_prob_difference"] > result["float32"]["log_prob_difference"]
    assert len(translated(tmp_path / "small", toy_lines("src", 3))) == 3


def test_a_finished_export_is_left_alone(small_student: Path, tmp_path: Path) -> None:
    """The same command again does nothing; after the student has changed, it is refused."""
    student = shutil.copytree(small_student, tmp_path / "student")
    command = ("export", student, tmp_path / "out", "--format", "ctranslate2")
    assert run_here(*command).returncode == 0
    again = run_here(*command)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    weights = student / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert run_here(*command).returncode == 1


def test_an_rnn_is_refused(small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CTranslate2 has no such class; the message names what it has."""
    monkeypatch.setitem(RNN_SIZES, "nano", RnnSize(layers=2, width=16, learning_rate=2e-3))
    reader = open_cache(str(small_cache))
    build_student("rnn", "nano", reader.tokenizer(), reader.plan.vocabulary, 0.0, 1).save(tmp_path / "rnn")
    done = run_here("export", tmp_path / "rnn", tmp_path / "out", "--format", "ctranslate2")
    assert done.returncode == 1
    assert "--arch transformer" in done.stderr
    assert not (tmp_path / "out").exists()
