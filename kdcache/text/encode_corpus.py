"""Text to ids for whole corpora, with the pairs that a model cannot take found on the way."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kdcache.errors import DataError
from kdcache.text.corpus import Corpus
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
from kdcache.text.tokenizer import Tokenizer

SECTION_PAIRS = 4_096


def encode_slice(
    corpus: Corpus, tokenizer: Tokenizer, positions: int, start: int, stop: int, *, skip_bad: bool
) -> EncodedPairs:
    """Encode pairs `start` to `stop` (exclusive). Pairs that cannot be used have length 0 and keep their place.

    Raises:
        DataError: a pair does not fit into `positions` together with its special tokens, has no tokens, or spells a
            special token that the tokenizer takes for one, and `skip_bad` is off; the message names its line.
    """
    pairs = tokenizer.encode_pairs(list(corpus.read(start, stop)))
    lengths = pairs.source_lengths + len(tokenizer.special.joint) + pairs.target_lengths
    long, empty, spelled = lengths > positions, pairs.target_lengths == 0, _spelled(pairs, tokenizer.special)
    bad = long | empty | spelled
    if not bad.any():
        return pairs
    if not skip_bad:
        index = int(np.flatnonzero(bad)[0])
        if empty[index]:
            problem = "nothing is left of a side after the tokenizer's normalisation"
        elif long[index]:
            taken = f"{int(lengths[index]):,}"
            problem = f"source, target and special tokens take {taken} positions, the model has {positions:,}"
        else:
            problem = "the text spells a special token, and this tokenizer cannot tell it from the token itself"
        raise DataError(
            f"{corpus.name}, line {start + index + 1}: {problem}. Correct the text, or pass --skip-bad to leave such "
            "pairs out and count them."
        )
    return pairs.without(bad)


def _spelled(pairs: EncodedPairs, special: SpecialIds) -> npt.NDArray[np.bool_]:
    """Which pairs hold a special token beyond those put around their texts, bool [n].

    WordPiece behind BERT's splitting of punctuation and byte-level BPE never give one for text; Unigram does.
    """
    reserved = (special.pad, special.mask, special.start, special.end)
    extra = np.zeros(pairs.n_pairs, dtype=np.bool_)
    for ids, offsets, expected in (
        (pairs.source_ids, pairs.source_offsets, 2),
        (pairs.target_ids, pairs.target_offsets, 1),
    ):
        places = np.flatnonzero(np.isin(ids, reserved))
        extra |= np.diff(np.searchsorted(places, offsets)) > expected
    return extra


def encode_sections(corpus: Corpus, tokenizer: Tokenizer, positions: int, *, skip_bad: bool) -> Iterator[EncodedPairs]:
    """Encode a whole corpus, a few thousand pairs at a time; errors as in `encode_slice`."""
    for start in range(0, corpus.n_pairs, SECTION_PAIRS):
        stop = min(start + SECTION_PAIRS, corpus.n_pairs)
        yield encode_slice(corpus, tokenizer, positions, start, stop, skip_bad=skip_bad)
