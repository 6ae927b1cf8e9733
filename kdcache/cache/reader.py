"""Reading a complete cache: every byte is hashed before it is parsed, and nothing is kept open.

A reader holds names and records only, so that it can be pickled, forked and shared between threads.
"""

from __future__ import annotations

from pathlib import Path

from kdcache.cache import layout
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
        self.plan = layout.read_plan(path)
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
        data = committed_bytes(path, record)
        arrays = decode_shard(data, self.plan, index, str(path))
        found = (len(arrays.pairs.source_ids), arrays.pairs.n_targets)
        if found != (record.n_source_tokens, record.n_targets):
            raise CorruptError(f"{path}: holds {found} source and target tokens, its record says otherwise.")
        return arrays

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of teacher, cache and students.

        Raises:
            CorruptError: it is not the one that the plan names.
        """
        folder = self.path / layout.TOKENIZER_FOLDER
        tokenizer = Tokenizer.load(folder)
        if tokenizer.fingerprint != self.plan.tokenizer:
            raise CorruptError(f"{folder}: not the tokenizer that {layout.PLAN_FILE} names.")
        return tokenizer


def committed_bytes(path: Path, record: layout.ShardRecord) -> bytes:
    """The content of a shard's file, if it is exactly what its record commits.

    Raises:
        CorruptError: it is missing, a link, or other bytes.
    """
    try:
        if path.is_symlink() or not path.is_file():
            raise CorruptError(f"{path}: missing, or not a regular file.")
        size = path.stat().st_size
        if size != record.bytes:
            raise CorruptError(f"{path}: {size:,} bytes, its record commits {record.bytes:,}.")
        data = path.read_bytes()
    except OSError as error:
        raise CorruptError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if sha256(data) != record.sha256:
        raise CorruptError(f"{path}: its SHA-256 is not the committed one: the file was changed or damaged.")
    return data
