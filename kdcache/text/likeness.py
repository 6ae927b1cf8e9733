"""What is odd about a training text beside its validation text and the size of a batch, seen in some of its pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kdcache.text.encoded_pairs import EncodedPairs, IdArray, concatenate

# Nats a piece. Held-out text of one corpus stays below 0.6 on each side, text of another kind or language is above 1.3.
FOREIGN = 1.5
# Over both sides together; the sides of English articles and their headlines are 0.75 apart at least.
EXCHANGED = 0.5
# Counts are added to, so that pieces that did not occur have a probability (Lidstone's law).
_ADDED = 0.1

_Floats = npt.NDArray[np.float64]


def text_warnings(
    parts: Sequence[EncodedPairs], valid: EncodedPairs | None, vocabulary: int, max_tokens: int
) -> list[str]:
    """Sentences about parts of a training text, its validation text, and batches of `max_tokens` padded tokens."""
    lengths = np.concatenate([part.source_lengths + part.target_lengths for part in parts])
    mean = float(lengths[lengths > 0].mean()) if lengths.any() else 0.0
    warnings = []
    if mean > max_tokens:
        warnings.append(
            f"--max-tokens {max_tokens} is less than a pair has (about {mean:.0f} tokens), so most steps learn from "
            "one pair alone. Give the tokens of a whole batch, such as 4096."
        )
    odd = None if valid is None else compare_texts(parts, valid, vocabulary, "validation text")
    return warnings if odd is None else [*warnings, odd]


def compare_texts(parts: Sequence[EncodedPairs], other: EncodedPairs, vocabulary: int, name: str) -> str | None:
    """What is wrong with the text `other`, called `name`, beside parts of another one; None if nothing is.

    Half of the pairs give the probabilities of single pieces, on each side for itself. How much worse their cross
    entropy is for `other` than for the other half tells text of another kind; where it is better with the
    probabilities of the other side, the sides are exchanged.
    """
    pairs = concatenate(parts)
    half, rest = (pairs.take(np.arange(start, pairs.n_pairs, 2)) for start in (0, 1))
    trained, known, given = ((text.source_ids, text.target_ids) for text in (half, rest, other))
    if not all(map(len, (*trained, *known, *given))):
        return None
    costs = [_costs(ids, vocabulary) for ids in trained]
    usual = [cost[ids].mean() for cost, ids in zip(costs, known, strict=True)]
    own, crossed = (
        [float(cost[ids].mean() - base) for cost, ids, base in zip(costs, sides, usual, strict=True)]
        for sides in (given, given[::-1])
    )
    if sum(own) - sum(crossed) > EXCHANGED and max(crossed) < FOREIGN:
        return (
            f"Source and target of the {name} seem to be exchanged: the words of each side are those of the other side "
            "of the training text."
        )
    for side, excess in zip(("source", "target"), own, strict=True):
        if excess > FOREIGN:
            return (
                f"The {side} of the {name} is unlike that of the training text (by {excess:.1f} nats a piece; text of "
                "one kind differs by less than 0.6). Is it of another kind or language?"
            )
    return None


def _costs(ids: IdArray, vocabulary: int) -> _Floats:
    """-log of the probability of each piece, [vocabulary]."""
    counts = np.bincount(ids, minlength=vocabulary) + _ADDED
    costs: _Floats = -np.log(counts / counts.sum())
    return costs
