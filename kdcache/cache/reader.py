"""Reading a complete cache: every byte is hashed before it is parsed, and nothing is kept open.

A reader holds names and records only, so that it can be pickled, forked and shared between threads.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from kdcache.cache import schema
from kdcache.cache.cache_files import CacheFiles, FolderFiles, GiveUp
from kdcache.cache.plan import PLAN_FILE
from kdcache.cache.shard import ShardArrays, decode_shard
from kdcache.errors import CorruptError
from kdcache.files.locations import StoreConfig, is_remote
from kdcache.labels.verdict import HeldOut, TeacherFigures
from kdcache.text.tokenizer import Tokenizer


class CacheReader:
    """A complete cache, given by its folder or by another source of its files.

    Attributes:
        files: where its files come from.
        plan: its identity.
        records: one for each shard.

    Raises:
        CorruptError: there is no cache, it is incomplete, or its plan or manifest is damaged.
    """

    def __init__(self, files: CacheFiles | Path) -> None:
        self.files: CacheFiles = FolderFiles(files) if isinstance(files, Path) else files
        self.plan = self.files.plan()
        self.manifest = self.files.manifest(self.plan)
        self.records = self.manifest.shards

    @property
    def place(self) -> str:
        """Its location, to be shown."""
        return self.files.place

    @property
    def n_targets(self) -> int:
        """Number of target positions."""
        return sum(record.n_targets for record in self.records)

    def teacher_figures(self) -> TeacherFigures:
        """How well the teacher does on the pairs that it labelled, from the records, and on held-out text.

        Where each of several teachers labelled what it did not see, this is held-out text, unless other was measured.
        """
        targets, sums = max(1, self.n_targets), [record.sums for record in self.records]
        loss = math.fsum(one.surprise for one in sums) / targets
        accuracy = None if self.plan.draws else sum(one.best for one in sums) / targets
        held_out, unseen = self.files.held_out(), len(self.plan.teachers) > 1
        if held_out is None and unseen and accuracy is not None:
            held_out = HeldOut(loss, accuracy, targets, self.plan.corpus)
        return TeacherFigures(loss, accuracy, held_out, unseen)

    def shard(self, index: int) -> ShardArrays:
        """Read and check shard `index`.

        Raises:
            CorruptError: it is not the bytes that were committed.
            CacheError: it cannot be fetched.
        """
        return self._decode(self.files.shard(self.records[index]), index)

    def read(self, order: Sequence[int], give_up: GiveUp = lambda: None) -> Generator[ShardArrays, None, None]:
        """Read and check the shards `order`, one after the other; those of a remote cache are fetched ahead.

        `give_up` is called now and then while a shard is waited for; what it raises ends the wait. Closing the
        generator ends its threads. Errors as of `shard`.
        """
        with closing(self.files.shards([self.records[index] for index in order], give_up)) as shards:
            for index in order:
                yield self._decode(next(shards), index)

    def _decode(self, data: bytes, index: int) -> ShardArrays:
        record = self.records[index]
        return decode_shard(data, self.plan, index, self.files.place_of(record.path), record)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of teacher, cache and students.

        Raises:
            CorruptError: it is not the one that the plan names.
        """
        tokenizer = self.files.tokenizer()
        if tokenizer.fingerprint != self.plan.tokenizer:
            place = f"{self.place}/{schema.TOKENIZER_FOLDER}"
            raise CorruptError(f"{place}: not the tokenizer that {PLAN_FILE} names.")
        return tokenizer


def open_cache(location: str, store: StoreConfig | None = None) -> CacheReader:
    """Open the cache in a folder or at a URL.

    Verified copies of the shards of a remote cache are kept in `store`; without one, every use fetches them.

    Raises:
        CorruptError: there is no cache, it is incomplete, or its plan or manifest is damaged.
        CacheError: it cannot be reached.
        UsageError: the store is smaller than a shard, or what is needed to reach the location is not installed.
        OutputError: the store's folder cannot be written.
    """
    return CacheReader(open_files(location, store))


def open_files(location: str, store: StoreConfig | None = None) -> CacheFiles:
    """Where the files of the cache in a folder or at a URL come from; it is not looked at yet.

    Raises:
        UsageError: what is needed to reach the location is not installed.
        OutputError: the store's folder cannot be written.
    """
    if not is_remote(location):
        return FolderFiles(Path(location))
    # Only what needs it loads it.
    from kdcache.cache.remote import RemoteFiles

    return RemoteFiles(location, store)
