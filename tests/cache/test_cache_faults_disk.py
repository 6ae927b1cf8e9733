"""The fault matrix of the cache, rows 6 to 10, 20 and 22: disks that fail, and corpora at the edge."""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import caches
import pytest
from caches import FAILED, contents, make_plan, tokenizer, write_cache
from conftest import run_here
from faults import (
    FILES,
    MANIFEST,
    N_FILES,
    PLAN,
    QUICK,
    RECORD_0,
    RECORDS,
    REPLACED,
    SHARD_0,
    SHARDS,
    check_after_another_run,
    check_refused,
    command,
    environment,
    faulty,
    records_in,
    run,
    stall,
    wake,
)

from kdcache.cache import hdf5, schema
from kdcache.cache.audit import verify_shard
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.reader import CacheReader
from kdcache.errors import CorruptError, DataError
from kdcache.files.atomic import sha256
from kdcache.files.failpoints import VARIABLE
from kdcache.text.corpus import Corpus, TextFiles


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.97])
def test_fault_06_disk_full(cache: Path, reference: dict[str, bytes], share: float) -> None:
    """A full disk is reported with the bytes needed, whatever was written before; with room, the run goes on."""
    room = int(share * sum(map(len, reference.values())))
    check_refused(run(cache, PLAN, **faulty(cache, f"full:{room}")), "No space left", "bytes were to be written")
    assert not list(cache.rglob(".tmp-*"))
    check_after_another_run(cache, reference)


