"""The average of several distributions of which each names its best words, and the mass that nobody places.

At each target position source m knows p_m(w) for the words of its head H_m, its k_m best, and for the written word y.
Any other word has between 0 and min(p_m(last of H_m), r_m), where r_m is what is left of 1. Of the average
p(w) = (1/M) Σ_m p_m(w) only the known part is stored, (1/M) Σ_{m: w known} p_m(w); nothing is renormalised.
docs/why/method.md has the bounds. What is stored so is itself no such source: a word that only some sources know may be
more probable than its known part, and one that was cut more probable than the last that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.plan import Plan
from kdcache.cache.shard import ShardArrays
from kdcache.labels.soft_labels import SoftArrays, SoftLabels

# Cells of the tables that are sorted at a time: some tens of megabytes.
_CELLS = 1 << 19

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MassBalance:
    """Where the probability mass of the averages is, summed over target positions.

    Attributes:
        positions: how many.
        kept: known parts of the words that are stored.
        cut: known parts of words that are not.
        tails: mass of which the sources state only the amount, not the words.
        missed: how much of `tails` may belong to words that are stored, at most.
        skipped: pairs that only some of the sources skipped; they are skipped here.
    """

    positions: int = 0
    kept: float = 0.0
    cut: float = 0.0
    tails: float = 0.0
    missed: float = 0.0
    skipped: int = 0

    @classmethod
    def total(cls, parts: Sequence[MassBalance]) -> MassBalance:
        """The sum over several runs of positions, the same in whatever order they come."""
        return cls(
            positions=sum(part.positions for part in parts),
            kept=math.fsum(part.kept for part in parts),
            cut=math.fsum(part.cut for part in parts),
            tails=math.fsum(part.tails for part in parts),
            missed=math.fsum(part.missed for part in parts),
            skipped=sum(part.skipped for part in parts),
        )

    def shares(self) -> dict[str, float]:
        """The four masses as means over the positions."""
        names = ("kept", "cut", "tails", "missed")
        return {name: getattr(self, name) / max(1, self.positions) for name in names}


def average(parts: Sequence[ShardArrays], plan: Plan) -> tuple[SoftArrays, npt.NDArray[np.float16], MassBalance]:
    """The `plan.topk` words with the largest known parts, the written word's known part, and the mass balance.

    The sources `parts` hold the same pairs; values are rounded as `plan` stores them. Words with the same known part
    stand in the order of their ids.
    """
    n, k = parts[0].pairs.n_targets, plan.topk
    ids = np.zeros((n, k), dtype=plan.encoding.ids)
    log_probs, written = np.zeros((n, k), dtype=np.float16), np.zeros(n, dtype=np.float16)
    sums = []
    step = max(1, _CELLS // sum(part.soft.k + 1 for part in parts))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        heads = [(part.soft.token_ids[rows], part.soft.log_probs[rows], part.target_log_prob[rows]) for part in parts]
        table = _Table(heads, parts[0].pairs.target_ids[rows], plan)
        order = table.best(k)
        ids[rows] = np.take_along_axis(table.ids, order, axis=1)
        log_probs[rows] = plan.encoding.round(np.take_along_axis(table.known, order, axis=1))
        written[rows] = plan.encoding.round(table.written)
        sums.append(table.mass_balance(order))
    return SoftLabels(ids, log_probs), written, MassBalance.total(sums)


class _Table:
    """All that the sources know about the words at n positions, one cell for a word and a source, sorted by word.

    Attributes:
        ids: int64 [n, cells]; V where a cell is empty.
        known: the logarithm of a word's known part in the first of its cells, -inf in all others: [n, cells].
        written: of the written word, [n].
    """

    def __init__(
        self, heads: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]], targets: Any, plan: Plan
    ) -> None:
        self._heads, self._vocabulary = heads, plan.vocabulary
        self._targets = targets.astype(np.int64)[:, None]
        ids, values, owners = zip(*(self._cells_of(m, *head) for m, head in enumerate(heads)), strict=True)
        joined = np.concatenate(ids, axis=1)
        # Stable, so that the cells of a word stand in the order of the sources.
        order = np.argsort(joined, axis=1, kind="stable")
        self.ids = np.take_along_axis(joined, order, axis=1)
        self._owners = np.concatenate(owners)[order]
        self.known = self._fold(np.take_along_axis(np.concatenate(values, axis=1), order, axis=1))
        place = (self.ids < self._targets).sum(axis=1, keepdims=True)
        self.written: Floats = np.take_along_axis(self.known, place, axis=1)[:, 0]

    def _cells_of(self, m: int, ids: Any, log_probs: Any, written: Any) -> tuple[Any, Floats, Any]:
        """The words of one head but the written one, which is known to all sources and gets a cell of its own."""
        is_written = ids == self._targets
        words = np.where(is_written, self._vocabulary, ids.astype(np.int64))
        values = np.where(is_written, -np.inf, log_probs.astype(np.float64))
        cells = np.concatenate([words, self._targets], axis=1)
        return cells, np.concatenate([values, written.astype(np.float64)[:, None]], axis=1), np.full(cells.shape[1], m)

    def _fold(self, values: Floats) -> Floats:
        first = np.ones(self.ids.shape, dtype=bool)
        first[:, 1:] = self.ids[:, 1:] != self.ids[:, :-1]
        self._first = first
        folded = values.copy()
        # A word has a cell from each source at most.
        for ahead in range(1, min(len(self._heads), self.ids.shape[1])):
            same = self.ids[:, ahead:] == self.ids[:, :-ahead]
            more = np.where(same, values[:, ahead:], -np.inf)
            folded[:, :-ahead] = np.logaddexp(folded[:, :-ahead], more)
        return np.where(first, folded - math.log(len(self._heads)), -np.inf)

    def best(self, k: int) -> npt.NDArray[np.intp]:
        """The first cells of the k words with the largest known parts, [n, k]."""
        return np.argsort(-self.known, axis=1, kind="stable")[:, :k]

    def mass_balance(self, order: npt.NDArray[np.intp]) -> MassBalance:
        """The mass balance if the words at `order` [n, k] are stored."""
        n, k = order.shape
        known = np.exp(self.known)
        kept = np.take_along_axis(known, order, axis=1).sum(axis=1)
        is_kept = np.zeros(self.ids.shape, dtype=bool)
        np.put_along_axis(is_kept, order, True, axis=1)
        # Each cell looks at the first one of its word.
        columns = np.arange(self.ids.shape[1])
        firsts = np.maximum.accumulate(np.where(self._first, columns, 0), axis=1)
        is_kept = np.take_along_axis(is_kept, firsts, axis=1)
        tails, missed = np.zeros(n), np.zeros(n)
        for m, (ids, log_probs, written) in enumerate(self._heads):
            head = np.exp(log_probs.astype(np.float64))
            apart = np.where((ids == self._targets).any(axis=1), 0.0, np.exp(written.astype(np.float64)))
            left = np.maximum(0.0, 1 - head.sum(axis=1) - apart)
            unknown = k - (is_kept & (self._owners == m)).sum(axis=1)
            tails += left / len(self._heads)
            missed += np.minimum(left, unknown * np.minimum(head[:, -1], left)) / len(self._heads)
        return MassBalance(
            positions=n,
            kept=math.fsum(kept),
            # The two sums run in different orders, and where nothing is cut one may be the larger in its last bits.
            cut=max(0.0, math.fsum(known.sum(axis=1) - kept)),
            tails=math.fsum(tails),
            missed=math.fsum(missed),
        )
