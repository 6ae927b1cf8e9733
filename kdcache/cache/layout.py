"""Names, types and versions of everything in a cache directory, and the three kinds of JSON in it.

::

    CACHE/plan.json            Plan          written first, never changed
    CACHE/tokenizer/           the tokenizer's two files
    CACHE/shards/00000.h5      shard 0: pairs 0 … shard_pairs - 1
    CACHE/shards/00000.json    ShardRecord   written after the shard: the commit
    CACHE/manifest.json        Manifest      written when all records are there
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache.number_encoding import LOG_PROB_DTYPES, NORMALIZER_DTYPE, count_dtype
from kdcache.cache.plan import FORMAT, PLAN_FILE, VERSION, Plan
from kdcache.errors import CorruptError, UsageError
from kdcache.files.atomic import is_sha256
from kdcache.files.strict_json import canonical_json, from_json, read_json

MANIFEST_FILE = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
SHARDS_FOLDER = "shards"
# One manifest lists all shards, and their names have five digits.
SHARDS_MAX = 100_000

# A shard's file takes at most a little more than its arrays, and its arrays at most RATIO times its file and SLACK.
# Honest shards stay far inside (their arrays take about twice their file); bytes made to fill the memory do not.
RATIO = 16
SLACK = 64 << 20


@dataclass(frozen=True, slots=True)
class Sums:
    """What a shard's target positions add up to, in float64, from the values as stored.

    Attributes:
        mass: of the probability that the k words hold together; of words that were drawn, of their shares: 1 each.
        known: of positions whose written word is among the k.
        best: of positions whose written word is the first of the k.
        surprise: of -log p of the written word, in nats.
        unknown: of positions whose written word is the unknown token.
        rounding: of the total variation that storing the k words is expected to cost; 0 of words that were drawn.
    """

    mass: float
    known: int
    best: int
    surprise: float
    unknown: int
    rounding: float


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The commit of one shard: which exact bytes it is, and what they hold."""

    plan: str
    index: int
    file: str
    bytes: int
    sha256: str
    first_pair: int
    n_pairs: int
    n_skipped: int
    n_source_tokens: int
    n_targets: int
    sums: Sums


@dataclass(frozen=True, slots=True)
class Manifest:
    """All records of a complete cache, and a hash over them."""

    format: str
    version: int
    plan: str
    shards: tuple[ShardRecord, ...]
    root: str


def shard_name(index: int) -> str:
    """File name of shard `index` inside the shards folder."""
    return f"{index:05d}.h5"


def record_name(index: int) -> str:
    """File name of the commit record of shard `index`."""
    return f"{index:05d}.json"


