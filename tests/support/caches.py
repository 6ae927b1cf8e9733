"""Small caches without a teacher: seeded distributions stand in for its predictions.

As a program (`python caches.py CACHE N_PAIRS SHARD_PAIRS [TOPK]`) it does what `kdcache dump-logits` does: commit the
missing shards and finalize. Exit code 0: complete; 3: a `KDCacheError`, its text on standard error. With the variable
`CACHE_NOISE=N` in its environment the teacher says something else, as another GPU's does in its last bits.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdcache.cache import schema, shard_records
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.hdf5 import write_image
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.plan import FORMAT, VERSION, Plan, read_plan
from kdcache.cache.shard import ShardArrays
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import KDCacheError
from kdcache.files.atomic import sha256
from kdcache.files.strict_json import readable_json
from kdcache.labels.soft_labels import SoftLabels, from_counts
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.tokenizer import Tokenizer
from kdcache.text.vocabulary import from_corpus

POSITIONS = 64
FAILED = 3
LINES = (
    "the red fox runs over the old bridge",
    "a small dog sleeps under the green table",
    "der rote Fuchs läuft über die alte Brücke",
    "ein kleiner Hund schläft unter dem grünen Tisch",
)


@functools.cache
def tokenizer() -> Tokenizer:
    """A real WordPiece tokenizer, learnt from a few lines; 5 special tokens and some dozens of pieces."""
    return from_corpus(LINES * 2, size=120)


def make_plan(n_pairs: int = 20, shard_pairs: int = 8, topk: int = 4, vocabulary: int | None = None) -> Plan:
    """A plan of `tokenizer()`; with another `vocabulary` its ids are numbers without a meaning."""
    size = tokenizer().size if vocabulary is None else vocabulary
    return Plan(
        format=FORMAT,
        version=VERSION,
        corpus=hashlib.sha256(b"corpus").hexdigest(),
        n_pairs=n_pairs,
        tokenizer=tokenizer().fingerprint,
        vocabulary=size,
        teacher=hashlib.sha256(b"teacher").hexdigest(),
        positions=POSITIONS,
        topk=topk,
        passes=7,
        precision="float32",
        shard_pairs=shard_pairs,
        encoding=Encoding.named("float16", size),
    )


def make_pairs(plan: Plan, index: int, *, skipped: float = 0.2) -> EncodedPairs:
    """The pairs of shard `index`: 1 to 9 words a side, a share of them `skipped`; a pure function of both."""
    first, stop = plan.bounds(index)
    generator = np.random.default_rng((plan.n_pairs, index, 1))
    special = tokenizer().special
    sources, targets = [], []
    for _ in range(first, stop):
        source, target = (generator.integers(5, plan.vocabulary, generator.integers(1, 10)).tolist() for _ in range(2))
        keep = generator.random() >= skipped
        sources.append([special.start, *source, special.end] if keep else [])
        targets.append([*target, special.end] if keep else [])
    ids = np.dtype(plan.encoding.ids)
    source_ids, source_offsets = ragged.from_lists(sources)
    target_ids, target_offsets = ragged.from_lists(targets)
    return EncodedPairs(source_ids.astype(ids), source_offsets, target_ids.astype(ids), target_offsets)


def label(pairs: EncodedPairs, plan: Plan, seed: int) -> ShardArrays:
    """Soft labels from dense seeded distributions over the whole vocabulary, the written word favoured."""
    logits = np.random.default_rng((plan.n_pairs, seed, 2)).normal(0, 3, (pairs.n_targets, plan.vocabulary))
    rows = np.arange(pairs.n_targets)
    logits[rows, pairs.target_ids] += 4
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, : plan.topk]
    best = np.take_along_axis(log_probs, order, axis=1).astype(np.float16)
    return ShardArrays(
        pairs,
        SoftLabels(order.astype(plan.encoding.ids), best),
        log_probs[rows, pairs.target_ids].astype(np.float16),
    )


def drawn_plan(draws: int, n_pairs: int = 8, vocabulary: int | None = None) -> Plan:
    """A plan of one shard of drawn words."""
    plan = make_plan(n_pairs, n_pairs, 1, vocabulary)
    return dataclasses.replace(plan, draws=draws, topk=min(draws, plan.vocabulary), seed=3)


def log_probs_of(plan: Plan, n: int, seed: int) -> npt.NDArray[np.float64]:
    """Seeded distributions over the whole vocabulary, [n, vocabulary]."""
    logits = np.random.default_rng(seed).normal(0, 3, (n, plan.vocabulary))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def drawn_arrays(plan: Plan, seed: int = 1, skipped: float = 0.2) -> ShardArrays:
    """Words drawn by NumPy's multinomial, in the order of the format."""
    pairs = make_pairs(plan, 0, skipped=skipped)
    n = pairs.n_targets
    dense = log_probs_of(plan, n, seed)
    counts = np.array([np.random.default_rng((seed, i)).multinomial(plan.draws, np.exp(dense[i])) for i in range(n)])
    counts = counts.reshape(n, plan.vocabulary).astype(np.int64)
    order = np.argsort(-counts, axis=1, kind="stable")[:, : plan.topk]
    topk = from_counts(order.astype(plan.encoding.ids), np.take_along_axis(counts, order, axis=1), plan.draws)
    return ShardArrays(pairs, topk, dense[np.arange(n), pairs.target_ids].astype(np.float16))


