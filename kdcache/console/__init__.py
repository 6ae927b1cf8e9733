"""What a user sees of long work and of numbers: progress and tables.

This room may import errors, settings and files; what it draws with is loaded when it is needed.
"""

from kdcache.console.progress import Progress
from kdcache.console.tables import count, facts, markdown_table, table

__all__ = ["Progress", "count", "facts", "markdown_table", "table"]
