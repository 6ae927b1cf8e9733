"""Copies of remote shards in a folder of this machine, named by their content and bounded in size.

The name of a copy is the SHA-256 of what it should hold, so caches with equal shards share it; it is never trusted:
every use hashes the copy anew. Any number of processes use one folder without locks: copies appear whole under their
names, and one that another process has just evicted is fetched again.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.config import StoreConfig
from kdcache.cache.layout import ShardRecord
from kdcache.cache.source import committed_bytes
from kdcache.errors import CorruptError, UsageError
from kdcache.files import is_sha256, remove_abandoned, replace_file, storage_errors

log = logging.getLogger("kdcache")

_UNFINISHED = re.compile(r"\.tmp-[0-9a-f]{64}~.*")


class _NoRoomError(Exception):
    """Others are writing so much that a copy cannot be kept."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the store; ordered by when it was used last."""

    used: int
    name: str
    size: int


class Store:
    """The copies in one folder.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config, self._folder = config, config.path
        with storage_errors(self._folder):
            # A copy is as confidential as the corpus.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_abandoned(self._folder)

    def __reduce__(self) -> tuple[type[Store], tuple[StoreConfig]]:
        return type(self), (self._config,)

    @property
    def limit(self) -> int:
        """Bytes that all copies may take together."""
        return self._config.limit

    def check_room(self, records: Iterable[ShardRecord]) -> None:
        """Raise UsageError unless each of the shards fits into the store by itself."""
        largest = max(record.bytes for record in records)
        if self.limit < largest:
            raise UsageError(
                f"--cache-limit {self.limit:,} bytes is less than the largest shard of the cache, {largest:,} bytes. "
                f"Give at least --cache-limit {largest}."
            )

    def get(self, record: ShardRecord) -> bytes | None:
        """The copy of a shard, or None if there is none; one with other content is removed."""
        path = self._path(record)
        try:
            data = committed_bytes(path, record)
        except CorruptError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            log.warning("%s The local copy is removed and fetched again.", error)
            with storage_errors(path):
                path.unlink(missing_ok=True)
            return None
        # Another process may have evicted it by now.
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, record: ShardRecord, data: bytes) -> bool:
        """Keep a copy of a shard, evicting the least recently used; whether there was room.

        There is none only while other processes write more than the rest of the limit.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self._path(record)
        try:
            self._make_room(record.bytes)
            # By then the others see how much will be written, and this process what the others are writing.
            replace_file(path, data, lambda: self._make_room(0))
        except _NoRoomError:
            return False
        return True

    def _path(self, record: ShardRecord) -> Path:
        # The name was written by a stranger, and files under it are removed here.
        if not is_sha256(record.sha256):
            raise CorruptError(f"{record.sha256!r}: not a SHA-256; no copy can have that name.")
        return self._folder / record.sha256

    def _make_room(self, needed: int) -> None:
        files = sorted(self._files(), key=lambda one: one.used)
        excess = sum(one.size for one in files) + needed - self.limit
        for one in files:
            if excess <= 0:
                return
            if is_sha256(one.name):
                (self._folder / one.name).unlink(missing_ok=True)
                excess -= one.size
        if excess > 0:
            raise _NoRoomError

    def _files(self) -> Iterator[_File]:
        """The store's own files, those that are being written included."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_sha256(entry.name) or _UNFINISHED.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield _File(status.st_mtime_ns, entry.name, status.st_size)
