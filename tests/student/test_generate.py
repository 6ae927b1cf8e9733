"""Generation: the library's search, in the order of the input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import toy_lines

from kdcache.errors import DataError, ModelError, StoppedError, UsageError
from kdcache.process.signals import StopRequest
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate, generate_file
from kdcache.student.seq2seq import Student, load_student
from kdcache.student.student_config import POSITIONS


@pytest.fixture(scope="module")
def student(small_student: Path) -> Student:
    return load_student(small_student)


def config(**settings: object) -> GenerateConfig:
    return GenerateConfig(**{"student": "student", "source": "lines", "device": "cpu", **settings})


@torch.no_grad()
def greedy(student: Student, line: str) -> str:
    """The most probable word, again and again, with the whole model run anew for each."""
    student.model.eval()
    special = student.tokenizer.special
    source = torch.tensor(student.tokenizer.encode_sources([line]))
    words = [special.start]
    for _ in range(2 * source.shape[1] + 15):
        logits = student.model(input_ids=source, decoder_input_ids=torch.tensor([words])).logits[0, -1]
        words.append(int(logits.argmax()))
        if words[-1] == special.end:
            break
    return student.tokenizer.decode(words)


def test_beam_1_is_greedy_search(student: Student) -> None:
    """With one beam the text is that of a loop over the model, also from inside a padded batch."""
    lines = toy_lines("src", 8)
    expected = [greedy(student, line) for line in lines]
    for max_tokens in (1, 2_048):
        assert generate(student, lines, config(beam_size=1, max_tokens=max_tokens)) == expected
    assert len(set(expected)) > 2


@torch.no_grad()
def log_prob(student: Student, line: str, text: str) -> float:
    """Log-probability of a text and its end, by the model itself."""
    special = student.tokenizer.special
    source = torch.tensor(student.tokenizer.encode_sources([line]))
    words = [*student.tokenizer.encode([text])[0], special.end]
    logits = student.model(input_ids=source, decoder_input_ids=torch.tensor([[special.start, *words[:-1]]])).logits[0]
    return float(torch.log_softmax(logits, dim=1).gather(1, torch.tensor(words)[:, None]).sum())


def test_more_beams_find_more_probable_texts(student: Student) -> None:
    """Without length normalisation four beams find, together, texts at least as probable as greedy search."""
    lines = toy_lines("src", 12, first=20)
    sums = []
    for beams in (1, 4):
        texts = generate(student, lines, config(beam_size=beams, length_penalty=0.0))
        sums.append(sum(log_prob(student, line, text) for line, text in zip(lines, texts, strict=True)))
    assert sums[1] >= sums[0]


def test_length_penalty_lengthens(student: Student) -> None:
    """Dividing by a higher power of the length prefers longer texts."""
    lines = toy_lines("src", 20, first=40)
    lengths = [
        sum(map(len, student.tokenizer.encode(generate(student, lines, config(length_penalty=penalty)))))
        for penalty in (-3.0, 0.0, 5.0)
    ]
    assert lengths[0] <= lengths[1] <= lengths[2]
    assert lengths[0] < lengths[2]


def test_order_is_kept(student: Student) -> None:
    """Hypothesis i belongs to line i, whatever the lengths and the batches."""
    lines = toy_lines("src", 30)
    together = generate(student, lines, config(beam_size=1, max_tokens=200))
    alone = [generate(student, [line], config(beam_size=1))[0] for line in lines]
    assert together == alone
    assert generate(student, lines[::-1], config(beam_size=1, max_tokens=200)) == together[::-1]


def test_empty_lines_stay_empty(student: Student, small_student: Path, tmp_path: Path) -> None:
    """An empty line, or one of white space, gives an empty line, and its neighbours keep their places."""
    lines = toy_lines("src", 3)
    found = generate(student, [lines[0], "", lines[1], " \t", lines[2]], config(beam_size=1))
    assert found[1] == found[3] == ""
    assert [found[i] for i in (0, 2, 4)] == generate(student, lines, config(beam_size=1))
    (tmp_path / "source").write_text(f"{lines[0]}\n\n{lines[1]}\n", encoding="utf-8")
    output = tmp_path / "output"
    generate_file(config(student=str(small_student), source=str(tmp_path / "source"), beam_size=1), output)
    assert output.read_text(encoding="utf-8").split("\n") == [found[0], "", found[2], ""]


def test_hypotheses_are_single_lines(student: Student) -> None:
    """No hypothesis holds a line feed or doubled blanks that would shift or hide words."""
    for line in generate(student, toy_lines("src", 10), config()):
        assert line == " ".join(line.split())


def test_too_long_a_line_is_named(student: Student, tmp_path: Path, small_student: Path) -> None:
    """A line with more tokens than the student has positions is an error with file and line, before any search."""
    source = tmp_path / "source"
    lines = toy_lines("src", 2)
    source.write_text("\n".join([*lines, "x " * (POSITIONS - 1), ""]), encoding="utf-8")
    with pytest.raises(DataError, match=rf"source:3: 1,025 tokens; the student has {POSITIONS:,} positions"):
        generate_file(config(student=str(small_student), source=str(source)), tmp_path / "output")
    assert not (tmp_path / "output").exists()
    assert len(generate(student, ["x " * 30], config(beam_size=1))) == 1


def test_a_finished_file_is_left_alone(small_student: Path, tmp_path: Path) -> None:
    """The same command again does nothing; a file of unknown origin is not overwritten."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("\n".join(toy_lines("src", 3)) + "\n", encoding="utf-8")
    settings = config(student=str(small_student), source=str(source), beam_size=1)
    generate_file(settings, output)
    stamp = output.stat().st_mtime_ns
    generate_file(settings, output)
    assert output.stat().st_mtime_ns == stamp
    assert len(output.read_text().splitlines()) == 3


def test_generation_can_be_stopped(student: Student) -> None:
    """A signal is looked at between batches."""
    stop = StopRequest()
    stop.number = 15
    with pytest.raises(StoppedError):
        generate(student, toy_lines("src", 3), config(), stop)


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    """Beams below 1 and folders without a student are refused."""
    for name in ("beam_size", "max_tokens"):
        with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
            config(**{name: 0}).check()
    (tmp_path / "source").write_text("a\n")
    with pytest.raises(ModelError, match="student-train"):
        generate_file(replace(config(), student=str(tmp_path), source=str(tmp_path / "source")), tmp_path / "output")
