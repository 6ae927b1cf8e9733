"""What every benchmark prints: the machine, a table, one line of JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kdcache.console import tables
from kdcache.files.run_records import versions


def machine() -> str:
    """Processor, cores and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = versions()
    return (
        f"{models[0] if models else platform.machine()}, {len(models)} logical cores, {platform.system()}; "
        f"Python {found['python']}, torch {found['torch']}, h5py {found['h5py']}"
    )


def alternate(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every arm once a round, so that a change of the machine's speed meets all of them alike.

    An arm returns its figure of that round; one more round comes first and is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, arm in arms.items():
            value = arm()
            if number:
                found[name].append(value)
    return found


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and in brackets the smallest and the largest value."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f} … {high:,.{digits}f}]"


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the quotient within a round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def publish(rows: Sequence[Sequence[str]], figures: dict[str, float]) -> None:
    """Print machine, table and figures."""
    print(f"\n{machine()}\n\n{tables.table(rows)}\n")
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
