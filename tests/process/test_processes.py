"""Several processes on one cache: each makes its share, and together they make what one would have made."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_cli, run_here, run_python
from models import TORCHRUN, toy_lines, toy_text

from kdcache.cache.reader import CacheReader
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_shards import dump, interleaved_shards
from kdcache.errors import UsageError
from kdcache.process.ranks import Process, this_process
from kdcache.teacher.masked_lm import Teacher
from kdcache.text.corpus import TextFiles


def dump_arguments(teacher: Path, text: TextFiles, output: Path) -> list[str]:
    """A dump into four shards."""
    files = ["--source", str(text.source), "--target", str(text.target)]
    return ["dump-logits", "--teacher", str(teacher), *files, "--output", str(output), "--shard-pairs", "40"]


def assert_same_cache(one: Path, other: Path) -> None:
    """Two caches hold the same plan and, array for array, the same values."""
    first, second = CacheReader(one), CacheReader(other)
    assert first.plan == second.plan
    for index in range(first.plan.n_shards):
        a, b = first.shard(index), second.shard(index)
        for name in ("source_ids", "source_offsets", "target_ids", "target_offsets"):
            np.testing.assert_array_equal(getattr(a.pairs, name), getattr(b.pairs, name))
        np.testing.assert_array_equal(a.soft.token_ids, b.soft.token_ids)
        np.testing.assert_array_equal(a.soft.log_probs, b.soft.log_probs)
        np.testing.assert_array_equal(a.target_log_prob, b.target_log_prob)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("bounds", [None, (3, 17), (0, 20), (5, 6), (8, 90)])
def test_every_shard_belongs_to_one_process(count: int, bounds: tuple[int, int] | None) -> None:
    """Whatever the number of processes, each shard inside the bounds is up to the process of its remainder only."""
    runs = [interleaved_shards(20, bounds, Process(rank, count)) for rank in range(count)]
    first, stop = bounds or (0, 20)
    assert sorted(index for run in runs for index in run) == list(range(first, min(stop, 20)))
    assert all(index % count == rank for rank, run in enumerate(runs) for index in run)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Process()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Process(3, 8, 1)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, Process(0, 2, 0)),
        ({"RANK": "2", "WORLD_SIZE": "2"}, None),
        ({"RANK": "0"}, None),
        ({"RANK": "x", "WORLD_SIZE": "2"}, None),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, None),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Process | None) -> None:
    """Rank and number of processes come from torchrun's variables, and nonsense in them is refused."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        with pytest.raises(UsageError, match="RANK"):
            this_process()
    else:
        assert this_process() == expected


@pytest.mark.full
def test_torchrun_makes_the_same_cache(
    tmp_path: Path, small_teacher: Path, small_text: TextFiles, small_cache: Path
) -> None:
    """Two processes under torchrun write a complete cache that equals, array for array, that of one process."""
    output = tmp_path / "cache"
    done = run_python(*TORCHRUN, ROOT / "cli.py", *dump_arguments(small_teacher, small_text, output))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 still to do") == 2
    assert_same_cache(output, small_cache)


def test_fault_11_one_process_dies(
    tmp_path: Path, small_teacher: Path, small_text: TextFiles, small_cache: Path
) -> None:
    """When one of two processes is killed the other finishes its share; the command run again makes the rest."""
    output = tmp_path / "cache"
    arguments = dump_arguments(small_teacher, small_text, output)
    dying = run_cli(*arguments, WORLD_SIZE="2", RANK="1", KDCACHE_FAILPOINT="shard-published:1")
    assert dying.returncode == -signal.SIGKILL
    living = run_here(*arguments, WORLD_SIZE="2", RANK="0")
    assert living.returncode == 0, living.stderr
    assert "others are still missing" in living.stderr
    assert not (output / "manifest.json").exists()
    assert run_here(*arguments).returncode == 0
    assert_same_cache(output, small_cache)
    assert not list(output.rglob("*.invalid-*")), "the shard that the dead process had published was sound"


def test_fault_15_three_processes_at_once(tmp_path: Path, small_teacher: Path) -> None:
    """Three processes at once on shards, pairs and targets that three does not divide: each target exactly once."""
    text, output = toy_text(tmp_path, 50), tmp_path / "cache"
    config = DumpConfig(str(small_teacher), text, shard_pairs=8, device="cpu")
    dump(config, tmp_path / "one")
    command = [sys.executable, str(ROOT / "cli.py"), *dump_arguments(small_teacher, text, output), "--shard-pairs", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "3"}
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    # Shards 0, 3 and 6; 1 and 4; 2 and 5: whoever starts last has not less to do because others were quick.
    assert [re.findall(r" (\d) still to do", error) for error in errors] == [["3"], ["2"], ["2"]]
    reader = CacheReader(output)
    tokenizer = Teacher.load(small_teacher).tokenizer
    targets = [ids for line in toy_lines("tgt", 50) for ids in (*tokenizer.encode([line])[0], tokenizer.special.end)]
    stored = np.concatenate([reader.shard(index).pairs.target_ids for index in range(7)])
    assert stored.tolist() == targets
    assert [number % 3 for number in (7, 50, len(targets))] == [1, 2, 1]
    assert_same_cache(output, tmp_path / "one")


def test_bounds_beyond_the_cache_are_refused(tmp_path: Path, small_teacher: Path, small_text: TextFiles) -> None:
    """--shards that begin after the last shard, or are no bounds at all, are usage errors that say what there is."""
    arguments = dump_arguments(small_teacher, small_text, tmp_path / "cache")
    for bounds, message in (("4:9", "shards 0 to 3"), ("3:3", "with A below B"), ("3", "two whole numbers")):
        done = run_here(*arguments, "--shards", bounds)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_loop_over_shards_makes_the_same_cache(
    tmp_path: Path, small_teacher: Path, small_text: TextFiles, small_cache: Path
) -> None:
    """Two commands that make half of the shards each, as a job array would, complete the cache."""
    arguments = dump_arguments(small_teacher, small_text, tmp_path / "cache")
    first = run_here(*arguments, "--shards", "2:4")
    assert (first.returncode, (tmp_path / "cache" / "manifest.json").exists()) == (0, False)
    assert run_here(*arguments, "--shards", "0:2").returncode == 0
    assert_same_cache(tmp_path / "cache", small_cache)


def test_processes_that_cannot_meet_are_refused(tmp_path: Path, small_cache: Path) -> None:
    """Training needs to know where its processes meet: RANK and WORLD_SIZE alone are refused, with a remedy."""
    arguments = ["student-train", "--cache", small_cache, "--output", tmp_path / "s", "--max-steps", "1"]
    done = run_here(*arguments, RANK="0", WORLD_SIZE="2")
    assert done.returncode == 2
    assert "Start training with torchrun" in done.stderr