def test_fault_06_small_disk(tmp_path: Path) -> None:
    """The same on a real file system of 2 MB: nothing crashes at exit, and after room is made the cache completes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here; test_fault_06_disk_full fills a disk without it")
    try:
        assert write_cache(tmp_path / "reference", PLAN)
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 20_000))
        check_refused(run(disk / "cache", PLAN), "No space left", "bytes were to be written")
        filler.unlink()
        check_after_another_run(disk / "cache", contents(tmp_path / "reference"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_fault_07_file_size_limit(cache: Path, reference: dict[str, bytes]) -> None:
    """A limit on the size of files is reported like a full disk, and nothing is committed."""
    limit = min(len(reference[name]) for name in SHARDS) - 1
    assert limit > max(len(data) for name, data in reference.items() if name not in SHARDS)
    process = subprocess.Popen(
        command(cache, PLAN),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    out, err = process.communicate(timeout=60)
    finished = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    check_refused(finished, "File too large", "bytes were to be written", "ulimit -f")
    assert records_in(cache) == []
    check_after_another_run(cache, reference)


@pytest.mark.parametrize("call", ["write", "fsync", "fsyncdir"])
@pytest.mark.parametrize("number", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in FILES])
def test_fault_08_input_output_error(cache: Path, reference: dict[str, bytes], call: str, number: int) -> None:
    """An I/O error of any write or sync commits nothing: neither file nor name stays, and a rerun makes both."""
    # The new folder of the shards is synced between the tokenizer's files and the first shard.
    turn = number + 1 if call == "fsyncdir" and number > REPLACED else number
    failed = run(cache, PLAN, **faulty(cache, f"{call}:{turn}"))
    check_refused(failed, "Input/output error", "Nothing was committed")
    committed = 2 if number == MANIFEST else max(0, (number - RECORD_0 + 1) // 2)
    assert records_in(cache)[committed:] == []
    if call == "fsyncdir" and number in (SHARD_0, RECORD_0):
        # A name whose folder could not be synced is withdrawn: it might not survive a power cut.
        assert not (cache / (SHARDS + RECORDS)[0 if number == SHARD_0 else 2]).exists()
    check_after_another_run(cache, reference)


def test_fault_09_short_writes_and_interrupts(cache: Path, reference: dict[str, bytes]) -> None:
    """Writes of at most 7 bytes, every other one interrupted by a signal, give the same files."""
    finished = run(cache, PLAN, **faulty(cache, "short"))
    assert finished.returncode == 0, finished.stderr
    assert contents(cache) == reference


def logged(cache: Path, log: Path) -> list[tuple[str, str, str]]:
    """The calls of an undisturbed run, in order: name, file without its folder, second file."""
    finished = run(cache, PLAN, **faulty(cache, "none", FAULT_LOG=str(log)))
    assert finished.returncode == 0, finished.stderr
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [(call, str(Path(first).name), str(Path(second).name)) for call, first, second in lines]


def test_fault_10_no_name_is_given_to_unsynced_bytes(cache: Path, tmp_path: Path) -> None:
    """Bytes are synced before they get a name, and a shard's name before its record's: a power cut cannot part them."""
    calls = logged(cache, tmp_path / "calls")
    links = {new: (at, old) for at, (call, old, new) in enumerate(calls) if call in ("link", "rename")}
    assert len(links) == N_FILES
    for name, (at, temporary) in links.items():
        synced = calls.index(("fsync", temporary, ""))
        assert max(i for i, call in enumerate(calls) if call[:2] == ("write", temporary)) < synced < at, name
    for index in range(2):
        shard, record = links[schema.shard_name(index)][0], links[schema.record_name(index)][0]
        assert calls.index(("fsync", "shards", ""), shard) < record
    assert calls.index(("fsync", "shards", ""), links[schema.record_name(1)][0]) < links[schema.MANIFEST_FILE][0]
    assert calls.index(("fsync", "cache", ""), links[schema.MANIFEST_FILE][0])


@pytest.mark.parametrize("kept", [0, 1, 4096])
def test_fault_10_truncated_temporary_file(cache: Path, reference: dict[str, bytes], kept: int) -> None:
    """A temporary file that lost its unsynced pages is removed by the next run and never read."""
    assert run(cache, PLAN, **{VARIABLE: f"file-written:{SHARD_0}"}).returncode == -signal.SIGKILL
    (left,) = cache.glob("shards/.tmp-*")
    os.truncate(left, kept)
    check_after_another_run(cache, reference)


def test_fault_10_truncated_shard_with_a_record(cache: Path) -> None:
    """A committed shard that became shorter is refused by writer and reader, which name it and the remedy."""
    assert write_cache(cache, PLAN)
    os.truncate(cache / SHARDS[1], 4096)
    failed = run(cache, PLAN)
    assert failed.returncode == FAILED
    assert "00001.h5" in failed.stderr
    assert f"Delete {cache / RECORDS[1]}" in failed.stderr
    with pytest.raises(CorruptError, match=r"00001\.h5: 4,096 bytes, its record commits"):
        CacheReader(cache).shard(1)


def test_fault_10_the_remedy_works(cache: Path, reference: dict[str, bytes]) -> None:
    """Deleting the record, as the message says, makes the shard anew."""
    assert write_cache(cache, PLAN)
    os.truncate(cache / SHARDS[1], 4096)
    (cache / RECORDS[1]).unlink()
    check_after_another_run(cache, reference)


def test_fault_10_no_record_of_a_shard_that_cannot_be_read(cache: Path, reference: dict[str, bytes]) -> None:
    """A shard is read back before its record is written: bytes that are not what was written are never committed."""
    stalled = stall(cache, "shard-published:1")
    damaged = bytearray((cache / SHARDS[0]).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (cache / SHARDS[0]).write_bytes(damaged)
    failed = wake(stalled)
    assert failed.returncode == FAILED, failed.stderr
    assert failed.stderr.startswith(f"CorruptError: {cache / SHARDS[0]}")
    assert records_in(cache) == []
    assert write_cache(cache, PLAN)
    assert {name: data for name, data in contents(cache).items() if ".invalid-" not in name} == reference


@pytest.mark.parametrize("command", ["dump-logits", "dump-logits --dry-run", "transcode", "merge", "demo", "run"])
def test_fault_54_hdf5_that_writes_unreadable_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """An HDF5 before 2.0 is refused by whatever writes shards before any work is done, and reads them as before."""
    for name in ("one", "two"):
        write_cache(tmp_path / name, dataclasses.replace(PLAN, teacher=sha256(name.encode())))
    monkeypatch.setattr(hdf5, "hdf5_version", lambda: (1, 14, 6))
    output = tmp_path / "output"
    texts = ("--source", "none", "--target", "none")
    arguments: dict[str, list[object]] = {
        "dump-logits": ["--teacher", "none", "--pairs", "none", "--output", output],
        "transcode": [tmp_path / "one", output, "--topk", 2],
        "merge": [tmp_path / "one", tmp_path / "two", output],
        "demo": [output],
        "run": [*texts, *("--valid-source", "none", "--valid-target", "none", "--bert", "none"), "--output", output],
    }
    done = run_here(*command.split(), *arguments[command.split()[0]])
    assert done.returncode == 1
    assert "works with HDF5 1.14.6" in done.stderr
    assert "pip install 'h5py>=3.16'" in done.stderr
    assert not output.exists()
    assert run_here("verify", tmp_path / "one").returncode == 0


def test_fault_54_asked_for_and_installed() -> None:
    """The HDF5 that is asked for by way of h5py, and is installed here, is one that writes readable shards."""
    assert "h5py>=3.16" in (Path(__file__).parents[2] / "setup.cfg").read_text()
    assert hdf5.hdf5_version() >= (2, 0, 0)


def test_fault_20_read_only_folder(cache: Path, reference: dict[str, bytes]) -> None:
    """A read-only file system is an immediate clear error, at the start and when it turns so later."""
    check_refused(run(cache, PLAN, **faulty(cache, "readonly")), "Read-only file system")
    assert not cache.exists()
    assert run(cache, PLAN, **{VARIABLE: "record-published:1"}).returncode == -signal.SIGKILL
    check_refused(run(cache, PLAN, **faulty(cache, "readonly")), "Read-only file system")
    check_after_another_run(cache, reference)


@pytest.mark.parametrize(
    "point", [f"file-opened:{SHARD_0}", f"file-synced:{SHARD_0}", "shard-published:1", "finalizing:1"]
)
def test_fault_20_deleted_folder(cache: Path, reference: dict[str, bytes], point: str) -> None:
    """A folder that is deleted under a running process is a clear error, and a new run starts over."""
    stalled = stall(cache, point)
    shutil.rmtree(cache)
    check_refused(wake(stalled), "No such file or directory", str(cache))
    check_after_another_run(cache, reference)


@pytest.mark.parametrize("place", ["", "shards", "tokenizer", "plan.json", "manifest.json"])
def test_fault_20_something_in_the_way(cache: Path, reference: dict[str, bytes], place: str) -> None:
    """A file where a folder belongs, or a folder where a file belongs, is a clear error."""
    is_file = place in ("", "shards", "tokenizer")
    way = cache / place
    if is_file:
        way.parent.mkdir(exist_ok=True)
        way.write_text("in the way")
    else:
        way.mkdir(parents=True)
    if place == "manifest.json":
        assert run(cache / "other", PLAN).returncode == 0
        shutil.copytree(cache / "other", cache, dirs_exist_ok=True, ignore=lambda *_: ["manifest.json"])
        shutil.rmtree(cache / "other")
    failed = run(cache, PLAN)
    assert failed.returncode == FAILED, failed.stderr
    assert "Traceback" not in failed.stderr
    assert str(way) in failed.stderr
    way.unlink() if is_file else way.rmdir()
    check_after_another_run(cache, reference)


def test_fault_22_empty_corpus(cache: Path, tmp_path: Path) -> None:
    """A corpus without a pair is refused, by the text's reader and by the writer, before anything is written."""
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match="empty"):
        Corpus(TextFiles(str(tmp_path / "empty"), str(tmp_path / "empty")))
    with pytest.raises(CorruptError, match="below 1"):
        CacheWriter(cache, make_plan(n_pairs=0), tokenizer())
    assert not cache.exists()


