"""The benchmark beside other toolkits: what it counts, and that its probe sees the steps of a real run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import peers, peers_arms
from benchmarks.peers_arms import Times, ToolError, Work
from benchmarks.peers_setup import Material
from kdcache.cache.reader import CacheReader


def test_the_first_steps_are_not_counted() -> None:
    """Skipping two of five steps counts the targets of the last three over the time since the second's end."""
    times = Times([1.0, 9.0, 10.0, 12.0, 14.0], [])
    found = peers.steady(times, [7, 7, 10, 20, 30], 2)
    assert found == peers.Measured(rate=60 / 5, per_step=20)
    with pytest.raises(ToolError, match="took 5 steps where 4 were expected"):
        peers.steady(times, [1, 2, 3, 4], 2)


def work_on(cache: Path, folder: Path) -> Work:
    nothing = folder / "nothing"
    return Work(Material(cache, nothing, nothing, nothing, nothing, CacheReader(cache).tokenizer()), "tiny", 1)


def test_an_epoch_has_all_targets(small_cache: Path, tmp_path: Path) -> None:
    """The targets of the steps of two epochs are twice those of the cache."""
    work = work_on(small_cache, tmp_path)
    total = CacheReader(small_cache).n_targets
    targets = peers.own_targets(work, 500, 200)
    steps = next(i for i in range(1, 200) if sum(targets[:i]) == total)
    assert sum(targets[: 2 * steps]) == 2 * total


def test_the_probe_sees_every_step(small_cache: Path, tmp_path: Path) -> None:
    """Below the probe `kdcache student-train` takes as many steps as were asked for, and their ends rise."""
    arguments = peers_arms.kdcache(work_on(small_cache, tmp_path), tmp_path, "float32", 500, 7, 1.0)
    times = peers_arms.train("kdcache", Path(sys.executable), arguments, tmp_path, 1)
    assert len(times.ends) == 7
    assert times.ends == sorted(times.ends)
    assert json.loads((tmp_path / "student" / "run.json").read_text())["config"]["objective"]["alpha"] == 1.0


def test_a_tool_that_fails_is_named(tmp_path: Path) -> None:
    """The error has the exit code and the last line of the tool's output."""
    with pytest.raises(ToolError, match=r"failed \(2\): .*No such command"):
        peers_arms.train("kdcache", Path(sys.executable), ["nothing"], tmp_path, 1)
