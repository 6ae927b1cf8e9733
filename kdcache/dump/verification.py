"""Compares a cache with what the plain library answers, view by view, and kdcache's batches with the same.

Arithmetic in another order changes the last bits of a prediction, and rounding changes what is stored. A difference
beyond both means that the cache is not what this teacher predicts. docs/guides/make-a-cache.md has the criterion.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdcache.cache.pair_ranges import concatenate, take
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.shard import ShardArrays
from kdcache.compute.device import resolve_device
from kdcache.console.progress import Progress
from kdcache.dump.difference import Difference, Floats, WordTable, difference, rounding
from kdcache.dump.dump_config import VerifyConfig
from kdcache.errors import DataError, MismatchError, UsageError
from kdcache.teacher.folds import FoldPasses, joint_fingerprint, open_teachers
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.passes import Predictor
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.ragged import offsets_of

_SEED = 0
_MAX_TOKENS = 8_192
# Asked for beyond the k that are stored, so that a word which changed its place is still found.
_MORE_WORDS = 32
# Other hardware may differ by more than two ways to cut batches do on one machine.
_MARGIN = 4.0
# Differences of float32 arithmetic in another order, on any hardware: of one value at most, and on average.
_SLACK_LARGEST, _SLACK_MEAN = 1e-4, 1e-5
# Noise beyond these, of one value and on average, is none: answers depend on what is computed beside them. It is
# about 1e-5 at most in float32 and 0.1 in bfloat16; what a neighbour changes is 1 and more.
_STEADY = {"float32": (1e-2, 1e-3), "bfloat16": (1.0, 0.1)}
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a verification.

    Attributes:
        pairs, targets: numbers of those that were computed again.
        cache: difference between the cache and the library's answer to each view by itself.
        noise: difference between that answer and the teacher with many views together.
        steady: whether the noise is so small that it can be one of arithmetic.
        beyond: largest and mean |Δ log p| of the cache, less what rounding explains; where it holds normalizers, then
            the same of |Δ log Z_T|, which are not rounded.
        allowed: how large these may be.
        worst: line numbers, from 1, of the pairs that go furthest beyond rounding, the worst first.
    """

    pairs: int
    targets: int
    cache: Difference
    noise: Difference
    steady: bool
    beyond: tuple[float, ...]
    allowed: tuple[float, ...]
    worst: tuple[int, ...]

    @property
    def sound(self) -> bool:
        """Whether rounding and noise explain all differences, and the noise is one."""
        # Not-a-number fails.
        return self.steady and all(value <= limit for value, limit in zip(self.beyond, self.allowed, strict=True))


def verify(config: VerifyConfig) -> Finding:
    """Compute a sample of a cache's pairs again with its teacher.

    Raises:
        UsageError: the cache was not made by one teacher alone, or holds drawn words.
        MismatchError: the teacher is not the one of the plan.
        ModelError: the teacher cannot be used.
        DataError: no pair of the sample holds anything.
        CorruptError: the cache is incomplete or damaged.
    """
    config.check()
    reader = open_cache(config.cache)
    check_origin(reader)
    if not config.teacher:
        raise UsageError("Missing option --teacher: its predictions are what the cache is compared with.")
    given = (config.teacher,) if isinstance(config.teacher, str) else config.teacher
    teachers = open_teachers(given, reader.plan.corpus, reader.plan)
    check_teacher(reader, teachers)
    device = resolve_device(config.device)
    for teacher in teachers:
        teacher.model.to(device)
        teacher.check_run(device, _precision(reader, config))
    return compare(reader, teachers, device, config)


def check_origin(reader: CacheReader) -> None:
    """Raise UsageError unless the cache holds the predictions of one teacher, and not drawn words."""
    if reader.plan.averaged > 1:
        raise UsageError(
            f"{reader.place}: an average of {reader.plan.averaged} caches, which no teacher says again. Verify each "
            "of the caches that it was made from."
        )
    if reader.plan.draws:
        raise UsageError(
            f"{reader.place}: holds drawn words, whose shares are not what the teacher says. Its bytes can be "
            "verified, without --teacher."
        )


def check_teacher(reader: CacheReader, teachers: Sequence[Predictor]) -> None:
    """Raise MismatchError unless `teachers` are those that the plan names."""
    plan, teacher = reader.plan, teachers[0]
    for field, stored, given in (
        ("tokenizer", plan.tokenizer, teacher.tokenizer.fingerprint),
        ("vocabulary", plan.vocabulary, teacher.vocabulary),
        ("teacher", plan.teacher, joint_fingerprint(teachers)),
    ):
        if stored != given:
            raise MismatchError(reader.place, field, stored, given, "Give the teacher that the cache was made with.")


def _precision(reader: CacheReader, config: VerifyConfig) -> str:
    return reader.plan.precision if config.precision == "plan" else config.precision


