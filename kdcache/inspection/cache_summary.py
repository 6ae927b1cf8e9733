"""What a cache holds and how it was made: the figures in its records, single pairs, and the caches it came from."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdcache.cache.plan import IMPORTED, Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard_records import Manifest, ShardRecord
from kdcache.console.tables import count
from kdcache.errors import UsageError
from kdcache.files.strict_json import readable_json
from kdcache.labels.verdict import HeldOut

_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in a cache.

    Attributes:
        verdict: whether its labels are worth having, in sentences.
        held_out: how the teacher does on text that it did not learn from, or None.
        plan: every field of the plan.
        made_by: the command that made it, such as "dump-logits".
        root: hash over all records; the identity of the content.
        pairs, skipped: line pairs, and those among them that were left out.
        source_tokens, targets: tokens of both sides, special tokens included.
        unknown: targets that are the unknown token.
        shards, bytes: files and their size, JSON and tokenizer included.
        bytes_per_target: `bytes` over `targets`.
        mass: mean probability that the k words hold together; None where words were drawn.
        known: share of targets whose written word is among the k, or among those drawn.
        best: share of targets whose written word is the first of the k; None where words were drawn.
        perplexity: of the teacher on the targets, exp of the mean of -log p.
        rounding: mean total variation that storing the k words is expected to have cost; 0 where words were drawn.
    """

    verdict: tuple[str, ...]
    held_out: HeldOut | None
    plan: dict[str, Any]
    made_by: str
    root: str
    pairs: int
    skipped: int
    source_tokens: int
    targets: int
    unknown: int
    shards: int
    bytes: int
    bytes_per_target: float
    mass: float | None
    known: float
    best: float | None
    perplexity: float
    rounding: float


def summarize(reader: CacheReader) -> Summary:
    """Describe a complete cache from its plan and records; shards are not read.

    Raises:
        CorruptError: the tokenizer of a remote cache is missing.
        CacheError: it cannot be reached any more.
    """
    records = reader.records
    targets, drawn = max(1, reader.n_targets), reader.plan.draws > 0
    figures = reader.teacher_figures()
    size = _size(reader, figures.held_out)
    return Summary(
        verdict=figures.verdict(),
        held_out=figures.held_out,
        plan=asdict(reader.plan),
        made_by=reader.plan.made_by,
        root=reader.manifest.root,
        pairs=reader.plan.n_pairs,
        skipped=sum(record.n_skipped for record in records),
        source_tokens=sum(record.n_source_tokens for record in records),
        targets=reader.n_targets,
        unknown=sum(record.sums.unknown for record in records),
        shards=len(records),
        bytes=size,
        bytes_per_target=size / targets,
        mass=None if drawn else math.fsum(record.sums.mass for record in records) / targets,
        known=sum(record.sums.known for record in records) / targets,
        best=figures.accuracy,
        # Bounded, since a number that a stranger wrote must not overflow.
        perplexity=math.exp(min(700.0, figures.loss)),
        rounding=math.fsum(record.sums.rounding for record in records) / targets,
    )


def _size(reader: CacheReader, held_out: HeldOut | None) -> int:
    """Bytes of all files of the cache; the JSON counts as it was written, since records would have to be fetched."""
    known = [] if held_out is None else [held_out]
    parts: list[Plan | Manifest | HeldOut | ShardRecord] = [reader.plan, reader.manifest, *known, *reader.records]
    written = sum(len(readable_json(asdict(part))) for part in parts)
    return written + reader.files.tokenizer_bytes() + sum(record.bytes for record in reader.records)


@dataclass(frozen=True, slots=True)
class PairView:
    """One pair and what the teacher says at each of its target positions.

    Attributes:
        index: from 0.
        source, target: as text; empty if the pair was skipped.
        words: for each target position the written piece, its log-probability, and the k best with theirs; or those
            that were drawn, with the logarithms of their shares.
    """

    index: int
    source: str
    target: str
    words: list[tuple[str, float, list[tuple[str, float]]]]


def view_pair(reader: CacheReader, index: int) -> PairView:
    """Decode pair `index`.

    Raises:
        UsageError: there is no such pair.
        CorruptError: its shard is damaged.
    """
    if not 0 <= index < reader.plan.n_pairs:
        raise UsageError(f"--pair {index}: the cache has pairs 0 to {reader.plan.n_pairs - 1:,}.")
    shard, row = divmod(index, reader.plan.shard_pairs)
    arrays, tokenizer = reader.shard(shard), reader.tokenizer()
    pairs = arrays.pairs
    source = pairs.source_ids[pairs.source_offsets[row] : pairs.source_offsets[row + 1]]
    positions = range(int(pairs.target_offsets[row]), int(pairs.target_offsets[row + 1]))
    words = []
    for row in positions:
        log_probs = arrays.soft.log_probs[row].astype(np.float64)
        listed = zip(arrays.soft.token_ids[row], log_probs, strict=True)
        best = [(tokenizer.piece(int(i)), float(value)) for i, value in listed if value > -np.inf]
        words.append((tokenizer.piece(int(pairs.target_ids[row])), float(arrays.target_log_prob[row]), best))
    target = pairs.target_ids[positions.start : positions.stop]
    return PairView(index, tokenizer.decode(source.tolist()), tokenizer.decode(target.tolist()), words)


def made_by(plan: Plan) -> str:
    """The command that made a cache, and from how many others."""
    if not plan.sources:
        if plan.precision == IMPORTED:
            return "import, of labels that another program made"
        several = len(plan.teachers)
        return f"dump-logits, with {several} teachers" if several > 1 else "dump-logits, with a teacher"
    return f"{plan.made_by}, from {count(len(plan.sources), 'cache')}"


def source_lines(plan: Plan, depth: int = 0) -> list[str]:
    """The caches that this one was made from, each with its sources indented below it; empty if a teacher made it."""
    lines = []
    for source in plan.sources:
        one = source.plan
        words = f"{one.draws} draws" if one.draws else f"k {one.topk}"
        name = "/".join((one.encoding.log_probs, one.encoding.filters))
        lines.append(
            f"{'  ' * depth}{source.root[:_HASH_DIGITS]}  {one.made_by}, {words}, {name}, passes {one.passes}, "
            f"maskings {one.maskings}, teacher {one.teacher[:_HASH_DIGITS]}"
        )
        lines += source_lines(one, depth + 1)
    return lines
