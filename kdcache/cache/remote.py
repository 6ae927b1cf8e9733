"""A cache at a URL: small files are fetched when they are asked for, shards through a store of verified copies."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from kdcache.cache import schema, shard_records
from kdcache.cache.cache_files import GiveUp, check_committed
from kdcache.cache.fetch import Fetcher, Pause
from kdcache.cache.plan import PLAN_FILE, Plan, plan_of
from kdcache.cache.shard_records import Manifest, ShardRecord
from kdcache.cache.store import Store
from kdcache.errors import UsageError
from kdcache.files.locations import StoreConfig, redacted
from kdcache.files.strict_json import BYTES_MAX, parse_json, readable_json
from kdcache.process.prefetch import Ahead
from kdcache.text.tokenizer import FILES, Tokenizer

# As many small shards as a window of pairs takes, and never more memory than that.
AHEAD_SHARDS = 8
AHEAD_BYTES = 64 << 20


class Remote:
    """A cache at a URL. It can be pickled and forked; every process makes its own connections."""

    def __init__(self, fetcher: Fetcher, store: Store | None) -> None:
        self._fetcher, self._store = fetcher, store

    @property
    def place(self) -> str:
        """The URL without secrets."""
        return self._fetcher.place

    def check_room(self, records: Sequence[ShardRecord]) -> None:
        """Raise UsageError if the store is smaller than a shard."""
        if self._store is not None:
            self._store.check_room(records)

    def plan(self) -> Plan:
        """Fetch `plan.json`."""
        missing = f"there is none, so {self.place} is not a cache. Make one with kdcache dump-logits."
        value = self._json(PLAN_FILE, missing)
        return plan_of(value, self._fetcher.place_of(PLAN_FILE))

    def manifest(self, plan: Plan) -> Manifest:
        """Fetch `manifest.json`."""
        place = self._fetcher.place_of(schema.MANIFEST_FILE)

        def use(data: bytes) -> Manifest:
            return shard_records.manifest_of(parse_json(data, place), plan, place)

        missing = f"missing: the cache is incomplete. Complete it with kdcache {plan.made_by}, then copy it again."
        return self._fetcher.fetch(schema.MANIFEST_FILE, BYTES_MAX, use, time.sleep, missing)

    def record(self, plan: Plan, index: int) -> ShardRecord:
        """Fetch the commit record of one shard."""
        name = f"{schema.SHARDS_FOLDER}/{schema.record_name(index)}"
        return shard_records.record_of(self._json(name), plan, index, self._fetcher.place_of(name))

    def tokenizer(self) -> Tokenizer:
        """Fetch the tokenizer's two files."""
        folder = schema.TOKENIZER_FOLDER
        return Tokenizer.parse(lambda name: self._json(f"{folder}/{name}"), self._fetcher.place_of(folder))

    def _json(self, name: str, missing: str = "missing.") -> Any:
        place = self._fetcher.place_of(name)
        return self._fetcher.fetch(name, BYTES_MAX, lambda data: parse_json(data, place), time.sleep, missing)

    def place_of(self, record: ShardRecord) -> str:
        """The shard's URL without secrets."""
        return self._fetcher.place_of(_shard_file(record))

    def shard(self, record: ShardRecord) -> bytes:
        """The copy in the store, or what is fetched, verified and put there.

        Raises:
            CorruptError: what is there is missing, or not the bytes that were committed.
            CacheError: it cannot be reached.
        """
        return self._shard(record, time.sleep)

    def _shard(self, record: ShardRecord, pause: Pause) -> bytes:
        data = None if self._store is None else self._store.get(record)
        if data is None:
            data = self._fetcher.fetch(_shard_file(record), record.bytes, self._verified(record), pause)
            if self._store is not None:
                self._store.put(record, data)
        return data

    def _verified(self, record: ShardRecord) -> Callable[[bytes], bytes]:
        def use(data: bytes) -> bytes:
            check_committed(data, record, self.place_of(record))
            return data

        return use

    def shards(self, records: Sequence[ShardRecord], give_up: GiveUp) -> Generator[bytes, None, None]:
        """The shards in order, fetched ahead while those before are used; errors as of `shard`."""
        with Ahead(self._shard, records, self._depth(records)) as ahead:
            for _ in records:
                yield ahead.take(give_up)

    def _depth(self, records: Sequence[ShardRecord]) -> int:
        room = AHEAD_BYTES if self._store is None else min(AHEAD_BYTES, self._store.limit)
        return max(1, min(AHEAD_SHARDS, room // max((record.bytes for record in records), default=1)))

    def shard_files(self) -> list[str]:
        """Nothing: what else lies at a URL cannot be seen everywhere."""
        return []

    def size(self, plan: Plan, manifest: Manifest) -> int:
        """Bytes as committed, for the tokenizer as fetched; those of the JSON as it was written."""
        names = (f"{schema.TOKENIZER_FOLDER}/{name}" for name in FILES)
        tokenizer = sum(self._fetcher.fetch(name, BYTES_MAX, len, time.sleep) for name in names)
        parts: list[Plan | Manifest | ShardRecord] = [plan, manifest, *manifest.shards]
        written = sum(len(readable_json(dataclasses.asdict(one))) for one in parts)
        return tokenizer + sum(record.bytes for record in manifest.shards) + written


def _shard_file(record: ShardRecord) -> str:
    return f"{schema.SHARDS_FOLDER}/{record.file}"


def open_remote(location: str, store: StoreConfig | None) -> Remote:
    """The source for a URL; errors as of `kdcache.cache.reader.open_cache`."""
    if location.lower().startswith("file:"):
        raise UsageError(f"{redacted(location)}: give a folder of this machine by its plain path.")
    return Remote(Fetcher(location), None if store is None else Store(store))
