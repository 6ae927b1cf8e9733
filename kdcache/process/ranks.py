"""Which one of several processes this is. Processes that fill one cache share its folder, and nothing else."""

import os
from dataclasses import dataclass

from kdcache.errors import UsageError


@dataclass(frozen=True, slots=True)
class Process:
    """One of `count` processes, counted from 0; `local` is its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0


def this_process() -> Process:
    """Read RANK, WORLD_SIZE and LOCAL_RANK, which `torchrun` sets; without them this is the only process.

    Raises:
        UsageError: they are not numbers, or contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = {name: os.environ.get(name, "") for name in names}
    if not values["RANK"] and not values["WORLD_SIZE"]:
        return Process()
    try:
        rank, count, local = int(values["RANK"]), int(values["WORLD_SIZE"]), int(values["LOCAL_RANK"] or 0)
    except ValueError:
        raise UsageError(
            f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers, as torchrun sets them: {values}."
        ) from None
    if not (0 <= rank < count and local >= 0):
        raise UsageError(f"RANK must be at least 0 and below WORLD_SIZE: {values}.")
    return Process(rank, count, local)