@pytest.mark.parametrize(
    ("n_pairs", "shard_pairs", "sizes"),
    [(1, 8, [1]), (1, 1, [1]), (16, 8, [8, 8]), (17, 8, [8, 8, 1]), (3, 1, [1] * 3)],
)
def test_fault_22_boundaries(cache: Path, n_pairs: int, shard_pairs: int, sizes: list[int]) -> None:
    """One pair, and corpora that end on a shard boundary or just after it, give every pair exactly once."""
    plan = make_plan(n_pairs, shard_pairs)
    assert write_cache(cache, plan)
    reader = CacheReader(cache)
    assert [reader.shard(index).pairs.n_pairs for index in range(len(reader.records))] == sizes
    assert [record.first_pair for record in reader.records] == [shard_pairs * i for i in range(len(sizes))]


def test_fault_22_all_pairs_skipped(cache: Path) -> None:
    """Shards in which every pair was skipped are written and read, with no target."""
    plan = make_plan(10, 4)
    writer = CacheWriter(cache, plan, tokenizer())
    for index in range(plan.n_shards):
        writer.commit(index, caches.label(caches.make_pairs(plan, index, skipped=1.0), plan, index))
    assert writer.finalize()
    reader = CacheReader(cache)
    assert (reader.n_targets, sum(record.n_skipped for record in reader.records)) == (0, 10)
    assert [verify_shard(reader, index) for index in range(3)] == [[]] * 3
