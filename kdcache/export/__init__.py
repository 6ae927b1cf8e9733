"""Students and caches in the formats of other programs, and labels that come from these.

This room may import the student, the cache and what is below them. Its settings load no torch.
"""

from kdcache.export.export_config import ExportConfig

__all__ = ["ExportConfig"]