def schema(plan: Plan, n_pairs: int, n_source: int, n_targets: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of every dataset of a shard with these counts."""
    ids = np.dtype(plan.encoding.ids).newbyteorder("<")
    log_probs = LOG_PROB_DTYPES[plan.encoding.log_probs]
    offsets = np.dtype("<i8")
    normalizers = (
        {"log_normalizers": (NORMALIZER_DTYPE, (n_targets, len(plan.temperatures)))} if plan.temperatures else {}
    )
    return {
        "source_ids": (ids, (n_source,)),
        "source_offsets": (offsets, (n_pairs + 1,)),
        "target_ids": (ids, (n_targets,)),
        "target_offsets": (offsets, (n_pairs + 1,)),
        "topk_ids": (ids, (n_targets, plan.topk)),
        values_name(plan): (count_dtype(plan.draws) if plan.draws else log_probs, (n_targets, plan.topk)),
        "target_log_prob": (log_probs, (n_targets,)),
        **normalizers,
    }


def check_shards(plan: Plan) -> None:
    """Raise UsageError if the cache would have too many shards."""
    if plan.n_shards > SHARDS_MAX:
        raise UsageError(
            f"--shard-pairs {plan.shard_pairs}: the cache would have {plan.n_shards:,} shards; at most {SHARDS_MAX:,} "
            "are allowed. Choose larger shards."
        )


def values_name(plan: Plan) -> str:
    """The dataset beside `topk_ids`: how often each word was drawn, or its log-probability."""
    return "counts" if plan.draws else "topk_log_probs"


def check_counts(plan: Plan, index: int, n_source: int, n_targets: int, size: int, place: str) -> None:
    """Raise CorruptError unless shard `index` may hold that many tokens in a file of `size` bytes."""
    first, stop = plan.bounds(index)
    most = (stop - first) * plan.positions
    if not (0 <= n_source <= most and 0 <= n_targets <= most):
        raise CorruptError(f"{place}: {n_source} source and {n_targets} target tokens; the plan allows {most} of each.")
    arrays = _array_bytes(plan, stop - first, n_source, n_targets)
    if not (0 < size <= _most_stored(arrays) and arrays <= RATIO * size + SLACK):
        raise CorruptError(f"{place}: {size:,} bytes cannot be a shard whose arrays take {arrays:,} bytes.")


def check_drawn(plan: Plan, index: int, n_targets: int) -> None:
    """Raise UsageError where drawn words may compress so well that the shard breaks the bound of `check_counts`.

    A sure teacher draws one word, and what its other columns take is nothing. Up to SLACK that is within the bound.
    """
    width = np.dtype(plan.encoding.ids).itemsize + count_dtype(plan.draws).itemsize
    size = n_targets * plan.topk * width
    if plan.draws and size > SLACK:
        raise UsageError(
            f"--sample {plan.draws}: the words drawn in shard {index} take {size:,} bytes before they are compressed, "
            f"at most {SLACK:,} are allowed. Choose a smaller --shard-pairs than {plan.shard_pairs:,}."
        )


def most_bytes(plan: Plan, index: int) -> int:
    """No file of shard `index` is larger."""
    first, stop = plan.bounds(index)
    most = (stop - first) * plan.positions
    return _most_stored(_array_bytes(plan, stop - first, most, most))


def _most_stored(array_bytes: int) -> int:
    return array_bytes + array_bytes // 16 + SLACK


def _array_bytes(plan: Plan, n_pairs: int, n_source: int, n_targets: int) -> int:
    expected = schema(plan, n_pairs, n_source, n_targets).values()
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in expected)


def root_hash(records: typing.Sequence[ShardRecord]) -> str:
    """SHA-256 over the canonical JSON of the list of all records, in order."""
    digest = hashlib.sha256(b"[")
    # One after the other: thousands of records as dictionaries take more memory than a shard.
    for number, record in enumerate(records):
        digest.update((b"," if number else b"") + canonical_json(dataclasses.asdict(record)))
    digest.update(b"]")
    return digest.hexdigest()


def make_manifest(plan: Plan, records: typing.Sequence[ShardRecord]) -> Manifest:
    """The manifest of a complete cache."""
    return Manifest(FORMAT, VERSION, plan.fingerprint, tuple(records), root_hash(records))


def read_record(cache: Path, plan: Plan, index: int) -> ShardRecord:
    """Read the commit record of shard `index` and hold it against the plan.

    Raises:
        CorruptError: it is missing, damaged, or names something other than this shard.
    """
    path = cache / SHARDS_FOLDER / record_name(index)
    return record_of(read_json(path), plan, index, str(path))


def record_of(value: Any, plan: Plan, index: int, place: str) -> ShardRecord:
    """The commit record of shard `index` that parsed JSON is; errors as of `read_record`."""
    record = from_json(ShardRecord, value, place)
    check_record(record, plan, index, place)
    return record


def check_record(record: ShardRecord, plan: Plan, index: int, place: str) -> None:
    """Raise CorruptError unless `record` is one of shard `index` of this plan."""
    first, stop = plan.bounds(index)
    expected = (plan.fingerprint, index, shard_name(index), first, stop - first)
    found = (record.plan, record.index, record.file, record.first_pair, record.n_pairs)
    if found != expected:
        raise CorruptError(f"{place}: this is not the record of shard {index} of this plan: {found} for {expected}.")
    if not is_sha256(record.sha256):
        raise CorruptError(f"{place}: sha256 {record.sha256!r}: a SHA-256 is 64 hexadecimal digits, in lower case.")
    check_counts(plan, index, record.n_source_tokens, record.n_targets, record.bytes, place)
    sums, most = record.sums, record.n_targets
    good = (
        0 <= record.n_skipped <= record.n_pairs and 0 <= sums.best <= sums.known <= most and 0 <= sums.unknown <= most
    )
    # The most negative float16 is -65504; a mass may pass 1 by a rounding error.
    if not (good and 0 <= sums.mass <= 2 * most and 0 <= sums.surprise <= 65504 * most and 0 <= sums.rounding <= most):
        raise CorruptError(f"{place}: counts or sums that {most} target positions cannot have.")


def read_manifest(cache: Path, plan: Plan) -> Manifest:
    """Read the manifest of a complete cache and hold it against the plan.

    Raises:
        CorruptError: it is missing (the cache is incomplete), damaged, or of another plan.
    """
    path = cache / MANIFEST_FILE
    if not path.exists():
        done = sum(1 for _ in (cache / SHARDS_FOLDER).glob("[0-9]*.json"))
        raise CorruptError(
            f"{cache}: incomplete: {done:,} of {plan.n_shards:,} shards are committed. Run the same kdcache "
            f"{plan.made_by} command again: it continues."
        )
    return manifest_of(read_json(path), plan, str(path))


def manifest_of(value: Any, plan: Plan, place: str) -> Manifest:
    """The manifest that parsed JSON is.

    Raises:
        CorruptError: it is damaged or of another plan; the message opens with `place`.
    """
    manifest = from_json(Manifest, value, place)
    if (manifest.format, manifest.version, manifest.plan) != (FORMAT, VERSION, plan.fingerprint):
        raise CorruptError(f"{place}: belongs to another plan than the {PLAN_FILE} beside it.")
    if len(manifest.shards) != plan.n_shards or manifest.root != root_hash(manifest.shards):
        raise CorruptError(f"{place}: its records do not add up to its root hash.")
    for index, record in enumerate(manifest.shards):
        check_record(record, plan, index, f"{place}, shard {index}")
    return manifest
