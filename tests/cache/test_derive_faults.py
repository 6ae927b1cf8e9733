"""Faults while caches are made from caches: killed, stopped, damaged, several at once; the end is always the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from caches import contents, flip_bit
from conftest import ROOT, run_here
from families import World, same, write

from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.errors import CorruptError, MismatchError
from kdcache.files.failpoints import VARIABLE

WORLD = World(n_pairs=14)
COMMANDS = ("transcode", "merge")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two caches of the same text, cut differently."""
    folder = tmp_path_factory.mktemp("sources")
    return [WORLD.write(folder / str(m), m, shard_pairs=4 + m) for m in range(2)]


def arguments(command: str, sources: list[Path], output: Path) -> list[str]:
    if command == "merge":
        return ["merge", *map(str, sources), str(output)]
    return ["transcode", str(sources[0]), str(output), "--shard-pairs", "5", "--topk", "3"]


def start(command: str, sources: list[Path], output: Path, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    pipe = subprocess.PIPE
    line = [sys.executable, str(ROOT / "cli.py"), *arguments(command, sources, output)]
    return subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True)


def kill_at(point: str, command: str, sources: list[Path], output: Path) -> None:
    """Run the command in a process that is killed at a step of the commit protocol."""
    with start(command, sources, output, **{VARIABLE: point}) as process:
        process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def run(command: str, sources: list[Path], output: Path) -> None:
    done = run_here(*arguments(command, sources, output))
    assert done.returncode == 0, done.stderr


def files(output: Path) -> dict[str, bytes]:
    """What belongs to the cache; run.json has times in it."""
    return {name: data for name, data in contents(output).items() if name not in ("run.json", "kdcache.log")}


