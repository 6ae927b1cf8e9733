"""Whether every byte of a cache is still the committed one, and which files lie there that no record names."""

import functools
import math
from dataclasses import asdict

from kdcache.cache import schema
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import CacheError


def verify_shard(reader: CacheReader, index: int) -> list[str]:
    """What is wrong with one shard and its record; nothing if all is well."""
    try:
        record = reader.files.record(reader.plan, index)
        if record != reader.records[index]:
            return [f"shard {index}: its record differs from the manifest's."]
        arrays = reader.shard(index)
    except CacheError as error:
        return [str(error)]
    return _compare_sums(arrays, record, _unknown(reader), reader.plan)


@functools.lru_cache(maxsize=1)
def _unknown(reader: CacheReader) -> int:
    return reader.tokenizer().special.unk


def _compare_sums(arrays: ShardArrays, record: ShardRecord, unknown: int, plan: Plan) -> list[str]:
    computed, stored = asdict(arrays.sums(unknown, plan)), asdict(record.sums)
    computed["n_skipped"], stored["n_skipped"] = int((arrays.pairs.target_lengths == 0).sum()), record.n_skipped
    wrong = [name for name, value in computed.items() if not math.isclose(value, stored[name], rel_tol=1e-9)]
    return [f"shard {record.index}: {name} is {computed[name]}, its record says {stored[name]}." for name in wrong]


def unexpected_files(reader: CacheReader) -> list[str]:
    """Files among the shards that no record names; set-aside shards and temporary files are not counted."""
    expected = {name(i) for i in range(reader.plan.n_shards) for name in (schema.shard_name, schema.record_name)}
    return [
        f"{reader.place}/{schema.SHARDS_FOLDER}/{name}: no shard of this cache has that name. Move it away."
        for name in reader.files.shard_files()
        if name not in expected and ".invalid-" not in name and not name.startswith(".")
    ]
