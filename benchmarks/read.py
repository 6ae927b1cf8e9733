"""How fast a cache is read into padded batches, and other ways to store the same."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import alternate, publish, ratio, seconds, spread
from benchmarks.stores import TOKENS, stores
from benchmarks.synthetic import write_cache
from kdcache.cache.reader import CacheReader
from kdcache.labels import soft_labels
from kdcache.labels.soft_labels import SoftArrays
from kdcache.student.cached_labels import CacheSections
from kdcache.text import encoded_pairs
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
from kdcache.training.batches import Batch, collate, epoch_order


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--pairs", type=int, default=40_000, help="pairs in the cache")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each arm")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cache(folder / "cache", options.pairs)
        reader = CacheReader(folder / "cache")
        pairs, topk = _whole(reader)
        special = reader.tokenizer().special
        arms: dict[str, Callable[[], Iterator[Batch]]] = {"cache": lambda: _from_cache(folder / "cache", special)}
        for store_name, store in stores().items():
            place = folder / store_name
            place.mkdir()
            store.write(place, pairs, topk)
            arms[store_name] = lambda store=store, place=place: store.read(place, pairs, special)  # type: ignore[misc]
        targets = reader.n_targets
        found = alternate({arm: lambda read=read: targets / _drain(read) for arm, read in arms.items()}, options.rounds)  # type: ignore[misc]
        sizes = {arm: sum(path.stat().st_size for path in (folder / arm).rglob("*") if path.is_file()) for arm in arms}
    rows = [("stored as", "Mtargets/s, median [range]", "bytes/target")]
    for arm, values in found.items():
        rows.append((arm, spread([value / 1e6 for value in values], 3), f"{sizes[arm] / targets:.1f}"))
    figures = {"mtargets_per_s": float(np.median(found["cache"])) / 1e6, "bytes_per_target": sizes["cache"] / targets}
    figures |= {f"over_{arm}": ratio(found["cache"], values) for arm, values in found.items() if arm != "cache"}
    publish(rows, figures)


def _drain(read: Callable[[], Iterator[Batch]]) -> float:
    def work() -> None:
        for _ in read():
            pass

    return seconds(work)


def _from_cache(cache: Path, special: SpecialIds) -> Iterator[Batch]:
    """Everything that training does: read, hash, check, inflate, order, pad."""
    for selection in epoch_order(CacheSections(CacheReader(cache), soft=True), TOKENS, 1, 0):
        yield collate(selection, special, None)


def _whole(reader: CacheReader) -> tuple[EncodedPairs, SoftArrays]:
    arrays = [reader.shard(index) for index in range(len(reader.records))]
    pairs = encoded_pairs.concatenate([one.pairs for one in arrays])
    return pairs, soft_labels.concatenate([one.soft for one in arrays])