@pytest.fixture(scope="module")
def undisturbed(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of each command's result when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for command in COMMANDS:
        run(command, sources, folder / command)
    return {command: files(folder / command) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("point", ["file-synced:4", "shard-published:2", "record-published:1", "finalizing:1"])
def test_killed_and_run_again(
    command: str, point: str, sources: list[Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """Killed at a step of the commit protocol, the same command completes the cache with equal files."""
    kill_at(point, command, sources, tmp_path / "made")
    assert not (tmp_path / "made" / "manifest.json").exists()
    run(command, sources, tmp_path / "made")
    assert files(tmp_path / "made") == undisturbed[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_two_processes_share_the_work(
    command: str, sources: list[Path], undisturbed: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    """Two processes as torchrun starts them make half of the shards each, and the files are those of one process."""
    ranks = [start(command, sources, tmp_path / "made", RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    assert files(tmp_path / "made") == undisturbed[command]


def test_one_of_two_processes_leaves_the_rest(sources: list[Path], tmp_path: Path) -> None:
    """A process alone among two makes its run of the shards, says that others are missing, and writes no manifest."""
    done = run_here(*arguments("transcode", sources, tmp_path / "made"), RANK="1", WORLD_SIZE="2")
    assert done.returncode == 0
    assert "others are still missing" in done.stderr
    assert sorted(path.name for path in (tmp_path / "made" / "shards").iterdir()) == [
        f"0000{index}.{kind}" for index in (1, 2) for kind in ("h5", "json")
    ]
    assert not (tmp_path / "made" / "manifest.json").exists()


def by_transcode(sources: list[Path], output: Path) -> None:
    transcode(TranscodeConfig(str(sources[0]), shard_pairs=5, topk=3), output)


def by_merge(sources: list[Path], output: Path) -> None:
    merge(MergeConfig(tuple(map(str, sources))), output)


@pytest.mark.parametrize(("make", "sound_before"), [(by_transcode, []), (by_merge, ["00000"])])
def test_a_damaged_source_is_refused(
    make: Callable[[list[Path], Path], None], sound_before: list[str], sources: list[Path], tmp_path: Path
) -> None:
    """With one flipped bit in a source nothing that needs that shard is committed, and the cache stays incomplete.

    Shard 1 of the source holds the pairs 4 to 7. Shard 0 of the transcoded cache needs pair 4; that of the average
    has the pairs 0 to 3, which are sound. After the source was repaired the same command completes it.
    """
    copies = [Path(shutil.copytree(source, tmp_path / source.name)) for source in sources]
    sound = (copies[0] / "shards" / "00001.h5").read_bytes()
    flip_bit(copies[0] / "shards" / "00001.h5")
    with pytest.raises(CorruptError, match=r"00001\.h5: its SHA-256 is not the committed one"):
        make(copies, tmp_path / "made")
    assert [record.stem for record in (tmp_path / "made" / "shards").glob("*.json")] == sound_before
    assert not (tmp_path / "made" / "manifest.json").exists()
    with pytest.raises(CorruptError, match="incomplete"):
        CacheReader(tmp_path / "made")
    (copies[0] / "shards" / "00001.h5").write_bytes(sound)
    make(copies, tmp_path / "made")
    make(copies, tmp_path / "whole")
    assert same(tmp_path / "made", tmp_path / "whole")


@pytest.mark.parametrize("make", [by_transcode, by_merge])
def test_an_incomplete_source_is_refused(
    make: Callable[[list[Path], Path], None], sources: list[Path], tmp_path: Path
) -> None:
    """A source without a manifest is refused by the name of the command that makes it whole; no folder is made."""
    copies = [Path(shutil.copytree(source, tmp_path / source.name)) for source in sources]
    (copies[0] / "manifest.json").unlink()
    with pytest.raises(CorruptError, match=r"4 of 4 shards are committed\. Run the same kdcache dump-logits"):
        make(copies, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_another_source_on_resume_is_refused(sources: list[Path], tmp_path: Path) -> None:
    """A half-made average is not continued with other sources, whose content would be mixed into it."""
    kill_at("record-published:1", "merge", sources, tmp_path / "made")
    third = WORLD.write(tmp_path / "third", 2, shard_pairs=5)
    before = files(tmp_path / "made")
    with pytest.raises(MismatchError) as caught:
        by_merge([sources[0], third], tmp_path / "made")
    assert caught.value.field in ("teacher", "sources")
    # A source with the same plan and other values is another source.
    plan = WORLD.plan(1, shard_pairs=5)
    arrays = WORLD.arrays(1, plan)
    changed = write_changed(tmp_path / "changed", plan, arrays)
    with pytest.raises(MismatchError) as caught:
        by_merge([sources[0], changed], tmp_path / "made")
    assert caught.value.field == "sources"
    after = files(tmp_path / "made")
    assert {name: data for name, data in before.items() if ".tmp" not in name} == {
        name: data for name, data in after.items() if ".tmp" not in name
    }


def write_changed(folder: Path, plan: Plan, arrays: ShardArrays) -> Path:
    """A cache whose last words are a little less probable."""
    values = arrays.soft.log_probs.copy()
    free = arrays.soft.token_ids[:, -1] != arrays.pairs.target_ids
    outside = (arrays.soft.token_ids != arrays.pairs.target_ids[:, None]).all(axis=1)
    rows = np.flatnonzero(free & ~outside)[:1]
    values[rows, -1] -= np.float16(0.5)
    return write(folder, plan, dataclasses.replace(arrays, soft=dataclasses.replace(arrays.soft, log_probs=values)))


def test_the_report_covers_what_an_earlier_run_made(sources: list[Path], tmp_path: Path) -> None:
    """After a kill and a resume, `run.json` says the same about the mass as after one run."""
    kill_at("record-published:2", "merge", sources, tmp_path / "made")
    run("merge", sources, tmp_path / "made")
    run("merge", sources, tmp_path / "whole")
    results = [json.loads((tmp_path / name / "run.json").read_text())["result"] for name in ("made", "whole")]
    assert results[0] == results[1]
    assert 0 < results[0]["mass"]["tails"] < 1
