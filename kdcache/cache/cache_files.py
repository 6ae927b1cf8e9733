"""Where a cache's files come from: a folder of this machine; `kdcache.cache.remote` has the other kind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

from kdcache.cache import schema, shard_records
from kdcache.cache.plan import PLAN_FILE, Plan, read_plan
from kdcache.cache.shard_records import Manifest, ShardRecord
from kdcache.errors import CorruptError
from kdcache.files.atomic import sha256
from kdcache.text.tokenizer import FILES, Tokenizer

# Called now and then by whoever waits; what it raises ends the wait.
GiveUp = Callable[[], None]


class CacheFiles(Protocol):
    """Where a cache's files come from. Everything it returns is checked, as far as it can be checked by itself."""

    @property
    def place(self) -> str:
        """The cache's location, to be shown; without secrets."""

    def plan(self) -> Plan:
        """Read `plan.json`."""

    def manifest(self, plan: Plan) -> Manifest:
        """Read `manifest.json` and hold it against the plan."""

    def record(self, plan: Plan, index: int) -> ShardRecord:
        """Read the commit record of one shard and hold it against the plan."""

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer, whichever it is."""

    def place_of(self, record: ShardRecord) -> str:
        """A shard's location, to be shown."""

    def shard(self, record: ShardRecord) -> bytes:
        """The bytes that `record` commits."""

    def shards(self, records: Sequence[ShardRecord], give_up: GiveUp) -> Generator[bytes, None, None]:
        """The bytes that each of `records` commits, in this order."""

    def check_room(self, records: Sequence[ShardRecord]) -> None:
        """Raise UsageError unless there is room for the local copy of each shard, where copies are made."""

    def shard_files(self) -> list[str]:
        """Names of all that lies among the shards, sorted, as far as that can be seen."""

    def size(self, plan: Plan, manifest: Manifest) -> int:
        """Bytes of all the cache's own files together; plan and manifest are those that were read from here."""


class FolderFiles:
    """A cache in a folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._shards = path / schema.SHARDS_FOLDER

    @property
    def place(self) -> str:
        """The path."""
        return str(self._path)

    def plan(self) -> Plan:
        """Read `plan.json`."""
        return read_plan(self._path)

    def manifest(self, plan: Plan) -> Manifest:
        """Read `manifest.json`."""
        return shard_records.read_manifest(self._path, plan)

    def record(self, plan: Plan, index: int) -> ShardRecord:
        """Read the commit record of one shard."""
        return shard_records.read_record(self._path, plan, index)

    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer's two files."""
        return Tokenizer.load(self._path / schema.TOKENIZER_FOLDER)

    def place_of(self, record: ShardRecord) -> str:
        """The shard's path."""
        return str(self._shards / record.file)

    def shard(self, record: ShardRecord) -> bytes:
        """Read one shard.

        Raises:
            CorruptError: it is not the bytes that were committed.
        """
        return committed_bytes(self._shards / record.file, record)

    def shards(self, records: Sequence[ShardRecord], give_up: GiveUp) -> Generator[bytes, None, None]:
        """Read one shard after the other, each when it is asked for."""
        yield from map(self.shard, records)

    def check_room(self, records: Sequence[ShardRecord]) -> None:
        """Nothing is copied."""

    def shard_files(self) -> list[str]:
        """What the folder of shards lists; nothing where it is missing."""
        return sorted(path.name for path in self._shards.glob("*"))

    def size(self, plan: Plan, manifest: Manifest) -> int:
        """What the file system says; what is missing takes no room."""
        names = [name(i) for i in range(plan.n_shards) for name in (schema.shard_name, schema.record_name)]
        tokenizer = (self._path / schema.TOKENIZER_FOLDER / name for name in FILES)
        small = (self._path / PLAN_FILE, self._path / schema.MANIFEST_FILE, *tokenizer)
        return sum(path.stat().st_size for path in (*small, *(self._shards / n for n in names)) if path.is_file())


def committed_bytes(path: Path, record: ShardRecord) -> bytes:
    """The content of a shard's file, if it is exactly what its record commits.

    Raises:
        CorruptError: it is missing, a link, or other bytes.
    """
    data = regular_bytes(path, record.bytes)
    check_committed(data, record, str(path))
    return data


def check_committed(data: bytes, record: ShardRecord, place: str) -> None:
    """Raise CorruptError unless `data` is exactly what the record commits; the message opens with `place`."""
    if len(data) != record.bytes:
        raise CorruptError(f"{place}: {len(data):,} bytes, its record commits {record.bytes:,}.")
    if sha256(data) != record.sha256:
        raise CorruptError(f"{place}: its SHA-256 is not the committed one: the file was changed or damaged.")


def regular_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes; links are not followed, pipes and devices not opened.

    Raises:
        CorruptError: it is something else, larger, missing, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for whoever writes into it.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CorruptError(f"{path}: not a regular file.")
            if status.st_size > most:
                raise CorruptError(f"{path}: {status.st_size:,} bytes, at most {most:,} belong there.")
            return file.read(most)
    except OSError as error:
        problem = "missing" if error.errno == errno.ENOENT else "a link" if error.errno == errno.ELOOP else None
        raise CorruptError(f"{path}: {problem or f'cannot be read: {error.strerror or error}'}.") from error
