"""A cache that averages others: several teachers, or one teacher with several maskings, over the same text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.derived.average import MassBalance, average
from kdcache.cache.derived.derive_config import MergeConfig
from kdcache.cache.fill_cache import Report, ShardMaker, commit_cache, neighbouring_shards
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.pair_ranges import PairRanges, take
from kdcache.cache.plan import PLAN_FILE, Plan, SourceCache
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.shard import ShardArrays
from kdcache.errors import CorruptError, MismatchError, UsageError
from kdcache.files.atomic import sha256
from kdcache.files.locations import is_remote
from kdcache.files.run_records import log
from kdcache.files.strict_json import canonical_json
from kdcache.labels.verdict import HeldOut
from kdcache.process.ranks import this_process
from kdcache.text.tokenizer import Tokenizer

# What the sources of a merge must have in common.
SHARED = ("corpus", "n_pairs", "tokenizer", "vocabulary")


def merge(config: MergeConfig, output: Path) -> dict[str, Any] | None:
    """Write the average of several caches; run again, it continues. Returns and further errors as in `transcode`.

    Raises:
        MismatchError: the sources do not share text, tokenizer and vocabulary.
        UsageError: a source is given twice, holds draws, is an average itself or was made from one, or has fewer words
            than are asked for.
        CorruptError: the sources hold different words.
    """
    _check_order(config, output)
    merging = _Merging(config)
    if any(source.plan.temperatures for source in merging.plan.sources):
        log.warning("Normalizers at other temperatures are left out: that of an average is not the average of those.")
    return commit_cache(merging, output, "merge", config, neighbouring_shards(merging.plan.n_shards, this_process()))


class _Merging(ShardMaker):
    def __init__(self, config: MergeConfig) -> None:
        config.check()
        readers = [open_cache(cache) for cache in config.caches]
        # By content, so that the order in which they were given is nowhere in the result.
        self._readers = sorted(readers, key=lambda reader: reader.manifest.root)
        _check_sources(readers)
        self._ranges = [PairRanges(reader) for reader in self._readers]
        self.plan = _plan(config, self._readers)
        self._mass_balances: dict[int, MassBalance] = {}

    def tokenizer(self) -> Tokenizer:
        return self._readers[0].tokenizer()

    def held_out(self, _stored: HeldOut | None) -> HeldOut | None:
        """The sources', where they are of one teacher and say the same; nobody measured the average of several."""
        found = {(reader.plan.teacher, reader.files.held_out()) for reader in self._readers}
        return found.pop()[1] if len(found) == 1 else None

    def shard(self, index: int, _report: Report) -> ShardArrays:
        first, stop = self.plan.bounds(index)
        parts = [ranges.read(first, stop) for ranges in self._ranges]
        times = np.sum([part.pairs.target_lengths == 0 for part in parts], axis=0)
        skipped = times > 0
        kept = [take(part, np.flatnonzero(~skipped)) for part in parts]
        self._check_words(kept, np.flatnonzero(~skipped) + first)
        soft, written, mass_balance = average(kept, self.plan)
        some = int((skipped & (times < len(parts))).sum())
        self._mass_balances[index] = dataclasses.replace(mass_balance, skipped=some)
        return ShardArrays(parts[0].pairs.without(skipped), soft, written)

    def _check_words(self, parts: Sequence[ShardArrays], numbers: npt.NDArray[np.integer]) -> None:
        for part, reader in zip(parts[1:], self._readers[1:], strict=True):
            pair = parts[0].pairs.first_difference(part.pairs)
            if pair is not None:
                raise CorruptError(
                    f"{reader.place}: the words of line {numbers[pair] + 1:,} are not those of "
                    f"{self._readers[0].place}, though corpus and tokenizer are the same. One of them was "
                    "edited, or another program wrote it."
                )

    def shards_to_recount(self) -> list[int]:
        # Those that another run or process wrote are averaged again for the report.
        return [index for index in range(self.plan.n_shards) if index not in self._mass_balances]

    def result(self) -> dict[str, Any]:
        total = MassBalance.total([self._mass_balances[index] for index in range(self.plan.n_shards)])
        return {"skipped_in_some": total.skipped, "mass": total.shares()}


def _check_order(config: MergeConfig, output: Path) -> None:
    """Raise UsageError if the output was named first: a cache would be written to, and one that is not there read."""
    for first in config.caches[:1]:
        if (output / PLAN_FILE).is_file() and not is_remote(first) and not Path(first).exists():
            raise UsageError(
                f"{first}: no such folder. The output comes last: kdcache merge CACHE CACHE … OUTPUT; here it is "
                f"{output}, which holds a cache."
            )


def _check_sources(readers: Sequence[CacheReader]) -> None:
    first, seen = readers[0], dict[str, CacheReader]()
    for reader in readers:
        for field in SHARED:
            stored, given = getattr(first.plan, field), getattr(reader.plan, field)
            if stored != given:
                remedy = f"Caches that are averaged share it; the first was {first.place}."
                raise MismatchError(reader.place, field, stored, given, remedy)
        if reader.plan.draws:
            raise UsageError(
                f"{reader.place}: holds {reader.plan.draws} draws a position, not the most probable words; samples are "
                "not averaged. Run dump-logits without --sample."
            )
        # The bound on what is unknown needs the most probable words, and an average may lack some of its own.
        if reader.plan.averaged > 1:
            raise UsageError(
                f"{reader.place}: an average of {reader.plan.averaged} caches, or made from one; what it says is "
                "incomplete, and averaging it again would hide how much, and change the weights. Merge all the "
                "original caches at once."
            )
        # Where it is no average, the last of the row is what the teacher said.
        sources = (source.root for plan in reader.plan.ancestry() for source in plan.sources)
        *_, dumped = (reader.manifest.root, *sources)
        if dumped in seen:
            raise UsageError(
                f"{reader.place}: the same cache as {seen[dumped].place}, or made from the same one. Each counts once; "
                "weights are equal."
            )
        seen[dumped] = reader


def _plan(config: MergeConfig, readers: Sequence[CacheReader]) -> Plan:
    plans = [reader.plan for reader in readers]
    topk = min(plan.topk for plan in plans) if config.topk is None else config.topk
    most = max(plan.topk for plan in plans)
    if topk > most:
        raise UsageError(f"--topk {topk}: no source holds more than {most} words a position. Choose at most that many.")
    encodings = {plan.encoding for plan in plans}
    teachers = sorted(plan.teacher for plan in plans)
    first = plans[0]
    return Plan(
        format=first.format,
        version=first.version,
        corpus=first.corpus,
        n_pairs=first.n_pairs,
        tokenizer=first.tokenizer,
        vocabulary=first.vocabulary,
        teacher=teachers[0] if len(set(teachers)) == 1 else sha256(canonical_json(teachers)),
        positions=min(plan.positions for plan in plans),
        topk=topk,
        passes=max(plan.passes for plan in plans),
        precision="float32" if all(plan.precision == "float32" for plan in plans) else "bfloat16",
        shard_pairs=min(plan.shard_pairs for plan in plans),
        encoding=encodings.pop() if len(encodings) == 1 else Encoding.named("float16", first.vocabulary),
        maskings=sum(plan.maskings for plan in plans),
        sources=tuple(SourceCache(reader.manifest.root, reader.plan) for reader in readers),
    )
