"""Other ways to store what a cache holds, each with its writer and a reader that gives the same batches.

They keep the soft labels; the text, from which the order of an epoch follows, is in memory for all but `memmap`.
"""

from __future__ import annotations

import importlib.util
import pickle
import shelve
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kdcache.labels.soft_labels import SoftArrays, SoftLabels
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
from kdcache.training.batches import Batch, Section, collate, epoch_order

TOKENS = 8_192


class Store(Protocol):
    """One way to store the soft labels of a corpus."""

    def write(self, folder: Path, pairs: EncodedPairs, topk: SoftArrays) -> None:
        """Fill an empty folder."""

    def read(self, folder: Path, pairs: EncodedPairs, special: SpecialIds) -> Iterator[Batch]:
        """All batches of an epoch."""


def stores() -> dict[str, Store]:
    """Those that can be measured here, by name."""
    found: dict[str, Store] = {"memmap": MemoryMapped(), "shelve": Shelved()}
    if importlib.util.find_spec("datasets") is not None:
        found["arrow"] = Arrow()
    return found


class _OneSection:
    """Arrays that are there as a whole."""

    def __init__(self, section: Section) -> None:
        self._section = section

    @property
    def sizes(self) -> list[int]:
        """Pairs in the only section."""
        return [self._section.pairs.n_pairs]

    def read(self, order: Sequence[int], _give_up: Callable[[], None]) -> Generator[Section, None, None]:
        """The section."""
        return (self._section for _ in order)


def _with_labels(
    pairs: EncodedPairs, special: SpecialIds, look_up: Callable[[ragged.Ints], tuple[Tensor, Tensor]]
) -> Iterator[Batch]:
    """Batches whose soft labels are looked up for the rows of each."""
    for selection in epoch_order(_OneSection(Section(pairs)), TOKENS, 1, 0):
        ids, log_probs = look_up(selection.rows)
        yield replace(collate(selection, special, None), soft=SoftLabels(ids, log_probs))


class MemoryMapped:
    """Flat arrays mapped from plain files: no hash, no compression, no checks."""

    def write(self, folder: Path, pairs: EncodedPairs, topk: SoftArrays) -> None:
        """One file for each array."""
        np.save(folder / "ids.npy", topk.token_ids)
        np.save(folder / "log_probs.npy", topk.log_probs)
        for name in EncodedPairs.__slots__:
            np.save(folder / f"{name}.npy", getattr(pairs, name))

    def read(self, folder: Path, _pairs: EncodedPairs, special: SpecialIds) -> Iterator[Batch]:
        """The text is mapped too."""
        load = {path.stem: np.load(path, mmap_mode="r") for path in folder.iterdir()}
        pairs = EncodedPairs(*(load[name] for name in EncodedPairs.__slots__))
        section = Section(pairs, SoftLabels(load["ids"], load["log_probs"]))
        for selection in epoch_order(_OneSection(section), TOKENS, 1, 0):
            yield collate(selection, special, None)


class Shelved:
    """A pickled pair of tensors for each sentence, as the code of 2020 keeps them."""

    def write(self, folder: Path, pairs: EncodedPairs, topk: SoftArrays) -> None:
        """Keys are the numbers of the pairs."""
        with shelve.open(str(folder / "shelve"), "n", protocol=pickle.HIGHEST_PROTOCOL) as shelf:  # noqa: S301
            for i in range(pairs.n_pairs):
                rows = slice(int(pairs.target_offsets[i]), int(pairs.target_offsets[i + 1]))
                ids = torch.from_numpy(topk.token_ids[rows].astype(np.int32))
                shelf[str(i)] = (ids, torch.from_numpy(topk.log_probs[rows].copy()))

    def read(self, folder: Path, pairs: EncodedPairs, special: SpecialIds) -> Iterator[Batch]:
        """One look-up for each sentence."""
        with shelve.open(str(folder / "shelve"), "r") as shelf:  # noqa: S301

            def look_up(rows: ragged.Ints) -> tuple[Tensor, Tensor]:
                found = [shelf[str(row)] for row in rows.tolist()]
                return torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])

            yield from _with_labels(pairs, special, look_up)


class Arrow:
    """A Hugging Face dataset with one list of N · k numbers for each sentence and column."""

    def write(self, folder: Path, pairs: EncodedPairs, topk: SoftArrays) -> None:
        """The columns are built from flat values and offsets, without a Python list."""
        import datasets
        import pyarrow

        offsets = pyarrow.array((pairs.target_offsets * topk.k).astype(np.int32))
        columns: dict[str, Any] = {
            name: pyarrow.ListArray.from_arrays(offsets, pyarrow.array(np.ascontiguousarray(values).reshape(-1)))
            for name, values in (("ids", topk.token_ids), ("log_probs", topk.log_probs))
        }
        datasets.disable_progress_bars()
        datasets.Dataset(pyarrow.table(columns)).save_to_disk(str(folder))

    def read(self, folder: Path, pairs: EncodedPairs, special: SpecialIds) -> Iterator[Batch]:
        """Rows are taken as Arrow tables, its fastest way: with `numpy` or `torch` it makes an array of each list."""
        import datasets

        table = datasets.load_from_disk(str(folder)).with_format("arrow")

        def look_up(rows: ragged.Ints) -> tuple[Tensor, Tensor]:
            found, n = table[rows], int(ragged.lengths_at(pairs.target_offsets, rows).sum())
            ids, log_probs = (
                found[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(n, -1)
                for name in ("ids", "log_probs")
            )
            return torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(log_probs.copy())

        yield from _with_labels(pairs, special, look_up)