def compare(reader: CacheReader, teachers: Sequence[Teacher], device: torch.device, config: VerifyConfig) -> Finding:
    """Compare a cache with teachers that are on their device; fingerprints are not compared. Errors as in `verify`."""
    lines, arrays = _sample(reader, config.sample)
    plan, k = reader.plan, reader.plan.topk
    live = dataclasses.replace(
        plan,
        topk=min(plan.vocabulary, max(2 * k, k + _MORE_WORDS)),
        precision=_precision(reader, config),
    )
    pairs = _in_place(arrays.pairs, lines, plan.n_pairs)
    views = 2 * plan.maskings * int(np.minimum(pairs.target_lengths, plan.passes).sum())
    with Progress("verifying", views, "views") as progress:
        together, alone = (
            _words(FoldPasses(predictors, live, _MAX_TOKENS, device), pairs, progress.advance)
            for predictors in (teachers, [teacher.by_library() for teacher in teachers])
        )
    stored = WordTable(
        arrays.soft.token_ids.astype(np.int64),
        arrays.soft.log_probs.astype(np.float64),
        arrays.target_log_prob.astype(np.float64),
        _normalizers(arrays.soft.log_normalizers, arrays.pairs.n_targets),
    )
    encodings = [one.encoding for one in plan.ancestry()]
    cache, gaps = difference(stored, alone, max(one.least for one in encodings))
    noise, _ = difference(alone.first(k), together, -np.inf)
    beyond = np.maximum(0.0, gaps - rounding(stored, encodings))
    # Stored as the float32 in which they were computed.
    apart = np.abs(stored.log_normalizers - alone.log_normalizers)
    order = np.argsort(-_by_pair(np.concatenate([beyond, apart], axis=1), arrays.pairs), kind="stable")[:_NAMED]
    return Finding(
        pairs=len(lines),
        targets=arrays.pairs.n_targets,
        cache=cache,
        noise=noise,
        steady=noise.largest <= _STEADY[live.precision][0] and noise.mean <= _STEADY[live.precision][1],
        beyond=(float(beyond.max()), float(beyond.mean()), *(cache.normalizers or ())),
        allowed=(*_allowed(noise.largest, noise.mean), *(_allowed(*noise.normalizers) if noise.normalizers else ())),
        worst=tuple((lines[order] + 1).tolist()),
    )


def _allowed(largest: float, mean: float) -> tuple[float, float]:
    return _SLACK_LARGEST + _MARGIN * largest, _SLACK_MEAN + _MARGIN * mean


def _sample(reader: CacheReader, count: int) -> tuple[npt.NDArray[np.int64], ShardArrays]:
    """Indices of pairs that were not skipped, rising, and what is stored of them."""
    plan = reader.plan
    drawn = np.random.default_rng(_SEED).choice(plan.n_pairs, min(count, plan.n_pairs), replace=False)
    lines, parts = [], []
    for shard in np.unique(drawn // plan.shard_pairs).tolist():
        first, _ = plan.bounds(shard)
        arrays = reader.shard(shard)
        within = np.sort(drawn[drawn // plan.shard_pairs == shard]) - first
        within = within[arrays.pairs.target_lengths[within] > 0]
        lines.append(within + first)
        parts.append(take(arrays, within))
    found = np.concatenate(lines)
    if not len(found):
        raise DataError(
            f"{reader.place}: all {len(drawn):,} pairs of the sample were skipped. Choose a larger --sample."
        )
    return found, concatenate(parts)


def _in_place(pairs: EncodedPairs, lines: npt.NDArray[np.int64], n_pairs: int) -> EncodedPairs:
    """The pairs at their indices in the corpus, which decide how maskings divide them; all other pairs are empty."""
    lengths = np.zeros((2, n_pairs), dtype=np.int64)
    lengths[:, lines] = pairs.source_lengths, pairs.target_lengths
    source_offsets, target_offsets = map(offsets_of, lengths)
    return EncodedPairs(pairs.source_ids, source_offsets, pairs.target_ids, target_offsets)


def _words(passes: FoldPasses, pairs: EncodedPairs, after_batch: Callable[[int], None]) -> WordTable:
    n, k = pairs.n_targets, passes.plan.topk
    ids = np.zeros((n, k), dtype=np.int64)
    log_probs, written = np.full((n, k), np.nan), np.full(n, np.nan)
    normalizers = np.full((n, len(passes.plan.temperatures)), np.nan)
    for rows, kept in passes.run(pairs, 0, after_batch):
        ids[rows], log_probs[rows], written[rows] = kept.ids, kept.values, kept.target_log_prob
        normalizers[rows] = _normalizers(kept.log_normalizers, len(rows))
    return WordTable(ids, log_probs, written, normalizers)


def _normalizers(found: npt.NDArray[np.float32] | None, n: int) -> Floats:
    return np.zeros((n, 0)) if found is None else found.astype(np.float64)


def _by_pair(beyond: Floats, pairs: EncodedPairs) -> Floats:
    worst: Floats = np.maximum.reduceat(beyond.max(axis=1), pairs.target_offsets[:-1])
    return worst


def table(found: Finding) -> list[tuple[str, str, str]]:
    """Both differences side by side, with a header."""
    columns: list[tuple[str, Callable[[Any], str]]] = [
        ("largest |Δ log p|", lambda one: f"{one.largest:.2e}"),
        ("mean |Δ log p|", lambda one: f"{one.mean:.2e}"),
        ("same words in the same order", lambda one: f"{100 * one.same_order:.2f} %"),
        ("same best word", lambda one: f"{100 * one.same_best:.2f} %"),
        ("mean total variation", lambda one: f"{100 * one.variation:.4f} %"),
    ]
    if found.cache.normalizers is not None:
        columns += [
            ("largest |Δ log Z_T|", lambda one: f"{one.normalizers[0]:.2e}"),
            ("mean |Δ log Z_T|", lambda one: f"{one.normalizers[1]:.2e}"),
        ]
    rows = [(name, shown(found.cache), shown(found.noise)) for name, shown in columns]
    return [("", "cache to teacher", "teacher to itself"), *rows]
