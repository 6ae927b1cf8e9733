"""The commit record of a shard and the manifest of all records: what they hold, and reading them as hostile input."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.cache.plan import FORMAT, PLAN_FILE, VERSION, Plan
from kdcache.cache.schema import MANIFEST_FILE, SHARDS_FOLDER, check_counts, record_name, shard_name
from kdcache.errors import CorruptError
from kdcache.files.atomic import is_sha256
from kdcache.files.strict_json import canonical_json, from_json, read_json


@dataclass(frozen=True, slots=True)
class Sums:
    """What a shard's target positions add up to, in float64, from the values as stored.

    Attributes:
        mass: the probability that the k words hold together; 1 for each position whose words were drawn.
        known: the number of positions whose written word is among the k.
        best: the number of positions whose written word is the first of the k.
        surprise: -log p of the written word, in nats.
        unknown: the number of positions whose written word is the unknown token.
        rounding: the total variation that storing the k words is expected to cost; 0 for words that were drawn.
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

    @property
    def path(self) -> str:
        """Where the shard's file lies inside the cache."""
        return f"{SHARDS_FOLDER}/{self.file}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """All records of a complete cache, and a hash over them."""

    format: str
    version: int
    plan: str
    shards: tuple[ShardRecord, ...]
    root: str


def root_hash(records: Sequence[ShardRecord]) -> str:
    """SHA-256 over the canonical JSON of the list of all records, in order."""
    digest = hashlib.sha256(b"[")
    # One after the other: thousands of records as dictionaries take more memory than a shard.
    for number, record in enumerate(records):
        digest.update((b"," if number else b"") + canonical_json(dataclasses.asdict(record)))
    digest.update(b"]")
    return digest.hexdigest()


def make_manifest(plan: Plan, records: Sequence[ShardRecord]) -> Manifest:
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
    claimed = (record.plan, record.index, record.file, record.first_pair, record.n_pairs)
    if claimed != expected:
        raise CorruptError(f"{place}: this is not the record of shard {index} of this plan: {claimed} for {expected}.")
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
    if not os.path.lexists(path):
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
