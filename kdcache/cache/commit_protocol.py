"""The commit protocol: how shards get onto the disk so that a crash at any moment loses at most open shards.

A shard is built and checked in memory, written to a temporary name, fsynced and published under its own name without
replacing anything (`kdcache.files.atomic.publish_file`). It is read back as a stranger's would be, and then its record
is written in the same way. The record is the commit. Any number of processes may work on one cache: who loses a race
verifies the winner's shard and goes on.
"""

import dataclasses
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from kdcache.cache import schema, shard_records
from kdcache.cache.cache_files import regular_bytes
from kdcache.cache.hdf5 import check_writing
from kdcache.cache.plan import PLAN_FILE, Plan, check_plan, compare_plans, read_plan
from kdcache.cache.shard import ShardArrays, decode_shard, encode_shard
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import CorruptError, MismatchError, OutputError
from kdcache.files.atomic import (
    locked,
    publish_file,
    remove_abandoned,
    replace_file,
    sha256,
    storage_errors,
    sync_folder,
)
from kdcache.files.failpoints import reach
from kdcache.files.strict_json import readable_json
from kdcache.labels.verdict import HeldOut
from kdcache.text.tokenizer import Tokenizer

log = logging.getLogger("kdcache")


class CacheWriter:
    """Writes one cache; opening it claims the folder for `plan` or continues what was begun with the same plan.

    Raises:
        MismatchError: the folder holds a cache with another plan.
        OutputError: the folder holds something else, or cannot be written, or this HDF5 cannot write shards.
    """

    def __init__(self, cache: Path, plan: Plan, tokenizer: Tokenizer) -> None:
        check_writing()
        self.cache = cache
        self.plan = plan
        self._unknown = tokenizer.special.unk
        self._shards = cache / schema.SHARDS_FOLDER
        check_plan(plan, str(cache))
        if tokenizer.fingerprint != plan.tokenizer:
            raise MismatchError(str(cache), "tokenizer", plan.tokenizer, tokenizer.fingerprint, "Use the plan's own.")
        with storage_errors(cache):
            self._claim()
            remove_abandoned(cache)
        texts = cache / schema.TOKENIZER_FOLDER
        with storage_errors(texts):
            tokenizer.save(texts, max_length=plan.positions, segments=False)
            remove_abandoned(texts)
        with storage_errors(self._shards):
            if not self._shards.is_dir():
                self._shards.mkdir(exist_ok=True)
                sync_folder(cache)
            remove_abandoned(self._shards)

    def _claim(self) -> None:
        path = self.cache / PLAN_FILE
        if not self.cache.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            sync_folder(self.cache.parent)
        if not path.exists():
            reach("claiming")
            if foreign := self._foreign():
                raise OutputError(f"{self.cache}: holds other files ({foreign}) and no cache. Choose another output.")
            publish_file(path, readable_json(dataclasses.asdict(self.plan)))
        compare_plans(self.cache, read_plan(self.cache), self.plan)

    def _foreign(self) -> str | None:
        names = {path.name for path in self.cache.iterdir() if not path.name.startswith(".")}
        if PLAN_FILE in names:
            return None  # another process claimed the folder in this moment
        return min(names - {schema.SHARDS_FOLDER, schema.TOKENIZER_FOLDER, "run.json", "kdcache.log"}, default=None)

    def missing(self) -> list[int]:
        """Shards that are not committed yet, in order.

        Raises:
            CorruptError: a record is damaged, or the shard that it names is gone or of another size.
        """
        return [index for index in range(self.plan.n_shards) if self.committed(index) is None]

    def committed(self, index: int) -> ShardRecord | None:
        """The record of shard `index`, or None if it is not committed."""
        path = self._shards / schema.record_name(index)
        if not path.exists():
            return None
        remedy = f"Delete {path} and run the same command again: the shard is made anew."
        try:
            record = shard_records.read_record(self.cache, self.plan, index)
        except CorruptError as error:
            raise CorruptError(f"{error} {remedy}") from error
        shard = self._shards / record.file
        if not shard.is_file() or shard.stat().st_size != record.bytes:
            raise CorruptError(f"{shard}: not the {record.bytes:,} bytes that {path.name} commits. {remedy}")
        return record

    def adopt(self, index: int) -> ShardRecord | None:
        """Commit a shard that was published without a record if it is sound, else set it aside and return None."""
        path = self._shards / schema.shard_name(index)
        if not os.path.lexists(path):
            return None
        data = self._content(path, index)
        if data is not None:
            try:
                arrays = decode_shard(data, self.plan, index, str(path))
            except CorruptError as error:
                log.warning("%s It is set aside and made anew.", error)
            else:
                return self._commit_record(index, arrays, data)
        self._set_aside(path, index, data)
        return None

    def _content(self, path: Path, index: int) -> bytes | None:
        """What stands under the name of a shard; None if it is no file that a shard could be."""
        try:
            return regular_bytes(path, schema.most_bytes(self.plan, index))
        except CorruptError:
            return None

    def _set_aside(self, path: Path, index: int, seen: bytes | None) -> None:
        with storage_errors(path), locked(self.cache):
            # Another process may have set it aside and published a sound shard since it was read.
            if self.committed(index) is None and os.path.lexists(path) and self._content(path, index) == seen:
                reach("setting-aside")
                path.rename(path.with_name(f"{path.name}.invalid-{secrets.token_hex(4)}"))

    def commit_each(self, indices: Iterable[int], make: Callable[[int], ShardArrays]) -> None:
        """Make shards and commit them; one is hashed, compressed and written while the next is made.

        What was published without a record is adopted and not made. Errors are those of `make` and of `commit`.
        """
        pending: Future[ShardRecord] | None = None
        with ThreadPoolExecutor(1) as background:
            for index in indices:
                if self.adopt(index) is not None:
                    continue
                arrays = make(index)
                if pending is not None:
                    pending.result()
                pending = background.submit(self.commit, index, arrays)
            if pending is not None:
                pending.result()

    def commit(self, index: int, arrays: ShardArrays) -> ShardRecord:
        """Store shard `index`; if another process was first, its shard stands.

        Raises:
            CorruptError: the arrays break a rule, or what was written cannot be read again; nothing was committed.
            OutputError: the disk refused; nothing was committed.
        """
        data = encode_shard(arrays, self.plan, index)
        path = self._shards / schema.shard_name(index)
        while not publish_file(path, data):
            record = self.committed(index) or self.adopt(index)
            if record is not None:
                return record
        reach("shard-published")
        with storage_errors(path):
            stored = path.read_bytes()
        return self._commit_record(index, decode_shard(stored, self.plan, index, str(path)), stored)

    def _commit_record(self, index: int, arrays: ShardArrays, data: bytes) -> ShardRecord:
        first, _ = self.plan.bounds(index)
        record = ShardRecord(
            plan=self.plan.fingerprint,
            index=index,
            file=schema.shard_name(index),
            bytes=len(data),
            sha256=sha256(data),
            first_pair=first,
            n_pairs=arrays.pairs.n_pairs,
            n_skipped=int((arrays.pairs.target_lengths == 0).sum()),
            n_source_tokens=len(arrays.pairs.source_ids),
            n_targets=arrays.pairs.n_targets,
            sums=arrays.sums(self._unknown, self.plan),
        )
        publish_file(self._shards / schema.record_name(index), readable_json(dataclasses.asdict(record)))
        reach("record-published")
        # If another process published first, its record describes the same bytes: those on the disk.
        return shard_records.read_record(self.cache, self.plan, index)

    def store_held_out(self, found: HeldOut, *, replace: bool) -> None:
        """Store how the teacher does on held-out text; without `replace`, what another process stored first stands."""
        path, data = self.cache / schema.HELD_OUT_FILE, readable_json(dataclasses.asdict(found))
        with storage_errors(path, len(data)):
            if replace:
                replace_file(path, data)
            else:
                publish_file(path, data)

    def finalize(self) -> bool:
        """Write the manifest if every shard is committed; return whether the cache is complete."""
        records = [self.committed(index) for index in range(self.plan.n_shards)]
        committed = [record for record in records if record is not None]
        if len(committed) < len(records):
            return False
        manifest = dataclasses.asdict(shard_records.make_manifest(self.plan, committed))
        path = self.cache / schema.MANIFEST_FILE
        data = readable_json(manifest)
        reach("finalizing")
        with storage_errors(path, len(data)):
            if not path.is_file() or path.read_bytes() != data:
                replace_file(path, data)
        return True
