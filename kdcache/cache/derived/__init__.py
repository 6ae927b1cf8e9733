"""Caches made from other caches without a teacher: transcoded or averaged.

This room may import the cache and what is below it.
"""

from kdcache.cache.derived.merging import MergeConfig, merge
from kdcache.cache.derived.transcoding import TranscodeConfig, transcode

__all__ = ["MergeConfig", "TranscodeConfig", "merge", "transcode"]
