"""Text to ids for whole corpora, with the pairs that a model cannot take found on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdcache.corpus import Corpus
from kdcache.errors import DataError
from kdcache.tokens import EncodedPairs, Tokenizer

SECTION_PAIRS = 4_096


def encode_slice(
    corpus: Corpus, tokenizer: Tokenizer, positions: int, start: int, stop: int, *, skip_bad: bool
) -> EncodedPairs:
    """Encode pairs `start` to `stop` (exclusive). Pairs that cannot be used have length 0 and keep their place.

    Raises:
        DataError: a pair does not fit into `positions` together with its special tokens, or has no tokens, and
            `skip_bad` is off; the message names its line.
    """
    pairs = tokenizer.encode_pairs(list(corpus.read(start, stop)))
    lengths = pairs.source_lengths + len(tokenizer.special.joint) + pairs.target_lengths
    bad = (lengths > positions) | (pairs.target_lengths == 0)
    if not bad.any():
        return pairs
    if not skip_bad:
        index = int(np.flatnonzero(bad)[0])
        problem = (
            f"source, target and special tokens take {int(lengths[index]):,} positions, the model has {positions:,}"
            if pairs.target_lengths[index]
            else "nothing is left of a side after the tokenizer's normalisation"
        )
        raise DataError(
            f"{corpus.name}, line {start + index + 1}: {problem}. Correct the text, or pass --skip-bad to leave such "
            "pairs out and count them."
        )
    return pairs.without(bad)


def encode_sections(corpus: Corpus, tokenizer: Tokenizer, positions: int, *, skip_bad: bool) -> Iterator[EncodedPairs]:
    """Encode a whole corpus, a few thousand pairs at a time; errors as in `encode_slice`."""
    for start in range(0, corpus.n_pairs, SECTION_PAIRS):
        stop = min(start + SECTION_PAIRS, corpus.n_pairs)
        yield encode_slice(corpus, tokenizer, positions, start, stop, skip_bad=skip_bad)
