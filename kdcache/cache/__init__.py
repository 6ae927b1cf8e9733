"""The cache: soft labels and both texts in sharded HDF5; docs/reference/format.md describes every byte.

This room may import labels and what is below them; it loads no torch. Public names are loaded when they are asked for.
"""

from typing import TYPE_CHECKING

from kdcache.lazy import lazy_names

if TYPE_CHECKING:
    from kdcache.cache.audit import verify_shard
    from kdcache.cache.commit_protocol import CacheWriter
    from kdcache.cache.number_encoding import Encoding
    from kdcache.cache.plan import Plan
    from kdcache.cache.reader import CacheReader, open_cache
    from kdcache.cache.shard import ShardArrays
    from kdcache.cache.shard_records import Manifest, ShardRecord

__all__ = [
    "CacheReader",
    "CacheWriter",
    "Encoding",
    "Manifest",
    "Plan",
    "ShardArrays",
    "ShardRecord",
    "open_cache",
    "verify_shard",
]
# What needs only one module of this room, such as a command's help, must not wait for h5py.
__getattr__ = lazy_names(
    __name__,
    {
        "CacheReader": "reader",
        "CacheWriter": "commit_protocol",
        "Encoding": "number_encoding",
        "Manifest": "shard_records",
        "Plan": "plan",
        "ShardArrays": "shard",
        "ShardRecord": "shard_records",
        "open_cache": "reader",
        "verify_shard": "audit",
    },
)
