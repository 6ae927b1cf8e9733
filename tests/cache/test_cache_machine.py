"""Any sequence of dumps, kills, damage and checks: the same command completes the cache, or says what to do first.

A state machine draws the sequence. Kills are real: a process dies at a point of the commit protocol. The remedy that
a refusal names is carried out as its text says, and nothing else is done to the folder.
"""

from __future__ import annotations

import functools
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from caches import contents, write_cache
from faults import N_FILES, PLAN, RECORDS, SHARDS, run
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kdcache.cache import schema
from kdcache.cache.audit import verify_shard
from kdcache.cache.plan import PLAN_FILE
from kdcache.cache.reader import CacheReader
from kdcache.errors import CorruptError
from kdcache.files.failpoints import VARIABLE

POINTS = st.one_of(
    st.sampled_from(["claiming:1", "shard-published:1", "record-published:1", "record-published:2", "finalizing:1"]),
    st.builds(
        "{}:{}".format,
        st.sampled_from(["file-opened", "file-written", "file-synced", "file-published", "setting-aside"]),
        st.integers(1, N_FILES),
    ),
)
REMEDY = re.compile(r"Delete (\S+) and run the same command again")
NUMBERS = st.integers(0, 1)
# A remedy for each file at most, and the run after the last.
TRIES_MAX = len(SHARDS) + 1


def damaged(data: bytes, how: str, place: int) -> bytes:
    """The bytes after a fault that leaves a regular file behind."""
    at = place % max(1, len(data))
    if how == "cut":
        return data[:at]
    if how == "longer":
        return data + b"\0"
    return data[:at] + bytes([data[at] ^ 1 << place % 8]) + data[at + 1 :] if data else b"\1"


@functools.cache
def undisturbed() -> dict[str, bytes]:
    """The files of a cache to which nothing happened."""
    with tempfile.TemporaryDirectory(prefix="machine-") as folder:
        assert write_cache(Path(folder) / "cache", PLAN)
        return contents(Path(folder) / "cache")


class CacheMachine(RuleBasedStateMachine):
    """One folder, to which things happen; `reference` are the files of an undisturbed cache."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="machine-"))
        self.cache = self.home / "cache"
        self.reference = undisturbed()

    def teardown(self) -> None:
        """End every sequence with the invariant."""
        self.complete()
        shutil.rmtree(self.home)

    @initialize(point=POINTS)
    def begin(self, point: str) -> None:
        """A first run dies somewhere."""
        self.kill(point)

    @rule(point=POINTS)
    def kill(self, point: str) -> None:
        """A run dies at a point, comes through because it does not reach it, or refuses with a remedy."""
        finished = run(self.cache, PLAN, **{VARIABLE: point})
        if finished.returncode not in (0, -signal.SIGKILL):
            assert finished.stderr.startswith("CorruptError: "), finished.stderr
            assert REMEDY.search(finished.stderr), finished.stderr

    @rule()
    def resume(self) -> None:
        """The same command, with the remedies that it asks for; then the cache is the undisturbed one."""
        self.complete()

    @precondition(lambda self: any((self.cache / name).is_file() for name in SHARDS))
    @rule(number=NUMBERS, how=st.sampled_from(["flip", "cut", "longer"]), place=st.integers(0, 1 << 20))
    def damage_shard(self, number: int, how: str, place: int) -> None:
        """A published shard changes, whether or not its record is there."""
        self.damage(self.cache / SHARDS[number], how, place)

    @precondition(lambda self: any((self.cache / name).is_file() for name in RECORDS))
    @rule(number=NUMBERS, how=st.sampled_from(["cut", "longer", "flip"]), place=st.integers(0, 1 << 20))
    def damage_record(self, number: int, how: str, place: int) -> None:
        """A record changes, but not in its sums: until a manifest seals them their last digits can change unseen."""
        path = self.cache / RECORDS[number]
        before = max(1, path.read_bytes().find(b'"sums"')) if path.is_file() else 1
        self.damage(path, how, place % before)

    @precondition(lambda self: self.cache.is_dir())
    @rule(name=st.sampled_from([*SHARDS, *RECORDS, schema.MANIFEST_FILE]))
    def lose(self, name: str) -> None:
        """A file disappears."""
        (self.cache / name).unlink(missing_ok=True)

    @precondition(lambda self: (self.cache / schema.MANIFEST_FILE).is_file())
    @rule()
    def verify(self) -> None:
        """Verify finds a problem where a file differs from the undisturbed cache's, and nowhere else."""
        names = [schema.MANIFEST_FILE, *SHARDS, *RECORDS]
        changed = {name for name in names if not self.is_sound(name)}
        try:
            reader = CacheReader(self.cache)
        except CorruptError:
            assert schema.MANIFEST_FILE in changed
            return
        for number in range(PLAN.n_shards):
            concerned = {SHARDS[number], RECORDS[number]} & changed
            assert bool(verify_shard(reader, number)) == bool(concerned), (number, changed)

    @invariant()
    def nothing_else_is_touched(self) -> None:
        """The plan, once it is there, is the plan."""
        plan = self.cache / PLAN_FILE
        assert not plan.exists() or plan.read_bytes() == self.reference[PLAN_FILE]

    def damage(self, path: Path, how: str, place: int) -> None:
        if path.is_file():
            path.write_bytes(damaged(path.read_bytes(), how, place))

    def is_sound(self, name: str) -> bool:
        path = self.cache / name
        return path.is_file() and path.read_bytes() == self.reference[name]

    def complete(self) -> None:
        """Run the command, and verify, until both are content, doing only what they ask for; then hold all to the end.

        Verify goes first where it can: a run writes the manifest from the records, also from a changed one.
        """
        self.delete_what_verify_names()
        self.run_with_remedies()
        if self.delete_what_verify_names():
            self.run_with_remedies()
        assert self.delete_what_verify_names() == 0
        assert contents(self.cache) == self.reference

    def run_with_remedies(self) -> None:
        """Repeat the command, deleting the one file that a refusal names."""
        for _ in range(TRIES_MAX):
            try:
                assert write_cache(self.cache, PLAN)
                return
            except CorruptError as error:
                said = str(error)
            remedy = REMEDY.search(said)
            assert remedy is not None, said
            (self.cache / remedy[1]).unlink()
        raise AssertionError("the remedies do not end")

    def delete_what_verify_names(self) -> int:
        """Delete shard, record and manifest of what verify names, as docs/reference/errors.md says; return how many."""
        try:
            reader = CacheReader(self.cache)
        except CorruptError:
            return 0
        bad = [number for number in range(PLAN.n_shards) if verify_shard(reader, number)]
        for number in bad:
            for name in (SHARDS[number], RECORDS[number], schema.MANIFEST_FILE):
                (self.cache / name).unlink(missing_ok=True)
        return len(bad)


SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("examples", "steps"), [(8, 8), pytest.param(60, 15, marks=pytest.mark.full)])
def test_fault_03_any_sequence(examples: int, steps: int) -> None:
    """After any sequence of kills, damage, losses and checks the same command gives the undisturbed cache."""
    chosen = settings(SETTINGS, max_examples=examples, stateful_step_count=steps)
    run_state_machine_as_test(CacheMachine, settings=chosen)
