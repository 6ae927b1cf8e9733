"""Inspection: statistics of all that a cache holds, single pairs worth a look, and the page that shows them.

This room may import the cache, pictures and what is below them.
"""

from kdcache.inspection.cache_statistics import CacheStatistics, Collector
from kdcache.inspection.inspect_page import write_page

__all__ = ["CacheStatistics", "Collector", "write_page"]
