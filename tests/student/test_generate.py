"""Generation: the library's search, in the order of the input."""

from __future__ import annotations

import json
import math
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_here
from models import terminated_when, toy_lines
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from kdcache.cache.reader import CacheReader
from kdcache.errors import DataError, ModelError, StoppedError, UsageError
from kdcache.scoring.run_score import measure, prepare
from kdcache.scoring.score_config import ScoreConfig
from kdcache.student.beam_search import beam_search, suits
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate, generate_file
from kdcache.student.seq2seq import Student, build_student
from kdcache.student.student_config import POSITIONS, RNN_SIZES, RnnSize


@pytest.fixture(scope="module")
def student(small_student: Path) -> Student:
    return Student.load(small_student)


def config(**settings: object) -> GenerateConfig:
    return GenerateConfig(**{"student": "student", "source": "lines", "device": "cpu", **settings})


@torch.no_grad()
def greedy(student: Student, line: str) -> str:
    """The most probable word, again and again, with the whole model run anew for each."""
    student.model.eval()
    special = student.tokenizer.special
    source = torch.tensor(student.tokenizer.encode_sources([line]))
    words = [special.start]
    for _ in range(student.max_length - 1):
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
        for penalty in (-2.0, 0.0, 10.0)
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


@pytest.mark.parametrize("command", ["generate", "score"])
def test_generation_can_be_stopped(command: str, small_student: Path, tmp_path: Path) -> None:
    """A signal is looked at between batches, and nobody is told that half a text was kept."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("\n".join([*toy_lines("src", 100), ""]), encoding="utf-8")
    settings = config(student=str(small_student), source=str(source), max_tokens=1)
    message = "Stopped by SIGTERM; nothing of the text is kept. .* it begins the text anew"
    run = {
        "generate": lambda: generate_file(settings, output),
        "score": lambda: measure(prepare(ScoreConfig((str(source),), student=settings))),
    }[command]
    with (
        pytest.raises(StoppedError, match=message),
        terminated_when(lambda: "on_signal" in str(signal.getsignal(signal.SIGTERM))),
    ):
        run()
    assert not output.exists()


@pytest.mark.parametrize("arch", ["transformer", "rnn"])
@pytest.mark.parametrize(
    "settings", [{}, {"max_length": 9, "no_repeat_ngram_size": 2, "repetition_penalty": 1.5, "num_beams": 1}], ids=str
)
def test_fault_60_neighbours_change_no_text(
    arch: str,
    settings: dict[str, Any],
    nano: str,
    small_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Alone and beside longer lines, a text is what transformers' own `generate` writes from the saved folder.

    Random students end hardly any text, so that it is as long as the limit lets it be.
    """
    monkeypatch.setitem(RNN_SIZES, "nano", RnnSize(layers=1, width=16, learning_rate=2e-3))
    reader = CacheReader(small_cache)
    made = build_student(arch, nano, reader.tokenizer(), reader.plan.vocabulary, dropout=0.0, seed=1)
    with torch.no_grad():
        for parameter in made.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    made.limit_length(12)
    made.save(tmp_path)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    lines, expected = [*toy_lines("src", 6), "ka " * 60, "Lo."], []
    for line in lines:
        (ids,) = model.generate(**tokenizer(line, return_tensors="pt"), **settings)
        assert len(ids) <= settings.get("max_length", 19)
        expected.append(tokenizer.decode(ids, skip_special_tokens=True))
    beams = {"beam_size": settings.get("num_beams", 4)}
    ours = config(**beams | {name: value for name, value in settings.items() if name != "num_beams"})
    student = Student.load(tmp_path)
    for max_tokens in (1, 30, 100, 2_048):
        assert generate(student, lines, replace(ours, max_tokens=max_tokens)) == expected
    assert generate(student, [lines[-1]], ours) == expected[-1:]
    assert f"of 8 texts do not end within {settings.get('max_length', 19)} tokens" in caplog.text
    assert len(set(expected)) > 4


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 7, "length_penalty": 0.6},
        {"early_stopping": True},
        {"early_stopping": "never", "length_penalty": 2.0},
        {"min_length": 12, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    ],
)
def test_our_beam_search_is_the_librarys(settings: dict[str, Any], student: Student) -> None:
    """Whatever the settings, a padded batch gets the library's own hypotheses, and fewer rows are computed for them."""
    sources = [torch.tensor(ids) for ids in student.tokenizer.encode_sources([*toy_lines("src", 40), "ka " * 30])]
    pad, end = student.tokenizer.special.pad, student.tokenizer.special.end
    ids = pad_sequence(sources, batch_first=True, padding_value=pad)
    rows: list[int] = []
    hook = student.model.lm_head.register_forward_hook(lambda _layer, _inputs, out: rows.append(out[..., 0].numel()))
    found, computed = [], []
    for search in (None, beam_search):
        rows.clear()
        inputs = {"input_ids": ids, "attention_mask": (ids != pad).long(), "custom_generate": search}
        texts = student.model.generate(**inputs, **{"num_beams": 4, "max_length": 40, **settings})
        found.append([row[: row.index(end, 1)] if end in row[1:] else row for row in texts.tolist()])
        computed.append(sum(rows))
    hook.remove()
    assert found[0] == found[1]
    assert computed[1] < computed[0]


