"""Caches of one corpus by several invented teachers, cut into shards and stored in whatever way a test wants.

Words and distributions are functions of a `World` alone, not of shards, k or encoding.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from caches import flat, make_plan, tokenizer

from kdcache.cache.audit import verify_shard
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.derived.derive_config import MergeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.pair_ranges import take
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.labels.soft_labels import SoftLabels
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """A corpus of `n_pairs` pairs over `vocabulary` ids."""

    n_pairs: int = 17
    vocabulary: int = 30
    seed: int = 0

    @property
    def pairs(self) -> EncodedPairs:
        """All pairs, none skipped."""
        generator = np.random.default_rng((self.seed, self.n_pairs, 1))
        special = tokenizer().special
        sources, targets = [], []
        for _ in range(self.n_pairs):
            one, other = (generator.integers(5, self.vocabulary, generator.integers(1, 6)).tolist() for _ in range(2))
            sources.append([special.start, *one, special.end])
            targets.append([*other, special.end])
        source_ids, source_offsets = ragged.from_lists(sources)
        target_ids, target_offsets = ragged.from_lists(targets)
        return EncodedPairs(source_ids.astype("u2"), source_offsets, target_ids.astype("u2"), target_offsets)

    def dense(self, teacher: int) -> Floats:
        """What a teacher says: log-probabilities [ΣN, V], sharp at some positions and nearly flat at others."""
        pairs = self.pairs
        generator = np.random.default_rng((self.seed, self.n_pairs, 2, teacher))
        n = pairs.n_targets
        logits = generator.normal(0, 1, (n, self.vocabulary)) * generator.uniform(0.1, 5, (n, 1))
        logits[np.arange(n), pairs.target_ids] += generator.uniform(0, 3, n)
        log_probs: Floats = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return log_probs

    def plan(self, teacher: int = 0, topk: int = 6, shard_pairs: int = 5, encoding: str = "float16") -> Plan:
        """The plan of a cache."""
        return dataclasses.replace(
            make_plan(self.n_pairs, shard_pairs, topk, self.vocabulary),
            encoding=Encoding.named(encoding, self.vocabulary),
            teacher=hashlib.sha256(str(teacher).encode()).hexdigest(),
        )

    def arrays(self, teacher: int, plan: Plan, skipped: Collection[int] = ()) -> ShardArrays:
        """What a cache holds, all shards together."""
        pairs, dense = self.pairs, self.dense(teacher)
        order = np.argsort(-dense, axis=1, kind="stable")[:, : plan.topk]
        best = np.take_along_axis(dense, order, axis=1)
        own = dense[np.arange(len(dense)), pairs.target_ids]
        rounded = [plan.encoding.round(one) for one in (best, own)]
        flattened = [np.logaddexp.reduce(dense / t, axis=1) for t in plan.temperatures]
        normalizers = np.stack(flattened, axis=1).astype("<f4") if flattened else None
        whole = ShardArrays(pairs, SoftLabels(order.astype(plan.encoding.ids), rounded[0], normalizers), rounded[1])
        empty = np.isin(np.arange(self.n_pairs), list(skipped))
        return dataclasses.replace(take(whole, np.flatnonzero(~empty)), pairs=pairs.without(empty))

    def write(self, folder: Path, teacher: int = 0, *, skipped: Collection[int] = (), **settings: object) -> Path:
        """A whole cache; `settings` are those of `plan`."""
        plan = self.plan(teacher, **settings)  # type: ignore[arg-type]
        return write(folder, plan, self.arrays(teacher, plan, skipped))


def write(folder: Path, plan: Plan, whole: ShardArrays) -> Path:
    """Cut arrays into the shards of a plan."""
    writer = CacheWriter(folder, plan, tokenizer())
    for index in writer.missing():
        writer.commit(index, take(whole, np.arange(*plan.bounds(index))))
    assert writer.finalize()
    return folder


def content(cache: Path) -> list[npt.NDArray[np.generic]]:
    """Every array of a cache, its shards joined by the obvious loop."""
    reader = CacheReader(cache)
    shards = [flat(reader.shard(index)) for index in range(reader.plan.n_shards)]
    joined = [np.concatenate(parts) for parts in zip(*shards, strict=True)]
    for place in (1, 3):
        joined[place] = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(shard[place]) for shard in shards]))])
    return joined


def same(one: Path, other: Path) -> bool:
    """Whether two caches hold the same arrays, bit for bit, however they are cut into shards."""
    pairs = zip(content(one), content(other), strict=True)
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def averaged(output: Path, *sources: Path, topk: int | None = None) -> dict[str, float]:
    """Merge, see that the result is sound, and return where the mass is."""
    result = merge(MergeConfig(tuple(map(str, sources)), topk), output)
    assert result is not None
    reader = CacheReader(output)
    assert [problem for index in range(reader.plan.n_shards) for problem in verify_shard(reader, index)] == []
    return result["mass"] | {"skipped": result["skipped_in_some"]}


def told(world: World, folder: Path, teacher: int, best: dict[int, float], own: float = 0.01) -> Path:
    """A cache that says `best` at every position, by falling probability; the written word is 9, with `own`."""
    plan = world.plan(teacher, topk=len(best))
    whole = world.arrays(teacher, plan)
    n = whole.pairs.n_targets
    ids, log_probs = (np.tile(one, (n, 1)) for one in (list(best), np.log(list(best.values()))))
    return write(
        folder,
        plan,
        ShardArrays(
            dataclasses.replace(whole.pairs, target_ids=np.full_like(whole.pairs.target_ids, 9)),
            SoftLabels(ids.astype(plan.encoding.ids), log_probs.astype(np.float16)),
            np.full(n, np.log(own), dtype=np.float16),
        ),
    )
