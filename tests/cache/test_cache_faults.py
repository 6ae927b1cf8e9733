"""The fault matrix of the cache, rows 1 to 5 and 11 to 13: processes that die, stall and race."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import caches
import h5py
import pytest
from caches import FAILED, contents, make_arrays, make_plan, tokenizer, write_cache
from faults import (
    N_FILES,
    PLAN,
    QUICK,
    RECORD_0,
    RECORDS,
    REPLACED,
    SHARD_0,
    SHARDS,
    check_after_another_run,
    problems_of,
    records_in,
    run,
    stall,
    start,
    wake,
)

from kdcache.cache import schema
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.files.failpoints import VARIABLE

# How often a run reaches each point, and at which times the quick tier kills it there.
POINTS = {
    "claiming": (1, [1]),
    "file-opened": (N_FILES, QUICK),
    "file-written": (N_FILES, (2, *QUICK)),
    "file-synced": (N_FILES, QUICK),
    "file-published": (N_FILES - REPLACED, [1, 2, 3]),
    "file-replaced": (REPLACED, [REPLACED]),
    "shard-published": (2, [1]),
    "record-published": (2, [1]),
    "finalizing": (1, [1]),
}


def kill_points() -> list[object]:
    """Every point of the protocol, at every file."""
    return [
        pytest.param(name, number, marks=() if number in quick else (pytest.mark.full,), id=f"{name}-{number}")
        for name, (total, quick) in POINTS.items()
        for number in range(1, total + 1)
    ]


@pytest.mark.parametrize(("name", "number"), kill_points())
def test_fault_01_kill_at_each_step(cache: Path, reference: dict[str, bytes], name: str, number: int) -> None:
    """A process killed at any step of the protocol leaves nothing that the next run does not complete."""
    killed = run(cache, PLAN, **{VARIABLE: f"{name}:{number}"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    check_after_another_run(cache, reference)


@pytest.mark.full
@pytest.mark.parametrize("name", POINTS)
def test_fault_01_no_step_is_left_out(cache: Path, reference: dict[str, bytes], name: str) -> None:
    """No point is reached more often than the test above kills at it."""
    undisturbed = run(cache, PLAN, **{VARIABLE: f"{name}:{POINTS[name][0] + 1}"})
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert contents(cache) == reference


def kill_at_random(cache: Path, plan: Plan, seed: int) -> list[int]:
    """Kill runs after a few more commits each until one comes through; return how many records each kill left."""
    generator, left = random.Random(seed), []
    while True:
        process = start(cache, plan)
        wanted = len(records_in(cache)) + generator.randint(1, 4)
        while process.poll() is None and len(records_in(cache)) < wanted:
            time.sleep(0.0005)
        time.sleep(generator.random() * 0.004)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            return left
        assert process.returncode == -signal.SIGKILL
        left.append(len(records_in(cache)))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 26))])
def test_fault_02_kill_at_random_times(cache: Path, tmp_path: Path, seed: int) -> None:
    """Processes killed at random moments, over and over, end in the undisturbed cache."""
    plan = make_plan(n_pairs=30, shard_pairs=2)
    assert write_cache(tmp_path / "reference", plan)
    left = kill_at_random(cache, plan, seed)
    assert len(left) >= 2
    assert left == sorted(left)
    check_after_another_run(cache, contents(tmp_path / "reference"), plan)


def test_fault_03_kill_while_resuming(cache: Path, reference: dict[str, bytes]) -> None:
    """Runs that resume and are killed in turn, each a step later, lose nothing that was committed."""
    left = []
    for point in ("shard-published:1", "record-published:1", "file-synced:3", "record-published:1", "finalizing:1"):
        killed = run(cache, PLAN, **{VARIABLE: point})
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
        left.append(len(records_in(cache)))
    assert left == [0, 1, 1, 2, 2]
    check_after_another_run(cache, reference)


@pytest.fixture(scope="module")
def orphaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose process died between the first shard and its record."""
    folder = tmp_path_factory.mktemp("orphaned") / "cache"
    assert run(folder, PLAN, **{VARIABLE: "shard-published:1"}).returncode == -signal.SIGKILL
    assert records_in(folder) == []
    return folder


@pytest.fixture
def orphan(orphaned: Path, cache: Path) -> Path:
    """The shard without a record in a copy of that cache."""
    shutil.copytree(orphaned, cache)
    return cache / SHARDS[0]