def make_arrays(plan: Plan, index: int) -> ShardArrays:
    """What the teacher would say about shard `index`."""
    return label(make_pairs(plan, index), plan, index + 1_000 * int(os.environ.get("CACHE_NOISE", "0")))


def large_arrays(plan: Plan, length: int) -> ShardArrays:
    """One shard with `length` words in every target, made by array arithmetic: realistic values, quickly."""
    generator = np.random.default_rng(3)
    n_pairs, k = plan.n_pairs, plan.topk
    n = n_pairs * length
    ids = np.dtype(plan.encoding.ids)

    def words(shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        frequency = generator.zipf(1.2, shape) % (plan.vocabulary - k - 5)
        return (frequency + 5).astype(ids)

    topk_ids = (words((n, 1)) + np.arange(k)).astype(ids)
    parts = np.sort(-generator.exponential(2, (n, k)) - 0.01, axis=1)[:, ::-1]
    log_probs = (parts - np.maximum(0, np.logaddexp.reduce(parts, axis=1, keepdims=True))).astype(np.float16)
    offsets = ragged.offsets_of(np.full(n_pairs, length))
    written = generator.integers(0, k, n)
    rows = np.arange(n)
    pairs = EncodedPairs(words((n,)), offsets, topk_ids[rows, written], offsets)
    return ShardArrays(pairs, SoftLabels(topk_ids, log_probs), log_probs[rows, written])


def write_cache(folder: Path, plan: Plan) -> bool:
    """Do what a dump does: commit what is missing, then finalize."""
    writer = CacheWriter(folder, plan, tokenizer())
    for index in writer.missing():
        if writer.adopt(index) is None:
            writer.commit(index, make_arrays(plan, index))
    return writer.finalize()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache by its relative name, set-aside shards and lock files left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".invalid-" not in path.name and not path.name.startswith(".lock")
    }


def image(plan: Plan, index: int, arrays: ShardArrays) -> bytes:
    """The bytes of a shard with these arrays, whatever rule they break."""
    pairs, topk = arrays.pairs, arrays.soft
    values = (pairs.source_ids, pairs.source_offsets, pairs.target_ids, pairs.target_offsets)
    names = ("source_ids", "source_offsets", "target_ids", "target_offsets")
    more = {"topk_ids": topk.token_ids, "topk_log_probs": topk.log_probs, "target_log_prob": arrays.target_log_prob}
    return write_image(attributes(plan, index), {**dict(zip(names, values, strict=True)), **more}, "gzip")


def attributes(plan: Plan, index: int) -> dict[str, str | int]:
    """What a shard says about itself."""
    return {"format": "kdcache", "version": VERSION, "plan": plan.fingerprint, "shard": index}


def forge(folder: Path, index: int, data: bytes) -> None:
    """Put `data` in the place of a shard and commit it in record and manifest, as an enemy who can hash would."""
    plan, shards = read_plan(folder), folder / schema.SHARDS_FOLDER
    records = list(shard_records.read_manifest(folder, plan).shards)
    records[index] = dataclasses.replace(records[index], bytes=len(data), sha256=sha256(data))
    (shards / schema.shard_name(index)).write_bytes(data)
    (shards / schema.record_name(index)).write_bytes(readable_json(dataclasses.asdict(records[index])))
    (folder / schema.MANIFEST_FILE).write_bytes(manifest_bytes(plan, records))


def flip_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def manifest_bytes(plan: Plan, records: Sequence[ShardRecord]) -> bytes:
    """A manifest of any records, with a root hash that fits."""
    return readable_json(dataclasses.asdict(shard_records.make_manifest(plan, records)))


def flat(arrays: ShardArrays) -> list[npt.NDArray[np.generic]]:
    """Every array of a shard, in a fixed order."""
    pairs, soft = arrays.pairs, arrays.soft
    texts = [pairs.source_ids, pairs.source_offsets, pairs.target_ids, pairs.target_offsets]
    more = [] if soft.log_normalizers is None else [soft.log_normalizers]
    return [*texts, soft.token_ids, soft.log_probs, *more, arrays.target_log_prob]


def equal(one: ShardArrays, two: ShardArrays) -> bool:
    """Whether two shards hold the same values, bit for bit."""
    return [array.tobytes() for array in flat(one)] == [array.tobytes() for array in flat(two)]


def main(folder: str, *numbers: str) -> int:
    """Write one cache; see the module's description."""
    try:
        complete = write_cache(Path(folder), make_plan(*map(int, numbers)))
    except KDCacheError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    print("complete" if complete else "incomplete")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
