"""Soft labels: some words of a distribution, the k best or those that were drawn, with their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from kdcache.errors import UsageError
from kdcache.text.encoded_pairs import IdArray

LogProbs = npt.NDArray[np.float16] | npt.NDArray[np.float32]
# A kind of array, numpy's or PyTorch's: what is sliced by rows and columns and has a shape.
A = TypeVar("A", bound=Any)
B = TypeVar("B", bound=Any)


@dataclass(frozen=True, slots=True)
class SoftLabels(Generic[A]):
    """The k most probable words at each of n target positions, at temperature 1, over the full output vocabulary.

    The same object goes from the shard, as numpy arrays, through the batch, as tensors, to the loss. Where words were
    drawn instead (`from_counts`), these stand first, log_probs are those of their shares in the draws, and the columns
    that are left hold other words at -inf.

    Attributes:
        token_ids: whole numbers [n, k], by falling probability, no word twice at a position.
        log_probs: natural logarithms [n, k], falling.
        log_normalizers: log Z_T = log Σ_w p(w)^(1/T) of each distribution at some temperatures, [n, n_T], or None.
    """

    token_ids: A
    log_probs: A
    log_normalizers: A | None = None

    @property
    def k(self) -> int:
        """Number of words stored at each position."""
        return int(self.token_ids.shape[1])

    def map(self, change: Callable[[A], B]) -> SoftLabels[B]:
        """The soft labels with `change` applied to each of the arrays, which keeps their columns."""
        normalizers = None if self.log_normalizers is None else change(self.log_normalizers)
        return SoftLabels(change(self.token_ids), change(self.log_probs), normalizers)

    def select(self, k: int) -> SoftLabels[A]:
        """The first `k` columns.

        Raises:
            UsageError: `k` is not between 1 and the stored number.
        """
        if not 1 <= k <= self.k:
            raise UsageError(f"--topk must be between 1 and the {self.k} that are stored, not {k}.")
        return SoftLabels(self.token_ids[:, :k], self.log_probs[:, :k], self.log_normalizers)

    def take(self: SoftArrays, rows: npt.NDArray[np.integer]) -> SoftArrays:
        """The positions `rows` [m], in that order."""
        # Several times faster than indexing: rows are copied whole.
        return self.map(lambda array: array.take(rows, axis=0))

    def mass(self: SoftArrays) -> npt.NDArray[np.float64]:
        """Probability of the k words together, float64 [n]; what is missing to 1 is the tail."""
        total: npt.NDArray[np.float64] = np.exp(self.log_probs.astype(np.float64)).sum(axis=1)
        return total

    def rank_of(self: SoftArrays, token_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Where each of `token_ids` [n] stands among the k of its position, from 0; k if it is not there.

        A word without probability is not there.
        """
        hit: npt.NDArray[np.bool_] = (self.token_ids == token_ids[:, None]) & (self.log_probs > -np.inf)
        return np.where(hit.any(axis=1), hit.argmax(axis=1), self.k).astype(np.int64)

    def draw(
        self: SoftArrays, points: npt.NDArray[np.float64], never: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """One word of each position, and whether there is one to draw: int64 [n], bool [n].

        The words of `never` are left out, and the probabilities of those that remain renormalised over them. Their
        cumulative distribution, by falling probability, is inverted at `points`, float64 [n] in [0, 1).
        """
        left = np.exp(self.log_probs.astype(np.float64))
        left[np.isin(self.token_ids, never)] = 0
        cumulative = np.cumsum(left, axis=1)
        total = cumulative[:, -1:]
        column = np.argmax(cumulative > points[:, None] * total, axis=1)
        words = np.take_along_axis(self.token_ids, column[:, None], axis=1)
        return words[:, 0].astype(np.int64), total[:, 0] > 0


# As a shard holds them: ids uint16 or uint32, log-probabilities float16 or float32, normalizers float32.
SoftArrays: TypeAlias = SoftLabels[npt.NDArray[Any]]


def from_counts(token_ids: IdArray, counts: npt.NDArray[np.integer], draws: int) -> SoftArrays:
    """Soft labels of drawn words, from how often each of them was drawn, [n, k] twice, out of `draws`.

    Columns with a count of 0, the last of their row, get the smallest ids that do not stand in it: the loss scatters by
    ids and needs rows without repetition. k is at most the size of the vocabulary, so that there are enough.
    """
    used = counts > 0
    # The logarithms come from a table: a shard has few different counts and many values.
    with np.errstate(divide="ignore"):
        table = np.log(np.arange(draws + 1) / draws).astype(np.float32)
    return SoftLabels(_filled(token_ids, used), table[counts])


def to_counts(log_probs: npt.NDArray[np.floating], draws: int) -> npt.NDArray[np.int64]:
    """The counts whose shares in `draws` have these logarithms, as the nearest whole numbers."""
    counts: npt.NDArray[np.int64] = np.rint(np.exp(log_probs.astype(np.float64)) * draws).astype(np.int64)
    return counts


def _filled(token_ids: IdArray, used: npt.NDArray[np.bool_]) -> IdArray:
    n, k = token_ids.shape
    # Among the first k ids of the vocabulary, a row with u used columns has at least k - u free ones.
    taken = np.zeros((n, k), dtype=np.bool_)
    rows, columns = np.nonzero(used & (token_ids < k))
    taken[rows, token_ids[rows, columns]] = True
    free = ~taken
    free &= np.cumsum(free, axis=1) <= k - used.sum(axis=1, keepdims=True)
    filled = token_ids.copy()
    # Both sides run row by row.
    filled[~used] = np.nonzero(free)[1]
    return filled


def concatenate(parts: list[SoftArrays]) -> SoftArrays:
    """Put several runs of positions one after the other.

    `parts` is emptied, so that an array that nothing else refers to is freed on the way: ids and log-probabilities are
    not in memory twice at the same time.
    """
    token_ids, log_probs = [part.token_ids for part in parts], [part.log_probs for part in parts]
    normalizers = [part.log_normalizers for part in parts if part.log_normalizers is not None]
    parts.clear()
    joined = np.concatenate(token_ids)
    token_ids.clear()
    return SoftLabels(joined, np.concatenate(log_probs), np.concatenate(normalizers) if normalizers else None)
