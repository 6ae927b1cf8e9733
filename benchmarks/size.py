"""How large a cache is in each encoding, and what rounding does to the distributions in it."""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.report import publish
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.number_encoding import NAMES, Encoding
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.inspection.cache_summary import summarize
from kdcache.labels.soft_labels import SoftArrays, SoftLabels


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("cache", help="a complete cache of a real teacher, in the encoding float16")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    reader = CacheReader(Path(options.cache))
    rows = [("encoding", "shards, B/target", "everything, B/target", "total variation", "expected")]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for encoding in NAMES:
            folder = Path(name) / encoding
            variation = _write(reader, encoding, folder)
            written = CacheReader(folder)
            found = summarize(written)
            shards = sum(record.bytes for record in written.records) / found.targets
            expected = f"{100 * found.rounding:.3f} %"
            rows.append(
                (encoding, f"{shards:.2f}", f"{found.bytes_per_target:.2f}", f"{100 * variation:.3f} %", expected)
            )
            figures |= {f"bytes_per_target_{encoding}": found.bytes_per_target, f"variation_{encoding}": variation}
    figures["targets"] = reader.n_targets
    publish(rows, figures)


def _write(reader: CacheReader, name: str, folder: Path) -> float:
    """Write the cache anew in another encoding; return the mean total variation between its rows and the old ones."""
    encoding = Encoding.named(name, reader.plan.vocabulary)
    writer = CacheWriter(folder, replace(reader.plan, encoding=encoding), reader.tokenizer())
    total = []
    for index in range(reader.plan.n_shards):
        arrays = reader.shard(index)
        topk = SoftLabels(arrays.soft.token_ids, encoding.round(arrays.soft.log_probs))
        writer.commit(index, ShardArrays(arrays.pairs, topk, encoding.round(arrays.target_log_prob)))
        total.append(float(total_variation(arrays.soft, topk).sum()))
    writer.finalize()
    return math.fsum(total) / reader.n_targets


def total_variation(one: SoftArrays, two: SoftArrays) -> npt.NDArray[np.float64]:
    """Half the sum of all differences between two distributions over the same k words and the rest: [n]."""
    first, second = (np.exp(each.log_probs.astype(np.float64)) for each in (one, two))
    result: npt.NDArray[np.float64] = (
        np.abs(first - second).sum(axis=1) + np.abs(first.sum(axis=1) - second.sum(axis=1))
    ) / 2
    return result
