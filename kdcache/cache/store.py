"""Copies of remote shards in a folder of this machine, named by their content and bounded in size.

The name of a copy is the SHA-256 of what it should hold, so caches with equal shards share it; it is never trusted:
every use hashes the copy anew. Any number of processes use one folder without locks: copies appear whole under their
names, and one that another process has just evicted is fetched again. Copies only save time: once the folder is open,
nothing that happens to it is an error.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.cache_files import committed_bytes
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import CorruptError, OutputError, UsageError
from kdcache.files.atomic import is_sha256, remove_abandoned, replace_file, storage_errors
from kdcache.files.locations import StoreConfig

log = logging.getLogger("kdcache")

_UNFINISHED = re.compile(r"\.tmp-[0-9a-f]{64}~.*")


class _NoRoomError(Exception):
    """What may be evicted does not make the room that is needed."""


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
        self._config, self._folder, self._warned = config, config.path, False
        with storage_errors(self._folder):
            self._make_folder()
            remove_abandoned(self._folder)

    def __reduce__(self) -> tuple[type[Store], tuple[StoreConfig]]:
        return type(self), (self._config,)

    def _make_folder(self) -> None:
        # A copy is as confidential as the corpus.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

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
            with suppress(OSError):
                path.unlink()
            return None
        # Another process may have evicted it by now.
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, record: ShardRecord, data: bytes) -> bool:
        """Keep a copy of a shard, evicting the least recently used; whether that could be done.

        It cannot while other processes write more than the rest of the limit or remove the folder again and again, and
        where the disk refuses; of the last there is one warning.
        """
        path = self._path(record)
        try:
            self._write_mending(path, data)
        except _NoRoomError:
            return False
        except OutputError as error:
            if not self._warned and not self._is_removed_again(error):
                self._warned = True
                reason = error.__cause__ or error
                log.warning("%s: copies cannot be written: %s. Going on without new ones.", self._folder, reason)
            return False
        return True

    def _write_mending(self, path: Path, data: bytes) -> None:
        # One `rm -rf` may take the folder twice: while it is written to, and when it has just been made again.
        for _ in range(2):
            try:
                self._write(path, data)
            except OutputError as error:
                self._mend(error, len(data))
            else:
                return
        self._write(path, data)

    def _write(self, path: Path, data: bytes) -> None:
        with storage_errors(self._folder):
            self._make_room(len(data))
            # By then the others see how much will be written, and this process what the others are writing.
            replace_file(path, data, lambda: self._make_room(0))

    def _is_removed_again(self, error: OutputError) -> bool:
        """Whether the folder was removed as often as it was made: then the next copy may find it."""
        if _errno(error) != errno.ENOENT:
            return False
        try:
            self._make_folder()
        except OSError:
            return False
        return True

    def _mend(self, error: OutputError, needed: int) -> None:
        """Do what may let the next attempt succeed: make the folder again, or free bytes of a full disk."""
        reason = _errno(error)
        with storage_errors(self._folder):
            if reason == errno.ENOENT:
                self._make_folder()
                return
            if reason in (errno.ENOSPC, errno.EDQUOT):
                with suppress(_NoRoomError):
                    self._evict(list(self._files()), needed)
                    return
            raise error

    def _path(self, record: ShardRecord) -> Path:
        # The name was written by a stranger, and files under it are removed here.
        if not is_sha256(record.sha256):
            raise CorruptError(f"{record.sha256!r}: not a SHA-256; no copy can have that name.")
        return self._folder / record.sha256

    def _make_room(self, needed: int) -> None:
        files = list(self._files())
        excess = sum(one.size for one in files) + needed - self.limit
        self._evict(files, excess)

    def _evict(self, files: Sequence[_File], excess: int) -> None:
        """Remove as many of the copies among `files` as have `excess` bytes; none if all have less."""
        copies = sorted((one for one in files if is_sha256(one.name)), key=lambda one: one.used)
        if excess > sum(one.size for one in copies):
            raise _NoRoomError
        for one in copies:
            if excess <= 0:
                return
            (self._folder / one.name).unlink(missing_ok=True)
            excess -= one.size

    def _files(self) -> Iterator[_File]:
        """The store's own files, those that are being written included."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_sha256(entry.name) or _UNFINISHED.fullmatch(entry.name):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield _File(status.st_mtime_ns, entry.name, status.st_size)


def _errno(error: OutputError) -> int | None:
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None
