"""Whether a text is the one that a cache was made from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdcache.cache.reader import CacheReader
from kdcache.errors import MismatchError
from kdcache.text.corpus import Corpus
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.tokenizer import Tokenizer

_REMEDY = "Train on the text that the cache was made from, or dump this text into a cache of its own."


def check_text(reader: CacheReader, corpus: Corpus) -> None:
    """Compare a text with the words in a cache, pair by pair, as the cache's tokenizer sees them.

    Pairs that the cache skipped are not compared.

    Raises:
        MismatchError: the number of pairs or a pair differs; the message names the first.
        CorruptError: a shard is damaged.
    """
    plan = reader.plan
    if corpus.fingerprint == plan.corpus:
        return
    if corpus.n_pairs != plan.n_pairs:
        raise MismatchError(corpus.name, "number of pairs", plan.n_pairs, corpus.n_pairs, _REMEDY)
    tokenizer = reader.tokenizer()
    for index in range(plan.n_shards):
        first, stop = plan.bounds(index)
        given, stored = tokenizer.encode_pairs(list(corpus.read(first, stop))), reader.shard(index).pairs
        row = _first_difference(stored, given)
        if row is not None:
            place = f"{corpus.name}, line {first + row + 1}"
            raise MismatchError(
                place, "pair", _text(stored, row, tokenizer), _text(given, row, tokenizer), remedy=_REMEDY
            )


def _first_difference(stored: EncodedPairs, given: EncodedPairs) -> int | None:
    used = np.flatnonzero(stored.target_lengths > 0)
    ours, theirs = stored.take(used), given.take(used)
    rows = (
        _first_row(ours.source_ids, ours.source_offsets, theirs.source_ids, theirs.source_offsets),
        _first_row(ours.target_ids, ours.target_offsets, theirs.target_ids, theirs.target_offsets),
    )
    found = [row for row in rows if row is not None]
    return int(used[min(found)]) if found else None


def _first_row(
    ids: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    other_ids: npt.NDArray[np.integer],
    other_offsets: npt.NDArray[np.int64],
) -> int | None:
    """The first of n sequences that differs, in length or anywhere in its content."""
    longer = np.flatnonzero(np.diff(offsets) != np.diff(other_offsets))
    # Up to the first that differs in length, all lie at the same places.
    same = int(offsets[longer[0]]) if len(longer) else len(ids)
    wrong = np.flatnonzero(ids[:same] != other_ids[:same])
    if len(wrong):
        return int(np.searchsorted(offsets, wrong[0], side="right")) - 1
    return int(longer[0]) if len(longer) else None


def _text(pairs: EncodedPairs, row: int, tokenizer: Tokenizer) -> str:
    sides = (pairs.source_ids, pairs.source_offsets), (pairs.target_ids, pairs.target_offsets)
    return " ⇒ ".join(tokenizer.decode(ids[start[row] : start[row + 1]].tolist()) for ids, start in sides)
