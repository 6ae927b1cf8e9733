"""Copies of remote shards in a folder of this machine, named by their SHA-256 and bounded in size.

The name of a copy says what it should hold, so caches with equal shards share it; it is never trusted: every use hashes
the copy anew. Processes that share the folder write one after the other.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kdcache.cache.cache_files import committed_bytes
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import CorruptError, OutputError, UsageError
from kdcache.files.atomic import is_sha256, locked, remove_abandoned, replace_file, storage_errors
from kdcache.files.locations import StoreConfig
from kdcache.files.run_records import log

# A process that was stopped while it wrote must not stop the others: they go on without a copy.
LOCK_SECONDS = 2.0


class Copies:
    """The copies in one folder, which together take at most `limit` bytes.

    Raises:
        OutputError: the folder cannot be made or written.
    """

    def __init__(self, config: StoreConfig) -> None:
        self.limit, self._folder = config.limit, config.path
        self._refused = self._waited = False
        with storage_errors(self._folder):
            # A copy is as confidential as the corpus.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_abandoned(self._folder)

    def check_room(self, records: Iterable[ShardRecord]) -> None:
        """Raise UsageError unless each of the shards fits into the folder by itself."""
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
        # The time of the last use; another process may have removed the copy by now.
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, record: ShardRecord, data: bytes) -> None:
        """Keep a copy of a shard in the place of the least recently used ones.

        Where the disk refuses, one warning says so, and no more copies are kept; where other processes write for too
        long, one warning says so, and this shard has no copy.

        Raises:
            OutputError: the folder was removed.
        """
        path = self._path(record)
        if self._refused:
            return
        try:
            with storage_errors(self._folder, len(data)), locked(self._folder, LOCK_SECONDS) as alone:
                if alone:
                    self._evict(self.limit - len(data))
                    replace_file(path, data)
                elif not self._waited:
                    self._waited = True
                    log.warning("%s: other processes write there for long; some shards have no copy.", self._folder)
        except OutputError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise OutputError(
                    f"{self._folder}: the folder of local copies was removed while it was in use. Run the same command "
                    "again: it is made anew."
                ) from error
            # Another thread may have met the same refusal meanwhile.
            if not self._refused:
                self._refused = True
                log.warning(
                    "%s: copies cannot be written: %s. Going on without new ones.", self._folder, error.__cause__
                )

    def _path(self, record: ShardRecord) -> Path:
        # The name was written by a stranger, and files under it are removed here.
        if not is_sha256(record.sha256):
            raise CorruptError(f"{record.sha256!r}: not a SHA-256; no copy can have that name.")
        return self._folder / record.sha256

    def _evict(self, most: int) -> None:
        """Remove the least recently used copies until the rest takes at most `most` bytes."""
        copies = []
        for path in self._folder.iterdir():
            if is_sha256(path.name):
                with suppress(FileNotFoundError):
                    status = path.lstat()
                    copies.append((status.st_mtime_ns, path, status.st_size))
        total = sum(size for _, _, size in copies)
        for _, path, size in sorted(copies):
            if total <= most:
                return
            path.unlink(missing_ok=True)
            total -= size
