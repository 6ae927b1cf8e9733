"""Soft labels: the k best words of a distribution, with their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdcache.errors import UsageError
from kdcache.tokens import IdArray

LogProbs = npt.NDArray[np.float16] | npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TopK:
    """The k most probable words at each of n target positions, at temperature 1, over the full output vocabulary.

    Attributes:
        token_ids: [n, k], by falling probability.
        log_probs: natural logarithms [n, k], falling.
    """

    token_ids: IdArray
    log_probs: LogProbs

    @property
    def k(self) -> int:
        """Number of words stored at each position."""
        return int(self.token_ids.shape[1])

    def select(self, k: int) -> TopK:
        """The first `k` columns.

        Raises:
            UsageError: `k` is not between 1 and the stored number.
        """
        if not 1 <= k <= self.k:
            raise UsageError(f"--topk must be between 1 and the {self.k} that are stored, not {k}.")
        return TopK(self.token_ids[:, :k], self.log_probs[:, :k])

    def take(self, rows: npt.NDArray[np.integer]) -> TopK:
        """The positions `rows` [m], in that order."""
        # Several times faster than indexing: rows are copied whole.
        return TopK(self.token_ids.take(rows, axis=0), self.log_probs.take(rows, axis=0))

    def mass(self) -> npt.NDArray[np.float64]:
        """Probability of the k words together, float64 [n]; what is missing to 1 is the tail."""
        total: npt.NDArray[np.float64] = np.exp(self.log_probs.astype(np.float64)).sum(axis=1)
        return total

    def rank_of(self, token_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Where each of `token_ids` [n] stands among the k of its position, from 0; k if it is not there."""
        hit = self.token_ids == token_ids[:, None]
        return np.where(hit.any(axis=1), hit.argmax(axis=1), self.k).astype(np.int64)


def concatenate(parts: list[TopK]) -> TopK:
    """Put several runs of positions one after the other.

    `parts` is emptied, so that what nobody else holds is freed on the way: ids and log-probabilities are not in memory
    twice at the same time.
    """
    token_ids, log_probs = [part.token_ids for part in parts], [part.log_probs for part in parts]
    parts.clear()
    joined = np.concatenate(token_ids)
    token_ids.clear()
    return TopK(joined, np.concatenate(log_probs))
