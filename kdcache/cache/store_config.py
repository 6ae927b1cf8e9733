"""Where copies of remote shards are kept."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where copies of remote shards are kept.

    Attributes:
        folder: the folder; None stands for `kdcache` in the user's folder for caches.
        limit: bytes that all copies in it may take together.
    """

    folder: str | None = None
    limit: int = 50 * 10**9

    @property
    def path(self) -> Path:
        """The folder."""
        if self.folder is not None:
            return Path(self.folder)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcache"


def parse_size(text: str, option: str) -> int:
    """The bytes that a size such as `50GB` means; K, M, G and T are powers of 1,000.

    Raises:
        UsageError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{option} takes a size such as 500MB or 50GB, not {text}.")
    return int(float(found[1]) * _UNITS[found[2].upper()])
