"""Caches made from other caches without a teacher: transcoded or averaged.

This room may import the cache and what is below it. Public names are loaded when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
_MODULE_OF = {
    "MergeConfig": "derive_config",
    "TranscodeConfig": "derive_config",
    "merge": "merging",
    "transcode": "transcoding",
}


def __getattr__(name: str) -> Any:
    # What needs only settings, such as a command's help, must not wait for h5py.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
