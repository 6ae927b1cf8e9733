"""How fast a cache is read into padded batches, and three other ways to store the same arrays."""

from __future__ import annotations

import argparse
import pickle
import shelve
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import alternate, publish, ratio, seconds, spread
from benchmarks.synthetic import write_cache
from kdcache.batches import Batch, Section, Selection, collate, epoch_order
from kdcache.cache.reader import CacheReader
from kdcache.softlabels import TopK
from kdcache.student.train import CacheSections
from kdcache.tokens import EncodedPairs, SpecialIds, concatenate

TOKENS = 8_192


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
        whole = _whole(reader)
        _write_arrays(folder, whole)
        _write_shelve(folder / "shelve", whole)
        special = reader.tokenizer().special
        arms: dict[str, Callable[[], Iterator[Batch]]] = {
            "cache": lambda: _from_cache(folder / "cache", special),
            "memmap": lambda: _from_memmap(folder, special),
            "shelve": lambda: _from_shelve(folder / "shelve", whole.pairs, special),
        }
        targets = reader.n_targets
        found = alternate({arm: lambda read=read: targets / _drain(read) for arm, read in arms.items()}, options.rounds)  # type: ignore[misc]
        sizes = {
            "cache": _size(folder / "cache"),
            "memmap": _size(folder / "arrays"),
            "shelve": _size(folder, "shelve"),
        }
    rows = [("stored as", "Mtargets/s, median [range]", "bytes/target")]
    for arm, values in found.items():
        rows.append((arm, spread([value / 1e6 for value in values], 3), f"{sizes[arm] / targets:.1f}"))
    figures = {
        "mtargets_per_s": float(np.median(found["cache"])) / 1e6,
        "over_shelve": ratio(found["cache"], found["shelve"]),
        "over_memmap": ratio(found["cache"], found["memmap"]),
        "bytes_per_target": sizes["cache"] / targets,
    }
    publish(rows, figures)


def _drain(read: Callable[[], Iterator[Batch]]) -> float:
    def work() -> None:
        for _ in read():
            pass

    return seconds(work)


def _size(folder: Path, stem: str = "") -> int:
    return sum(path.stat().st_size for path in folder.rglob(f"{stem}*") if path.is_file())


def _from_cache(cache: Path, special: SpecialIds) -> Iterator[Batch]:
    """Everything that training does: read, hash, check, inflate, order, pad."""
    for selection in epoch_order(CacheSections(CacheReader(cache), soft=True), TOKENS, 1, 0):
        yield collate(selection, special, None)


def _whole(reader: CacheReader) -> Section:
    arrays = [reader.shard(index) for index in range(len(reader.records))]
    topk = TopK(
        np.concatenate([one.topk.token_ids for one in arrays]), np.concatenate([one.topk.log_probs for one in arrays])
    )
    return Section(concatenate([one.pairs for one in arrays]), topk)


class _OneSection:
    """Arrays that are there as a whole."""

    def __init__(self, section: Section) -> None:
        self._section = section

    @property
    def sizes(self) -> list[int]:
        """Pairs in the only section."""
        return [self._section.pairs.n_pairs]

    def load(self, _index: int) -> Section:
        """The section."""
        return self._section


def _write_arrays(folder: Path, whole: Section) -> None:
    (folder / "arrays").mkdir()
    if whole.topk is not None:
        np.save(folder / "arrays" / "ids.npy", whole.topk.token_ids)
        np.save(folder / "arrays" / "log_probs.npy", whole.topk.log_probs)
    for name in EncodedPairs.__slots__:
        np.save(folder / "arrays" / f"{name}.npy", getattr(whole.pairs, name))


def _from_memmap(folder: Path, special: SpecialIds) -> Iterator[Batch]:
    """The same arrays mapped from plain files: no hash, no compression, no checks."""
    load = {path.stem: np.load(path, mmap_mode="r") for path in (folder / "arrays").iterdir()}
    pairs = EncodedPairs(*(load[name] for name in EncodedPairs.__slots__))
    section = Section(pairs, TopK(load["ids"], load["log_probs"]))
    for selection in epoch_order(_OneSection(section), TOKENS, 1, 0):
        yield collate(selection, special, None)


def _write_shelve(path: Path, whole: Section) -> None:
    """A pickled pair of tensors for each sentence, as the code of 2020 keeps them."""
    pairs, topk = whole.pairs, whole.topk
    if topk is None:
        return
    with shelve.open(str(path), "n", protocol=pickle.HIGHEST_PROTOCOL) as shelf:  # noqa: S301
        for i in range(pairs.n_pairs):
            rows = slice(int(pairs.target_offsets[i]), int(pairs.target_offsets[i + 1]))
            ids = torch.from_numpy(topk.token_ids[rows].astype(np.int32))
            shelf[str(i)] = (ids, torch.from_numpy(topk.log_probs[rows].copy()))


def _from_shelve(path: Path, pairs: EncodedPairs, special: SpecialIds) -> Iterator[Batch]:
    """The same batches with the soft labels looked up sentence by sentence; the text is in memory."""
    with shelve.open(str(path), "r") as shelf:  # noqa: S301
        for selection in epoch_order(_OneSection(Section(pairs)), TOKENS, 1, 0):
            batch = collate(Selection(Section(pairs), selection.rows, 0, selection.index), special, None)
            found = [shelf[str(row)] for row in selection.rows.tolist()]
            ids, log_probs = (torch.cat([one[side] for one in found]) for side in range(2))
            yield Batch(
                batch.source_ids, batch.source_mask, batch.decoder_ids, batch.positions, batch.labels, ids,
                log_probs,
            )  # fmt: skip
