"""Standard input and output in the place of files: `-`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_here
from models import toy_lines

from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import Student


def started(*arguments: object) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    command = [sys.executable, ROOT / "cli.py", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=pipe, stdout=pipe, stderr=pipe)


def test_a_student_answers_each_line_and_translates_many_at_once(small_student: Path) -> None:
    """A line is answered before the next one is written, many lines come out in their order, and a bad one ends it."""
    lines = [*toy_lines("src", 3), "", *toy_lines("src", 300)]
    expected = generate(Student.load(small_student), lines, GenerateConfig("", "", beam_size=1, device="cpu"))
    flags = ("--beam-size", 1, "--device", "cpu")
    process = started("generate", "--student", small_student, "--source", "-", "--output", "-", *flags)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{lines[0]}\n".encode())
    process.stdin.flush()
    assert process.stdout.readline().decode() == f"{expected[0]}\n"
    rest = "".join(f"{line}\n" for line in lines[1:])
    output, errors = process.communicate(rest.encode() + b"\xff\nnever read\n")
    assert output.decode().split("\n") == [*expected[1:], ""]
    assert process.returncode == 1
    assert f"-:{len(lines) + 1}: not UTF-8" in errors.decode()


@pytest.mark.parametrize("ended", [signal.SIGPIPE, signal.SIGINT])
def test_a_filter_ends_silently(ended: signal.Signals, small_student: Path) -> None:
    """Behind a pipe that is closed (`| head`), and at Ctrl-C, the filter ends as others do, without a word."""
    process = started("generate", "--student", small_student, "--source", "-", "--output", "-", "--max-length", 9)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"a\n")
    process.stdin.flush()
    process.stdout.readline()
    if ended == signal.SIGINT:
        process.send_signal(ended)
    process.stdout.close()
    process.stdin.write(b"a\n")
    process.stdin.flush()
    assert process.wait(60) == -ended
    assert b"Traceback" not in process.stderr.read()  # type: ignore[union-attr]
    process.stdin.close()
    process.stderr.close()  # type: ignore[union-attr]


def test_scores_go_through_pipes(tmp_path: Path) -> None:
    """`score` reads hypotheses from standard input and writes nothing but JSON to standard output, and no record."""
    (tmp_path / "ref").write_text("the cat sat down\na dog ran home\n", encoding="utf-8")
    process = started("score", "--reference", tmp_path / "ref", "--hypothesis", "-", "--json", "-")
    output, errors = process.communicate(b"the cat sat down\na dog ran home\n")
    assert (process.returncode, errors) == (0, b"")
    found = json.loads(output)
    assert [score["value"] for score in found["scores"]] == pytest.approx([100.0, 100.0])
    assert [path.name for path in tmp_path.iterdir()] == ["ref"]


def test_what_a_pipe_cannot_give_is_refused(tmp_path: Path) -> None:
    """One pipe gives one text, once: two texts from it, and a text that is read again, are refused with the reason."""
    two = run_here("score", "--reference", "-", "--hypothesis", "-")
    assert (two.returncode, two.stderr) == (2, "kdcache: Only one text can come from standard input (-).\n")
    output = tmp_path / "teacher"
    again = run_here("teacher-train", "--pairs", "-", "--bert", "scratch:tiny", "--epochs", 1, "--output", output)
    assert again.returncode == 1
    assert "a pipe gives its text once, and this text is read again. Write it into a file." in again.stderr
