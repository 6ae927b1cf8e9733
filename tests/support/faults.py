"""Processes that write caches, the faults that are injected into them, and what must hold afterwards.

`caches.py`, run as a program, stands in for a dump. Invariant: after a fault and the same command again, every file
equals that of a cache that was never disturbed, byte for byte.
"""

from __future__ import annotations

import atexit
import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import caches
import h5py
from caches import FAILED, contents, make_plan, write_cache

from kdcache.cache import schema
from kdcache.cache.audit import verify_shard
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.files.failpoints import VARIABLE

ROOT = Path(__file__).parents[2]
# What programs of the tests import: kdcache, and the modules beside this one.
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")])
# Its shards are larger than the other files of the cache, for tests that limit the size of files.
PLAN = make_plan(n_pairs=80, shard_pairs=40)
SHARDS = [f"shards/{schema.shard_name(i)}" for i in range(2)]
RECORDS = [f"shards/{schema.record_name(i)}" for i in range(2)]
# In the order in which a run writes them: plan, 2 of the tokenizer, (shard, record) twice, manifest.
N_FILES = 8
REPLACED = 3
SHARD_0, RECORD_0, MANIFEST = 4, 5, 8
FILES = range(1, N_FILES + 1)
# One file of each kind; the others are left to the full tier.
QUICK = (SHARD_0, RECORD_0, MANIFEST)


def command(folder: Path, plan: Plan) -> list[str]:
    """The command line of a process that writes `plan` into `folder`."""
    numbers = (plan.n_pairs, plan.shard_pairs, plan.topk)
    return [sys.executable, caches.__file__, str(folder), *map(str, numbers)]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a process; coverage is not measured where files are made to fail."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_"))}
    return {**kept, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", **more}


def faulty(under: Path, kind: str, **more: str) -> dict[str, str]:
    """Environment variables that make the file system fail below `under`; see faults.c."""
    return {"LD_PRELOAD": str(fault_library()), "FAULT_UNDER": str(under), "FAULT_KIND": kind, **more}


@functools.cache
def fault_library() -> Path:
    """The library of faults.c, compiled once in a process."""
    folder = tempfile.TemporaryDirectory(prefix="faults-")
    atexit.register(folder.cleanup)
    library = Path(folder.name) / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def python(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder of the tests, and wait for it."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parent,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@contextmanager
def little_memory(spare: int) -> Iterator[None]:
    """Let the address space of this process grow by `spare` bytes only."""
    status = Path("/proc/self/status").read_text()
    size = int(status.split("VmSize:")[1].split()[0]) * 1024
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + spare, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def start(folder: Path, plan: Plan, **more: str) -> subprocess.Popen[str]:
    """Start a process that writes `plan` into `folder`."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command(folder, plan), env=environment(**more), stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, plan: Plan, **more: str) -> subprocess.CompletedProcess[str]:
    """Write `plan` into `folder` in a process of its own and wait for it."""
    return subprocess.run(
        command(folder, plan), env=environment(**more), capture_output=True, text=True, timeout=120, check=False
    )


def check_after_another_run(cache: Path, reference: dict[str, bytes], plan: Plan = PLAN) -> None:
    """The invariant: the same command completes the cache, which then equals an undisturbed one."""
    assert write_cache(cache, plan)
    assert contents(cache) == reference
    assert problems_of(cache) == []


def problems_of(cache: Path) -> list[str]:
    """What verification finds in the shards."""
    reader = CacheReader(cache)
    return [problem for index in range(reader.plan.n_shards) for problem in verify_shard(reader, index)]


def records_in(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.glob("shards/[0-9]*.json"))


def check_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """The process ended by itself with an error of ours that has these words, without a traceback."""
    assert result.returncode == FAILED, (result.returncode, result.stderr)
    assert result.stderr.startswith("OutputError: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def stall(cache: Path, point: str, **more: str) -> subprocess.Popen[str]:
    """Start a run and wait until it has stopped itself at `point`."""
    process = start(cache, PLAN, **{VARIABLE: f"{point}:stop", **more})
    wait_until_stopped(process)
    return process


def wait_until_stopped(process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wake(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the block takes longer, also where it waits for a file."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"still not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def without(data: bytes, name: str, put: Callable[[h5py.File, h5py.Dataset], object]) -> bytes:
    """A shard in which `put` makes the dataset `name` instead of what was there."""
    with (
        h5py.File(h5py.h5f.open_file_image(data)) as old,
        h5py.File("memory", "w", driver="core", backing_store=False, libver=("v110", "v110")) as new,
    ):
        for key, value in old.attrs.items():
            new.attrs[key] = value
        for key in old:
            if key == name:
                put(new, old[key])
            else:
                old.copy(key, new)
        new.flush()
        return bytes(new.id.get_file_image())