def test_a_limit_that_is_given_cuts_and_counts(small_student: Path, tmp_path: Path) -> None:
    """--max-length replaces the student's own limit; what it cuts is counted, and the record has the limit."""
    (tmp_path / "source").write_text("\n".join([*toy_lines("src", 3), "", ""]), encoding="utf-8")
    arguments = ("generate", "--student", small_student, "--source", "source", "--device", "cpu", "--output")
    done = run_here(*arguments, "cut", "--max-length", 4, cwd=tmp_path)
    assert "warning: 3 of 4 texts do not end within 4 tokens and are cut;" in done.stderr
    done = run_here(*arguments, "whole", cwd=tmp_path)
    assert "cut" not in done.stderr
    limit = Student.load(small_student).max_length
    assert f"whole: 4 lines, each of at most {limit} tokens." in done.stderr
    for name, most in (("cut", 4), ("whole", limit)):
        assert json.loads((tmp_path / f"{name}.run.json").read_text())["result"]["max_length"] == most


def test_a_student_without_a_limit_opens(small_student: Path, tmp_path: Path) -> None:
    """A folder that says nothing of lengths writes up to the student's positions."""
    shutil.copytree(small_student, tmp_path / "student")
    (tmp_path / "student" / "generation_config.json").unlink()
    assert Student.load(tmp_path / "student").max_length == POSITIONS


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("beam_size", (0, -1, 10**9)),
        ("max_tokens", (0,)),
        ("length_penalty", (400.0, -400.0, math.nan, math.inf, 10**400)),
        ("max_length", (0, 1, 10**9)),
        ("no_repeat_ngram_size", (-1, 10**9)),
        ("repetition_penalty", (0.0, -1.0, math.nan, math.inf)),
    ],
)
def test_settings_out_of_range_are_refused(name: str, values: tuple[float, ...]) -> None:
    """Numbers that the search could not take are refused with the option and its range."""
    for value in values:
        with pytest.raises(UsageError, match="--" + name.replace("_", "-") + " must be (at least|between)"):
            config(**{name: value}).check()


@pytest.mark.parametrize(
    "settings", [{"length_penalty": -2.0}, {"length_penalty": 10.0}, {"beam_size": 1_000}, {"no_repeat_ngram_size": 0}]
)
def test_settings_at_the_ends_of_their_ranges_work(settings: dict[str, Any], student: Student) -> None:
    """The largest and smallest numbers that are allowed still give words."""
    assert all(generate(student, toy_lines("src", 2), config(**settings)))


def test_a_folder_without_a_student_is_refused(tmp_path: Path) -> None:
    """The error names the command that makes one."""
    (tmp_path / "source").write_text("a\n")
    with pytest.raises(ModelError, match="student-train"):
        generate_file(replace(config(), student=str(tmp_path), source=str(tmp_path / "source")), tmp_path / "output")


def test_a_decoder_that_computes_more_is_searched_by_the_library(small_student: Path) -> None:
    """Our search uses the parts of a decoder; where the whole gives something else, the library's own search writes."""
    student, lines = Student.load(small_student), toy_lines("src", 6)
    config = GenerateConfig(student="", source="", device="cpu")
    assert suits(student.model)
    before = generate(student, lines, config)

    def turned(_module: object, _inputs: object, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flip(-1)
        return output

    student = Student.load(small_student)
    student.model.model.decoder.register_forward_hook(turned)
    assert not suits(student.model)
    after = generate(student, lines, config)
    assert after != before
    sources = pad_sequence([torch.tensor(ids) for ids in student.tokenizer.encode_sources(lines)], batch_first=True)
    whole = student.model.generate(input_ids=sources, attention_mask=(sources != 0).long(), num_beams=4)
    assert after == [" ".join(student.tokenizer.decode(ids).split()) for ids in whole.tolist()]
