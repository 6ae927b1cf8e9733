"""One shard: arrays to the bytes of an HDF5 file and back, and the rules that both must obey.

Bytes are parsed in memory, never through a file name, so that what was hashed is what is read. Everything about the
file is compared with what plan and record allow before any of its data is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.encoding import Encoding
from kdcache.cache.hdf5 import open_image, require, write_image
from kdcache.cache.layout import ShardRecord, Sums, check_counts, schema
from kdcache.cache.plan import FORMAT, VERSION, Plan
from kdcache.errors import CorruptError
from kdcache.softlabels import LogProbs, TopK
from kdcache.tokens import EncodedPairs

# Up to so many words, comparing all with all is faster than sorting.
_COMPARED_ROWS = 16


@dataclass(frozen=True, slots=True)
class ShardArrays:
    """What a shard holds.

    Attributes:
        pairs: both texts as ids; skipped pairs have length 0.
        topk: the k best words at each of the ΣN target positions.
        target_log_prob: the teacher's log-probability of the written word, [ΣN].
    """

    pairs: EncodedPairs
    topk: TopK
    target_log_prob: LogProbs

    def sums(self, unknown: int, encoding: Encoding) -> Sums:
        """Statistics of the stored values; `unknown` is the id of the unknown token."""
        ranks = self.topk.rank_of(self.pairs.target_ids)
        return Sums(
            mass=float(self.topk.mass().sum()),
            known=int((ranks < self.topk.k).sum()),
            best=int((ranks == 0).sum()),
            surprise=float(-self.target_log_prob.astype(np.float64).sum()),
            unknown=int((self.pairs.target_ids == unknown).sum()),
            rounding=float(encoding.rounding_error(self.topk.log_probs.astype(np.float64)).sum()),
        )


def encode_shard(arrays: ShardArrays, plan: Plan, index: int) -> bytes:
    """The bytes of an HDF5 file with these arrays, after checking them.

    Raises:
        CorruptError: the arrays break a rule; nothing may be stored.
    """
    check_arrays(arrays, plan, index, f"shard {index}")
    pairs = arrays.pairs
    values = {
        "source_ids": pairs.source_ids,
        "source_offsets": pairs.source_offsets,
        "target_ids": pairs.target_ids,
        "target_offsets": pairs.target_offsets,
        "topk_ids": arrays.topk.token_ids,
        "topk_log_probs": plan.encoding.pack(arrays.topk.log_probs),
        "target_log_prob": plan.encoding.pack(arrays.target_log_prob),
    }
    counts = (len(pairs.source_ids), pairs.n_targets)
    expected = schema(plan, pairs.n_pairs, *counts)
    stored = {name: np.ascontiguousarray(values[name], dtype=dtype) for name, (dtype, _) in expected.items()}
    data = write_image(_attributes(plan, index), stored, plan.encoding.filters)
    # What could not be read again may not be written.
    check_counts(plan, index, *counts, len(data), f"shard {index}")
    return data


def _attributes(plan: Plan, index: int) -> dict[str, str | int]:
    return {"format": FORMAT, "version": VERSION, "plan": plan.fingerprint, "shard": index}


def check_arrays(arrays: ShardArrays, plan: Plan, index: int, place: str) -> None:
    """Raise CorruptError unless the arrays obey the format's rules and are those of shard `index`."""
    _check_texts(arrays.pairs, plan, index, place)
    topk, n = arrays.topk, arrays.pairs.n_targets
    shapes = (topk.token_ids.shape, topk.log_probs.shape, arrays.target_log_prob.shape)
    require(shapes == ((n, plan.topk), (n, plan.topk), (n,)), place, f"shapes {shapes} for {n} target positions")
    require(_below(topk.token_ids, plan.vocabulary), place, f"topk_ids outside the vocabulary of {plan.vocabulary}")
    # By columns, and not in float16, all that follows is several times faster.
    ids, best = np.ascontiguousarray(topk.token_ids.T), np.ascontiguousarray(topk.log_probs.T).astype(np.float32)
    own = arrays.target_log_prob.astype(np.float32)
    require(not _repeats(ids), place, "topk_ids name a word twice at one position")
    for name, values in (("topk_log_probs", best), ("target_log_prob", own)):
        # What is not a number fails the first comparison.
        require(bool(values.min(initial=0) > -np.inf), place, f"{name} holds a value that is not finite")
        require(bool(values.max(initial=-1) <= 0), place, f"{name} holds a log-probability above 0")
    require(bool((best[1:] <= best[:-1]).all()), place, "topk_log_probs do not fall")
    mass = float(np.exp(best).sum(axis=0).max(initial=0))
    require(
        mass <= 1 + plan.mass_tolerance,
        place,
        f"the {plan.topk} best words hold a mass of {mass:.4f}, above 1",
    )
    _check_written_word(arrays.pairs, ids, best, own, place)


