"""What a loss comes to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over target positions; whoever takes the optimizer step divides by the number of positions.

    Attributes:
        total: what is minimised, a scalar with gradient.
        parts: named sums without gradient, for the records: `nll` (−log P_θ(y), nats), `correct` (positions where
            no word is more probable than the written one), `soft` (the soft term, before α and gates).
        n_tokens: number of target positions.
    """

    total: Tensor
    parts: dict[str, Tensor]
    n_tokens: int
