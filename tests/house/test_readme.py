"""The README's promises: its five commands, run as they stand, and what its snippet does with what they made."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PAIRS = 60


def fence(language: str) -> str:
    """The README's only code block in `language`, with the embedded BERT in place of the one on the hub."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(found).replace("bert-base-multilingual-cased", shlex.quote(str(ROOT / "data" / "bert")))


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in `folder` with `kdcache` on its path."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    command = programs / "kdcache"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "cli.py"))} "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands were run on some of the embedded corpus, under the README's file names."""
    folder = tmp_path_factory.mktemp("readme")
    for name, split in (("train", "train"), ("valid", "valid"), ("test", "test")):
        for language, side in (("de", "src"), ("en", "tgt")):
            lines = (ROOT / "data" / "demo" / f"{split}.{side}").read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / f"{name}.{language}").write_text("".join(lines[: PAIRS if name == "train" else 20]))
    done = shell(fence("sh"), folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_the_commands_give_scores(folder: Path) -> None:
    """The README's commands run as they stand and end in a table with BLEU, chrF, signatures and the ceiling."""
    printed = (folder / "stdout").read_text()
    for text in ("bleu", "chrf", "ceiling", "nrefs:1|case:mixed", "n = 20"):
        assert text in printed


def test_nothing_but_our_own_words_reaches_the_screen(folder: Path) -> None:
    """No library's warning, progress bar or traceback is among what the commands say."""
    said = (folder / "stderr").read_text()
    assert "training pairs" in said
    for text in ("Traceback", "Warning", "FutureWarning", "it/s]", "Some weights", "huggingface"):
        assert text not in said


def test_every_output_says_how_it_was_made(folder: Path) -> None:
    """Each output folder has run.json with the resolved configuration, versions and a result, and a log file."""
    for name, command in (("teacher", "teacher-train"), ("cache", "dump-logits"), ("student", "student-train")):
        record = json.loads((folder / name / "run.json").read_text())
        assert record["command"] == command
        assert record["config"]
        assert record["versions"]["torch"] != "absent"
        assert record["result"]
        assert "kdcache" in (folder / name / "kdcache.log").read_text()


def test_running_the_commands_again_does_nothing(folder: Path) -> None:
    """Finished commands that are run again say that there is nothing to do and leave every file as it was."""
    state = {path: path.read_bytes() for path in folder.glob("*/*.safetensors")} | {
        path: path.read_bytes() for path in folder.glob("cache/shards/*")
    }
    assert state
    commands = fence("sh").split("kdcache score")[0]
    done = shell(commands, folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("nothing to do") == 3
    assert "0 still to do" in done.stderr
    assert all(path.read_bytes() == content for path, content in state.items())


def test_the_snippet_needs_no_kdcache(folder: Path) -> None:
    """The README's Python snippet opens the student and generates where kdcache cannot be imported."""
    guard = "import sys\nsys.modules['kdcache'] = None\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", guard + fence("python")], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1


def test_verify_and_inspect_accept_the_cache(folder: Path) -> None:
    """The cache is sound, and inspect shows its totals and any pair word by word."""
    done = shell("kdcache verify cache && kdcache inspect cache --json && kdcache inspect cache --pair 3", folder)
    assert done.returncode == 0, done.stderr
    sound, rest = done.stdout.split("\n", 1)
    assert "sound" in sound
    summary, end = json.JSONDecoder().raw_decode(rest)
    assert summary["pairs"] == PAIRS
    assert 0 < summary["mass"] <= 1.002
    target = (folder / "train.en").read_text().splitlines()[3]
    assert target.split()[0] in rest[end:]
    assert "[SEP]" in rest[end:]
