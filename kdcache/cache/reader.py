"""Reading a complete cache: every byte is hashed before it is parsed, and nothing is kept open.

A reader holds names and records only, so that it can be pickled, forked and shared between threads.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from kdcache.cache import layout
from kdcache.cache.plan import PLAN_FILE, read_plan
from kdcache.cache.shard import ShardArrays, decode_shard
from kdcache.errors import CorruptError
from kdcache.files import sha256
from kdcache.tokens import Tokenizer


class CacheReader:
    """A complete cache.

    Attributes:
        path: the folder.
        plan: its identity.
        records: one for each shard.

    Raises:
        CorruptError: there is no cache, it is incomplete, or its plan or manifest is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = read_plan(path)
        self.manifest = layout.read_manifest(path, self.plan)
        self.records = self.manifest.shards

    @property
    def n_targets(self) -> int:
        """Number of target positions."""
        return sum(record.n_targets for record in self.records)

    def shard(self, index: int) -> ShardArrays:
        """Read and check shard `index`.

        Raises:
            CorruptError: it is not the bytes that were committed.
        """
        record = self.records[index]
        path = self.path / layout.SHARDS_FOLDER / record.file
        return decode_shard(committed_bytes(path, record), self.plan, index, str(path), record)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of teacher, cache and students.

        Raises:
            CorruptError: it is not the one that the plan names.
        """
        folder = self.path / layout.TOKENIZER_FOLDER
        tokenizer = Tokenizer.load(folder)
        if tokenizer.fingerprint != self.plan.tokenizer:
            raise CorruptError(f"{folder}: not the tokenizer that {PLAN_FILE} names.")
        return tokenizer


def committed_bytes(path: Path, record: layout.ShardRecord) -> bytes:
    """The content of a shard's file, if it is exactly what its record commits.

    Raises:
        CorruptError: it is missing, a link, or other bytes.
    """
    data = regular_bytes(path, record.bytes)
    if len(data) != record.bytes:
        raise CorruptError(f"{path}: {len(data):,} bytes, its record commits {record.bytes:,}.")
    if sha256(data) != record.sha256:
        raise CorruptError(f"{path}: its SHA-256 is not the committed one: the file was changed or damaged.")
    return data


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