def _check_texts(pairs: EncodedPairs, plan: Plan, index: int, place: str) -> None:
    first, stop = plan.bounds(index)
    require(pairs.n_pairs == stop - first, place, f"holds {pairs.n_pairs} pairs, the plan says {stop - first}")
    for name, offsets, ids in (
        ("source", pairs.source_offsets, pairs.source_ids),
        ("target", pairs.target_offsets, pairs.target_ids),
    ):
        # Compared, not subtracted: a difference of two extreme values wraps around.
        rising = bool((offsets[1:] >= offsets[:-1]).all())
        good = len(offsets) == stop - first + 1 and offsets[0] == 0 and offsets[-1] == len(ids) and rising
        require(good, place, f"{name}_offsets do not divide {name}_ids")
        require(_below(ids, plan.vocabulary), place, f"{name}_ids outside the vocabulary of {plan.vocabulary}")
    sources, targets = pairs.source_lengths, pairs.target_lengths
    require(bool(((sources == 0) == (targets == 0)).all()), place, "a pair has one empty side")
    longest = int((sources + targets).max(initial=0))
    require(longest <= plan.positions, place, f"a pair of {longest} tokens, the teacher has {plan.positions} positions")


def _repeats(ids: npt.NDArray[Any]) -> bool:
    """Whether a column of `ids` [k, n] holds a value twice."""
    k = len(ids)
    if k > _COMPARED_ROWS:
        ordered = np.sort(ids, axis=0)
        return bool((ordered[1:] == ordered[:-1]).any())
    return any(bool((ids[step:] == ids[:-step]).any()) for step in range(1, k))


def _check_written_word(
    pairs: EncodedPairs,
    ids: npt.NDArray[Any],
    best: npt.NDArray[np.float32],
    own: npt.NDArray[np.float32],
    place: str,
) -> None:
    """The written word's own log-probability must agree with its distribution, or the rows have slipped.

    Where the word is among the k (`ids` and `best` [k, n]), both values are equal; where it is not, its own is not
    above the last of the k.
    """
    hit = ids == pairs.target_ids
    wrong = np.where(hit.any(axis=0), (hit & (best != own)).any(axis=0), own > best[-1])
    if wrong.any():
        pair = int(np.searchsorted(pairs.target_offsets, np.flatnonzero(wrong)[0], side="right")) - 1
        raise CorruptError(
            f"{place}: the written word's log-probability disagrees with the distribution beside it at "
            f"{int(wrong.sum()):,} positions, first in pair {pair} of the shard: rows have slipped against their words."
        )


def _below(ids: npt.NDArray[Any], limit: int) -> bool:
    return ids.size == 0 or (int(ids.min()) >= 0 and int(ids.max()) < limit)


def decode_shard(data: bytes, plan: Plan, index: int, place: str, record: ShardRecord | None = None) -> ShardArrays:
    """Parse and check the bytes of shard `index`, which hold what `record` says if there is one.

    Raises:
        CorruptError: they are not such a shard; the message opens with `place`.
    """
    first, stop = plan.bounds(index)
    names = schema(plan, 0, 0, 0).keys()
    with open_image(data, place, _attributes(plan, index), names) as image:
        counts = (image.length("source_ids"), image.length("target_ids"))
        check_counts(plan, index, *counts, len(data), place)
        if record is not None:
            said = (record.n_source_tokens, record.n_targets)
            require(counts == said, place, f"holds {counts} source and target tokens, its record says {said}")
        values = image.read(schema(plan, stop - first, *counts), plan.encoding.filters)
    pairs = EncodedPairs(values["source_ids"], values["source_offsets"], values["target_ids"], values["target_offsets"])
    best, own = (plan.encoding.unpack(values[name]) for name in ("topk_log_probs", "target_log_prob"))
    arrays = ShardArrays(pairs, TopK(values["topk_ids"], best), own)
    check_arrays(arrays, plan, index, place)
    return arrays
