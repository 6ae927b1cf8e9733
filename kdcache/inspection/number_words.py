"""Numbers of the page as people read them."""

from __future__ import annotations

import itertools
import math

from kdcache.inspection.cache_statistics import LEVELS

_LEAST = 1e-5

# What the page calls the groups of `kdcache.inspection.cache_statistics.LEVELS`.
LEVEL_NAMES = (
    f"at least {100 * LEVELS[0]:g} %",
    *(f"{100 * low:g} to {100 * high:g} %" for high, low in itertools.pairwise(LEVELS)),
    f"below {100 * LEVELS[-1]:g} %",
)


def percent(share: float, digits: int = 1) -> str:
    """A share."""
    return f"{100 * share:.{digits}f} %"


def nats(value: float) -> str:
    """A surprise."""
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def small(p: float) -> str:
    """What a probability that may be small equals or stays below."""
    if 0 < p < _LEAST:
        return f"< {100 * _LEAST:g} %"
    return f"= {percent(p, 1 if p >= 0.1 else 2 if p >= 0.01 else 3)}"
