"""Caches made from other caches without a teacher: transcoded or averaged.

This room may import the cache and what is below it. Public names are loaded when they are asked for.
"""

from typing import TYPE_CHECKING

from kdcache.lazy import lazy_names

if TYPE_CHECKING:
    from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
    from kdcache.cache.derived.merging import merge
    from kdcache.cache.derived.transcoding import transcode

__all__ = [
    "MergeConfig",
    "TranscodeConfig",
    "merge",
    "transcode",
]
# What needs only settings, such as a command's help, must not wait for h5py.
__getattr__ = lazy_names(
    __name__,
    {
        "MergeConfig": "derive_config",
        "TranscodeConfig": "derive_config",
        "merge": "merging",
        "transcode": "transcoding",
    },
)
