"""Outputs go into folders of this machine: a URL in the place of one is refused, and no folder named `s3:` is made."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from conftest import run_here

from kdcache.cli import main
from kdcache.cli.sweep import read_student
from kdcache.errors import UsageError
from kdcache.experiments.sweep_file import read_sweep

URL = "s3://me:s3cr3t@bucket/out"
OUTPUTS = {
    "teacher-train": ["--bert", "b", "--source", "s", "--target", "t", "--output", URL],
    "dump-logits": ["--teacher", "t", "--source", "s", "--target", "t", "--output", URL],
    "student-train": ["--cache", "c", "--output", URL],
    "generate": ["--student", "s", "--source", "f", "--output", URL],
    "score": ["--reference", "r", "--hypothesis", "h", "--json", URL],
    "score ": ["--reference", "r", "--hypothesis", "h", "--sentences", URL],
    "curves": ["a", "--output", URL],
    "transcode": ["c", URL],
    "merge": ["c", "d", URL],
    "demo": [URL],
    "inspect": ["c", "--cache-folder", URL],
    "inspect ": ["c", "--html", URL],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_url_is_no_output(name: str) -> None:
    """Every command refuses a URL where it would write, at once, and does not show what is secret in it."""
    command = main.commands[name.strip()]
    assert isinstance(command, click.Command)
    with pytest.raises(UsageError, match=r"s3://…@bucket/out: kdcache writes on this machine only") as caught:
        command.make_context(name.strip(), list(OUTPUTS[name]))
    assert "s3cr3t" not in str(caught.value)
    local = ["out" if one == URL else one for one in OUTPUTS[name]]
    assert command.make_context(name.strip(), local).params


def test_a_sweep_s_output_neither(tmp_path: Path) -> None:
    """The output that a sweep's file names is held to the same rule."""
    file = tmp_path / "sweep.toml"
    file.write_text(f'output = "{URL}"\n')
    with pytest.raises(UsageError, match="kdcache writes on this machine only"):
        read_sweep(file, {}, read_student)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """As its user sees it: exit code 2, the message, and an empty folder."""
    done = run_here("transcode", "cache", "https://host/out", cwd=tmp_path)
    assert done.returncode == 2
    assert "https://host/out: kdcache writes on this machine only. Give a plain path" in done.stderr
    assert list(tmp_path.iterdir()) == []
