"""Sweeps for real: processes that train, fail, are stopped and killed, and what a second sweep makes of that."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_cli, run_here
from sweeps import BASE, TEST, read, results, write_file, write_inputs

from kdcache.experiments.run_sweep import run_sweep
from kdcache.files.run_records import recorded

FAST = "max_steps = 4\nvalid_every = 2"
ARMS = "[[arms]]\nname = '<b>'\nalpha = 1\n"
BROKEN = "[[arms]]\nname = 'broken'\ntopk = 99\n"
LONG = "[grid]\nalpha = [1.0, 0.5]"
STEPS = "max_steps = 120\nvalid_every = 20"


def state(folder: Path) -> dict[Path, int]:
    """When the students and what they wrote were last changed."""
    paths = [*folder.glob("sweep/*/model.safetensors"), *folder.glob("sweep/*.txt"), *folder.glob("sweep/*.t.json")]
    return {path: path.stat().st_mtime_ns for path in paths}


def sweep_here(folder: Path, *parts: str) -> tuple[str, list[str]]:
    """Run a sweep whose runs are processes of their own, one at a time."""
    return run_sweep(read(folder, *parts), jobs=1)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, list[str]]]:
    """A sweep of two runs, one of which fails: its folder and what came of it."""
    folder = tmp_path_factory.mktemp("sweep")
    write_inputs(folder)
    return folder, sweep_here(folder, BASE, FAST, ARMS, BROKEN, TEST)


def test_a_failing_run_stops_no_other(first: tuple[Path, tuple[str, list[str]]]) -> None:
    """The run that fails is reported with its last lines; the other is trained, has written, and is scored.

    Its command in results.json is the one in its record, whose configuration is that of the sweep's run.
    """
    folder, (table, (failure,)) = first
    assert failure.startswith("broken failed: student-train, exit code 2; sweep/broken.log ends with:\n")
    assert "--topk must be between 1 and the 4 that the cache holds, not 99" in failure.splitlines()[-1]
    found = results(folder)
    assert found["unfinished"] == ["broken"]
    (run,) = found["runs"]
    assert (run["row"], run["settings"]["alpha"]) == ("<b>", 1)
    assert run["exported_steps"] == [2, 4]
    assert [score["name"] for score in run["scores"]["t"]] == ["bleu", "chrf"]
    manifest = json.loads((folder / "cache" / "manifest.json").read_text())
    assert run["cache"] == manifest["root"]
    assert "<b>" in table
    assert "0 of 1" in table
    record = json.loads((folder / "sweep" / run["folder"] / "run.json").read_text())
    assert ["kdcache", *record["argv"]] == run["command"]
    assert record["config"] == recorded(read(folder, BASE, FAST, ARMS, BROKEN, TEST).students[0].config)
    assert run["valid_nll"] == record["result"]["averaged_valid_nll"]


def test_what_is_finished_is_not_repeated(first: tuple[Path, tuple[str, list[str]]]) -> None:
    """With the failing run taken out and a name changed, nothing runs; what is there is found by its settings.

    A run that the file does not list is left alone and counted.
    """
    folder, _ = first
    (entry,) = results(folder)["runs"]
    shutil.copytree(folder / "sweep" / entry["folder"], folder / "sweep" / "unlisted")
    before = state(folder)
    _, failures = sweep_here(folder, BASE, FAST, ARMS.replace("<b>", "other"), TEST)
    assert failures == []
    assert state(folder) == before
    found = results(folder)
    (run,) = found["runs"]
    assert (run["name"], found["unfinished"], found["not_listed"]) == ("other", [], 1)
    assert run["folder"] == entry["folder"] != "other"
    assert entry["student"] == run["student"]


def test_what_other_settings_wrote_is_made_anew(first: tuple[Path, tuple[str, list[str]]]) -> None:
    """With other metrics only the scores are made anew; the student and what it wrote stay."""
    folder, _ = first
    before = state(folder)
    sweep_here(folder, BASE, FAST, ARMS, TEST.replace('"chrf"', '"rouge"'))
    (run,) = results(folder)["runs"]
    assert [score["name"] for score in run["scores"]["t"]] == ["bleu", "rouge1", "rouge2", "rougeL"]
    changed = [path.name for path, moment in state(folder).items() if before[path] != moment]
    assert changed == [f"{run['folder']}.t.json"]


def test_texts_are_checked_before_anything_runs(tmp_path: Path) -> None:
    """A reference of another length is an error at once, and no folder appears; so is an unknown number of jobs."""
    write_inputs(tmp_path)
    (tmp_path / "test.tgt").write_text("one line\n")
    file = write_file(tmp_path, BASE, FAST, TEST)
    done = run_here("sweep", file)
    assert (done.returncode, "reference 1 has 1 lines" in done.stderr) == (1, True)
    assert not (tmp_path / "sweep").exists()
    assert run_here("sweep", file, "--jobs", "0").returncode == 2


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """A dry run lists every run with its steps, from another folder as well, and no file appears."""
    write_inputs(tmp_path)
    file = write_file(tmp_path, BASE, FAST, "[grid]\nseed = [1, 2]", TEST)
    before = sorted(tmp_path.rglob("*"))
    done = run_here("sweep", file, "--dry-run", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["seed=1", "4"], ["seed=2", "4"]]
    assert lines[4].startswith("all, ")
    assert sorted(tmp_path.rglob("*")) == before


# Stopped and killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sweep of two longer runs that nothing disturbs: the folder of its inputs, and its results."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_inputs(folder)
    file = write_file(folder, BASE, STEPS, LONG, TEST)
    done = run_cli("sweep", file, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    return folder, results(folder)


def start(folder: Path) -> subprocess.Popen[str]:
    """A sweep in a process of its own."""
    command = [sys.executable, str(ROOT / "cli.py"), "sweep", "sweep.toml", "--jobs", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def written(folder: Path) -> dict[Path, int]:
    """When the runs have last written a step."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("sweep/*/metrics.jsonl")}


def children_of(folder: Path) -> list[int]:
    """Processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").resolve() == folder.resolve():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_disturbed_sweep_ends_as_an_undisturbed_one(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, number: signal.Signals
) -> None:
    """Killed or stopped again and again, the sweep leaves no process behind and ends in the same results.json.

    A stopped run has saved what it had and continues after a step that it had taken. A sweep that follows at once on
    a killed one, whose runs are still stopping, waits for them.
    """
    source, expected = undisturbed
    folder = tmp_path / "work"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("sweep"))
    generator = random.Random(int(number))
    stopped: set[Path] = set()
    for repetition in range(2):
        before = written(folder)
        process, end = start(folder), time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end and written(folder) == before:
            time.sleep(0.05)
        time.sleep(generator.uniform(0, 4) * repetition)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        if process.returncode == 0 and repetition:
            break
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), said
        assert not (folder / "sweep" / "results.json").exists()
        stopped |= {path for path in folder.glob("sweep/alpha=?.?.log") if "Stopped by SIG" in path.read_text()}
        if number != signal.SIGKILL:
            assert children_of(folder) == []
            assert stopped
    process = start(folder)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert results(folder) == expected
    assert children_of(folder) == []
    for path in stopped:
        assert "Continuing after step" in (path.with_suffix("") / "kdcache.log").read_text()
