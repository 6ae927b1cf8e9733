"""The soft labels that an objective needs, out of what a cache holds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace

from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.errors import UsageError
from kdcache.losses.objective_config import BUCKETED, ObjectiveConfig, Ramp
from kdcache.training.batches import Section, Sections


class CacheSections(Sections):
    """The shards of a cache as sections; the soft labels are left out where nothing weighs them.

    Of the normalizers only those at `temperature` are kept, none by default.
    """

    def __init__(self, reader: CacheReader, *, soft: bool, temperature: float | None = None) -> None:
        self._reader, self._soft = reader, soft
        self._column = None if temperature is None else reader.plan.temperatures.index(temperature)

    @property
    def sizes(self) -> list[int]:
        """Pairs in each shard."""
        return [record.n_pairs for record in self._reader.records]

    def load(self, index: int) -> Section:
        """Read and check one shard."""
        return self._section(self._reader.shard(index))

    def read(self, order: Sequence[int], give_up: Callable[[], None]) -> Generator[Section, None, None]:
        """Read and check one shard after the other; those of a remote cache are fetched ahead."""
        with closing(self._reader.read(order, give_up)) as shards:
            for _ in order:
                yield self._section(next(shards))

    def _section(self, arrays: ShardArrays) -> Section:
        if not self._soft:
            return Section(arrays.pairs)
        found = arrays.soft.log_normalizers
        # A copy: a view of one column would hold the others in memory.
        kept = None if found is None or self._column is None else found[:, [self._column]]
        return Section(arrays.pairs, replace(arrays.soft, log_normalizers=kept))


def cache_sections(reader: CacheReader, objective: ObjectiveConfig) -> CacheSections:
    """The shards with what `objective` needs.

    Raises:
        UsageError: the cache does not hold it.
    """
    check_objective(objective, reader.plan)
    temperature = _tail_temperature(objective)
    return CacheSections(reader, soft=objective.needs_soft_labels, temperature=temperature)


def _tail_temperature(objective: ObjectiveConfig) -> float | None:
    """The temperature other than 1 at which the objective counts the tail, if there is one."""
    if not objective.needs_soft_labels or objective.name not in BUCKETED or isinstance(objective.temperature, Ramp):
        return None
    return None if objective.temperature == 1 else float(objective.temperature)


def check_objective(objective: ObjectiveConfig, plan: Plan) -> None:
    """Raise UsageError unless a cache with this plan holds what `objective` needs."""
    if objective.topk is not None and not 1 <= objective.topk <= plan.topk:
        raise UsageError(f"--topk must be between 1 and the {plan.topk} that the cache holds, not {objective.topk}.")
    if not objective.needs_soft_labels:
        return
    if plan.draws and objective.name != "sampled":
        raise UsageError(
            f"--objective {objective.name}: the cache holds {plan.draws} drawn words a position, and no best ones. Use "
            "--objective sampled, or make a cache without --sample."
        )
    if objective.name == "sampled" and not plan.draws:
        raise UsageError(
            f"--objective sampled: the cache holds the {plan.topk} best words, and no drawn ones. Make one with "
            "dump-logits --sample, or use --objective bucket, which counts the tail too."
        )
    temperature = _tail_temperature(objective)
    if temperature is not None and temperature not in plan.temperatures:
        stored = ", ".join(f"{one:g}" for one in (1.0, *plan.temperatures))
        raise UsageError(
            f"--temperature {temperature:g} with --objective {objective.name}: the mass of the tail is known at "
            f"temperature {stored} only. Choose one of these, make a cache with dump-logits --normalizers "
            f"{temperature:g}, or use --objective chen2020 or hinton."
        )
