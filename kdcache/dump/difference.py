"""How far one table of words and their log-probabilities is from another, over the same target positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdcache.cache.number_encoding import Encoding

# Cells of the tables that are looked up at a time.
_CELLS = 1 << 22

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WordTable:
    """Words [n, k] at n positions by falling probability, their log-probabilities, and those of the written words [n].

    log_normalizers [n, n_T] are log Z_T at n_T temperatures, of which there may be none.
    """

    ids: npt.NDArray[np.int64]
    log_probs: Floats
    written: Floats
    log_normalizers: Floats

    def first(self, k: int) -> WordTable:
        """The same with the first k words of each position."""
        return WordTable(self.ids[:, :k], self.log_probs[:, :k], self.written, self.log_normalizers)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a teacher's words are from given ones.

    Attributes:
        largest, mean: of |Δ log p|, over the k words and the written one at each position.
        same_order: share of positions with the same k words in the same order.
        same_best: share of positions with the same best word.
        variation: mean total variation, over the k words and the rest.
        normalizers: largest and mean |Δ log Z_T|, over all temperatures that are stored; None where none are.
    """

    largest: float
    mean: float
    same_order: float
    same_best: float
    variation: float
    normalizers: tuple[float, float] | None


def difference(given: WordTable, live: WordTable, least: float) -> tuple[Difference, Floats]:
    """How far `live` is from `given`, and |Δ log p| at the k words and the written one: [n, k + 1].

    What `live` calls less probable than `least` counts as that, since it is stored as that.
    """
    at_words = _look_up(given.ids, live)
    known = np.where(np.isneginf(at_words), live.log_probs[:, -1:], at_words)
    gaps = np.abs(given.log_probs - np.maximum(known, least))
    # A word that is not among those asked for is at most as probable as the last of them.
    gaps = np.where(np.isneginf(at_words), np.maximum(0.0, given.log_probs - np.maximum(known, least)), gaps)
    at_written = np.abs(given.written - np.maximum(live.written, least))
    gaps = np.concatenate([gaps, at_written[:, None]], axis=1)
    one, other = np.exp(given.log_probs), np.exp(known)
    apart = np.abs(one - other).sum(axis=1) + np.abs(one.sum(axis=1) - other.sum(axis=1))
    same = given.ids == live.ids[:, : given.ids.shape[1]]
    normalizers = np.abs(given.log_normalizers - live.log_normalizers)
    found = Difference(
        largest=float(gaps.max()),
        mean=float(gaps.mean()),
        same_order=float(same.all(axis=1).mean()),
        same_best=float(same[:, 0].mean()),
        variation=float(apart.mean() / 2),
        normalizers=(float(normalizers.max()), float(normalizers.mean())) if normalizers.size else None,
    )
    return found, gaps


def _look_up(ids: npt.NDArray[np.int64], live: WordTable) -> Floats:
    """The log-probabilities that `live` has for `ids` [n, k]; -inf where it has none."""
    width = 1 + max(int(ids.max()), int(live.ids.max()))
    found = np.empty(ids.shape)
    step = max(1, _CELLS // width)
    for start in range(0, len(ids), step):
        rows = slice(start, start + step)
        table = np.full((len(ids[rows]), width), -np.inf)
        np.put_along_axis(table, live.ids[rows], live.log_probs[rows], axis=1)
        found[rows] = np.take_along_axis(table, ids[rows], axis=1)
    return found


def rounding(stored: WordTable, encodings: list[Encoding]) -> Floats:
    """How far at most rounding, once for each encoding in the lineage, moved the k words and the written one."""
    values = np.concatenate([stored.log_probs, stored.written[:, None]], axis=1)
    kinds = {one.log_probs: one for one in encodings}
    return np.sum([one.half_step(values) for one in kinds.values()], axis=0)  # type: ignore[no-any-return]
