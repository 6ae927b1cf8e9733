"""Where inputs and outputs lie: folders of links, users without name and home, names that are not UTF-8."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_here
from remote import Server

from kdcache.cache.reader import CacheReader
from kdcache.files.strict_json import read_json
from kdcache.text.corpus import TextFiles

FEW = ("--max-steps", 1)


def linked(folder: Path, copy: Path) -> Path:
    """A copy of a folder in which every file is a relative link to a read-only blob, as in the cache of the hub."""
    blobs = copy.parent / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, copy)
    for path in [path for path in copy.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        blob.chmod(0o444)
        path.symlink_to(os.path.relpath(blob, path.parent))
    return copy


def test_fault_61_folders_of_links(
    tmp_path: Path,
    small_bert: Path,
    small_text: TextFiles,
    small_teacher: Path,
    small_cache: Path,
    small_student: Path,
    nano: str,
) -> None:
    """Checkpoint, teacher, cache and student may be folders of links to files: what is read is the same."""
    text = ("--source", small_text.source, "--target", small_text.target)
    bert, teacher, cache, student = (
        linked(folder, tmp_path / "hub" / folder.name)
        for folder in (small_bert, small_teacher, small_cache, small_student)
    )
    out = tmp_path / "out"
    out.mkdir()
    for arguments in (
        ("teacher-train", "--bert", bert, *text, *FEW, "--output", out / "teacher"),
        ("dump-logits", "--teacher", teacher, *text, "--shard-pairs", 40, "--output", out / "cache"),
        ("verify", cache),
        ("inspect", cache, "--pair", 1),
        ("student-train", "--cache", cache, "--start-from", student, "--size", nano, *FEW, "--output", out / "student"),
        ("generate", "--student", student, "--source", small_text.source, "--beam-size", 1, "--output", out / "text"),
        ("curves", student),
    ):
        done = run_here(*arguments)
        assert done.returncode == 0, done.stderr
    assert CacheReader(out / "cache").manifest == CacheReader(small_cache).manifest
    lineage = json.loads((out / "text.run.json").read_text())["inputs"]
    assert lineage["student"] == hashlib.sha256((small_student / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.complete_cache
@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs another user's number")
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}])
def test_fault_61_a_user_without_name_and_home(tmp_path: Path, server: Server, home: dict[str, str]) -> None:
    """A number without an entry among the users, as in a container, scores by ROUGE and reads a cache at a URL."""
    (tmp_path / "text").write_text("ein Hund\n")
    (out := tmp_path / "out").mkdir()
    out.chmod(0o777)
    # It may read everything, such as this Python, and write only where others may.
    user = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups")
    reads = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(out), **home}
    for arguments in (
        ("score", "--hypothesis", "text", "--reference", "text", "--metric", "rouge", "--json", "out/scores.json"),
        ("inspect", server.url, "--pair", "1"),
    ):
        command = [*user, *reads, sys.executable, "-m", "kdcache", *arguments]
        done = subprocess.run(command, env=kept, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert len(list((out / "kdcache-12345").glob("[0-9a-f]*"))) == 1


@pytest.fixture
def forget_logs(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Drops what the test's report would have of logs: a worker cannot send text that is not UTF-8."""
    plugin: Any = request.config.pluginmanager.get_plugin("logging-plugin")
    reset: Callable[[], None] = plugin.report_handler.reset
    return reset


def test_fault_61_names_that_are_not_utf8(
    tmp_path: Path,
    small_bert: Path,
    small_text: TextFiles,
    small_student: Path,
    nano: str,
    forget_logs: Callable[[], None],
) -> None:
    """Every folder and file may have a name in Latin-1; records, which stay UTF-8, write such a byte as hexadecimal."""
    here = tmp_path / os.fsdecode(b"Stra\xdfe")

    def named(name: str) -> Path:
        return here / (name + os.fsdecode(b"\xfc"))

    shutil.copytree(small_bert, named("bert"))
    shutil.copytree(small_student, named("first"))
    for name, file in (("src", small_text.source), ("tgt", small_text.target)):
        shutil.copy(str(file), named(name))
    text = ("--source", named("src"), "--target", named("tgt"))
    valid = ("--valid-source", named("src"), "--valid-target", named("tgt"))
    scored = ("--student", named("student"), "--source", named("src"), "--beam-size", 1, "--max-length", 5)
    for arguments in (
        ("teacher-train", "--bert", named("bert"), *text, *FEW, "--output", named("teacher")),
        ("dump-logits", "--teacher", named("teacher"), *text, "--output", named("cache")),
        (
            *("student-train", "--cache", named("cache"), *valid, "--start-from", named("first"), "--size", nano, *FEW),
            *("--output", named("student")),
        ),
        ("generate", *scored[:6], "--output", named("text")),
        ("score", "--reference", named("tgt"), *scored, "--resamples", 100, "--json", named("json")),
        ("score", "--table", named("json")),
        ("inspect", named("cache"), "--html", here / "page.html"),
        ("verify", named("cache"), "--teacher", named("teacher")),
        ("curves", named("student"), named("first"), "--output", here / "curves.png"),
        ("transcode", named("cache"), named("less"), "--topk", 2),
    ):
        done = run_here(*arguments)
        forget_logs()
        assert done.returncode == 0, ascii(done.stderr)
    # The file of a sweep, which `run` writes, is TOML, and that is UTF-8 throughout.
    done = run_here("run", *text, *valid, "--bert", "scratch:tiny", "--output", tmp_path / "run")
    forget_logs()
    assert (done.returncode, "must be UTF-8" in done.stderr) == (2, True)
    record = read_json(named("student") / "run.json")
    assert record["config"]["cache"] == f"{tmp_path}/Stra\\xdfe/cache\\xfc"
    assert read_json(named("json"))["system"] == f"{tmp_path}/Stra\\xdfe/student\\xfc"


@pytest.mark.parametrize("target", ["nothing", "tokenizer.json", "."])
def test_fault_61_a_link_to_no_file_is_one_clear_line(
    tmp_path: Path, small_text: TextFiles, small_teacher: Path, target: str
) -> None:
    """A link to nothing, to itself or to a folder, in a teacher's folder, is one message that names the link."""
    shutil.copytree(small_teacher, tmp_path / "teacher")
    link = tmp_path / "teacher" / "tokenizer.json"
    link.unlink()
    link.symlink_to(target)
    text = ("--source", small_text.source, "--target", small_text.target)
    done = run_here("dump-logits", "--teacher", tmp_path / "teacher", *text, "--output", tmp_path / "cache")
    assert done.returncode == 1
    assert f"{link}: expected a regular file or a link to one" in done.stderr
    assert not (tmp_path / "cache").exists()