def test_fault_04_shard_without_record_is_adopted(cache: Path, orphan: Path, reference: dict[str, bytes]) -> None:
    """A sound shard without a record is committed as it lies, not computed again."""
    inode = orphan.stat().st_ino
    assert CacheWriter(cache, PLAN, tokenizer()).adopt(0) is not None
    check_after_another_run(cache, reference)
    assert orphan.stat().st_ino == inode


def flip(shard: Path, data: bytes) -> None:
    with h5py.File(h5py.h5f.open_file_image(data)) as file:
        at = file["topk_log_probs"].id.get_chunk_info(0).byte_offset + 20
    shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def other_plan(shard: Path, data: bytes) -> None:
    plan = make_plan(n_pairs=6, shard_pairs=6)
    shard.write_bytes(caches.image(plan, 0, make_arrays(plan, 0)))


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "flip": flip,
    "cut": lambda shard, data: shard.write_bytes(data[:-1]),
    "longer": lambda shard, data: shard.write_bytes(data + b"\0"),
    "empty": lambda shard, data: shard.write_bytes(b""),
    "other-plan": other_plan,
    "other-shard": lambda shard, data: shard.write_bytes(caches.image(PLAN, 1, make_arrays(PLAN, 1))),
    "pipe": lambda shard, data: os.mkfifo(shard),
    "folder": lambda shard, data: shard.mkdir(),
    "dangling": lambda shard, data: shard.symlink_to(shard.parent / "nowhere"),
    "link": lambda shard, data: shard.symlink_to(shard.parents[2] / "elsewhere"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_fault_04_bad_shard_without_record_is_set_aside(
    cache: Path, orphan: Path, tmp_path: Path, reference: dict[str, bytes], damage: str
) -> None:
    """What is not the shard is moved aside, never overwritten and never followed, and the shard is made anew."""
    data = orphan.read_bytes()
    (tmp_path / "elsewhere").write_bytes(data)
    orphan.unlink()
    DAMAGES[damage](orphan, data)
    assert write_cache(cache, PLAN)
    assert len(list(cache.glob("shards/00000.h5.invalid-*"))) == 1
    assert (tmp_path / "elsewhere").read_bytes() == data
    check_after_another_run(cache, reference)


def test_fault_04_kill_while_setting_aside(cache: Path, orphan: Path, reference: dict[str, bytes]) -> None:
    """A process killed just before it moves a bad shard aside leaves it to the next run."""
    orphan.write_bytes(b"no shard")
    assert run(cache, PLAN, **{VARIABLE: "setting-aside:1"}).returncode == -signal.SIGKILL
    assert orphan.read_bytes() == b"no shard"
    check_after_another_run(cache, reference)


@pytest.mark.parametrize("before", [None, pytest.param(b"{}", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "point", ["finalizing:1", "file-opened:{}", "file-written:{}", "file-synced:{}", "file-replaced:{}"]
)
def test_fault_05_kill_in_finalize(cache: Path, reference: dict[str, bytes], point: str, before: bytes | None) -> None:
    """A kill in finalize leaves the old manifest, none or the new one, never a part of one."""
    assert write_cache(cache, PLAN)
    manifest = cache / schema.MANIFEST_FILE
    manifest.unlink()
    if before is not None:
        manifest.write_bytes(before)
    # A run with nothing else to do writes the tokenizer's two files and the manifest.
    assert run(cache, PLAN, **{VARIABLE: point.format(3)}).returncode == -signal.SIGKILL
    found = manifest.read_bytes() if manifest.exists() else None
    assert found == (reference[schema.MANIFEST_FILE] if point.startswith("file-replaced") else before)
    check_after_another_run(cache, reference)


def test_fault_11_one_of_several_processes_dies(cache: Path, tmp_path: Path) -> None:
    """When one of four processes on a cache is killed, the others finish and nothing is lost."""
    plan = make_plan(n_pairs=40, shard_pairs=4)
    assert write_cache(tmp_path / "reference", plan)
    armed = [{VARIABLE: "shard-published:1"}, {}, {}, {}]
    processes = [start(cache, plan, **more) for more in armed]
    codes = []
    for process in processes:
        process.communicate(timeout=60)
        codes.append(process.returncode)
    # The first may lose every race and then never reaches the point at which it would die.
    assert codes[0] in (-signal.SIGKILL, 0)
    assert codes[1:] == [0, 0, 0]
    check_after_another_run(cache, contents(tmp_path / "reference"), plan)


STALLS = [
    ("claiming:1", True),
    pytest.param(f"file-opened:{SHARD_0}", True, marks=pytest.mark.full),
    (f"file-synced:{SHARD_0}", True),
    ("shard-published:1", False),
    pytest.param(f"file-synced:{RECORD_0}", False, marks=pytest.mark.full),
    pytest.param("record-published:1", False, marks=pytest.mark.full),
    ("finalizing:1", False),
]


@pytest.mark.parametrize(("point", "overtaken"), STALLS)
def test_fault_12_stalled_process_wakes(cache: Path, reference: dict[str, bytes], point: str, overtaken: bool) -> None:
    """A process that stalls anywhere and wakes after others finished changes nothing: the first publication wins."""
    stalled = stall(cache, point, CACHE_NOISE="1")
    try:
        other = run(cache, PLAN)
        assert other.returncode == 0, other.stderr
        before = contents(cache)
    finally:
        woken = wake(stalled)
    assert woken.returncode == 0, woken.stderr
    after = contents(cache)
    # The stalled process's own temporary file is gone once it woke.
    assert after == {name: data for name, data in before.items() if ".tmp-" not in name}
    assert problems_of(cache) == []
    assert (after[SHARDS[0]] == reference[SHARDS[0]]) == overtaken


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(2, 21))])
def test_fault_13_launches_at_once(cache: Path, seed: int) -> None:
    """Several launches at once, each with its own last bits, make one sound cache; every shard is one process's."""
    plan = make_plan(n_pairs=24, shard_pairs=2)
    processes = [start(cache, plan, CACHE_NOISE=str(10 * seed + i)) for i in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert problems_of(cache) == []
    reader = CacheReader(cache)
    assert not list(cache.rglob(".tmp-*"))
    assert not list(cache.rglob("*.invalid-*"))
    for index in range(plan.n_shards):
        pairs = make_arrays(plan, index).pairs
        labels = [caches.label(pairs, plan, index + 1_000 * (10 * seed + i)) for i in range(4)]
        assert sum(caches.equal(reader.shard(index), one) for one in labels) == 1


def test_fault_13_two_launches_before_the_same_name(cache: Path) -> None:
    """Of two launches that both have a shard ready for its name, the first stands; the second takes it as it is."""
    first = stall(cache, f"file-synced:{SHARD_0}", CACHE_NOISE="1")
    # The plan is there already: the second launch writes one file less before its shard.
    second = stall(cache, f"file-synced:{SHARD_0 - 1}", CACHE_NOISE="2")
    assert len(list(cache.glob("shards/.tmp-00000.h5*"))) == 2
    done = wake(first)
    assert done.returncode == 0, done.stderr
    before = {name: (cache / name).read_bytes() for name in (*SHARDS, *RECORDS, schema.MANIFEST_FILE)}
    done = wake(second)
    assert done.returncode == 0, done.stderr
    assert {name: (cache / name).read_bytes() for name in before} == before
    assert problems_of(cache) == []
    assert not list(cache.rglob(".tmp-*"))


def test_fault_13_launch_that_loses_between_shard_and_record(cache: Path) -> None:
    """A launch that finds another's shard under the name, without a record yet, commits that shard and not its own."""
    second = stall(cache, f"file-synced:{SHARD_0}", CACHE_NOISE="2")
    first = stall(cache, "shard-published:1", CACHE_NOISE="1")
    published = (cache / SHARDS[0]).read_bytes()
    assert not (cache / RECORDS[0]).exists()
    for process in (second, first):
        done = wake(process)
        assert done.returncode == 0, done.stderr
    assert (cache / SHARDS[0]).read_bytes() == published
    assert problems_of(cache) == []


def test_fault_13_launches_of_two_plans(cache: Path) -> None:
    """Of two launches with different plans on one folder one completes; the other is refused, naming the field."""
    plans = [make_plan(n_pairs=24, shard_pairs=2), make_plan(n_pairs=24, shard_pairs=3)]
    processes = [start(cache, plan) for plan in plans]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, FAILED]
    assert "MismatchError" in errors[codes.index(FAILED)]
    assert "--shard-pairs was" in errors[codes.index(FAILED)]
    assert CacheReader(cache).plan == plans[codes.index(0)]
