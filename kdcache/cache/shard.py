"""One shard: arrays to the bytes of an HDF5 file and back, and the rules that both must obey.

Bytes are parsed in memory, never through a file name, so that what was hashed is what is read. Everything about the
file is compared with what plan and record allow before any of its data is touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.hdf5 import open_image, require, write_image
from kdcache.cache.plan import FORMAT, VERSION, Plan
from kdcache.cache.schema import check_counts, datasets, least_bytes, values_name
from kdcache.cache.shard_records import ShardRecord, Sums
from kdcache.errors import CorruptError
from kdcache.labels.soft_labels import LogProbs, SoftArrays, SoftLabels, from_counts, to_counts
from kdcache.text.encoded_pairs import EncodedPairs

# Up to so many words, comparing all with all is faster than sorting.
_COMPARED_ROWS = 16
# What float32 may add to a normalizer, relative to its largest possible size.
_NORMALIZER_SLACK = 1e-4


@dataclass(frozen=True, slots=True)
class ShardArrays:
    """What a shard holds.

    Attributes:
        pairs: both texts as ids; skipped pairs have length 0.
        soft: the k best words at each of the ΣN target positions, or those that were drawn.
        target_log_prob: the teacher's log-probability of the written word, [ΣN].
    """

    pairs: EncodedPairs
    soft: SoftArrays
    target_log_prob: LogProbs

    def sums(self, unknown: int, plan: Plan) -> Sums:
        """Statistics of the stored values; `unknown` is the id of the unknown token."""
        ranks = self.soft.rank_of(self.pairs.target_ids)
        log_probs = self.soft.log_probs.astype(np.float64)
        return Sums(
            mass=float(self.soft.mass().sum()),
            known=int((ranks < self.soft.k).sum()),
            best=int((ranks == 0).sum()),
            surprise=float(-self.target_log_prob.astype(np.float64).sum()),
            unknown=int((self.pairs.target_ids == unknown).sum()),
            rounding=0.0 if plan.draws else float(plan.encoding.rounding_error(log_probs).sum()),
        )


def encode_shard(arrays: ShardArrays, plan: Plan, index: int) -> bytes:
    """The bytes of an HDF5 file with these arrays, after checking them.

    Raises:
        CorruptError: the arrays break a rule; nothing may be stored.
    """
    check_arrays(arrays, plan, index, f"shard {index}")
    pairs = arrays.pairs
    ids, stored_values = _packed(arrays.soft, plan)
    values = {
        "source_ids": pairs.source_ids,
        "source_offsets": pairs.source_offsets,
        "target_ids": pairs.target_ids,
        "target_offsets": pairs.target_offsets,
        "topk_ids": ids,
        values_name(plan): stored_values,
        "target_log_prob": plan.encoding.pack(arrays.target_log_prob),
        "log_normalizers": arrays.soft.log_normalizers,
    }
    counts = (len(pairs.source_ids), pairs.n_targets)
    expected = datasets(plan, pairs.n_pairs, *counts)
    stored = {name: np.ascontiguousarray(values[name], dtype=dtype) for name, (dtype, _) in expected.items()}
    data = write_image(_attributes(plan, index), stored, plan.encoding.filters, least_bytes(plan, index, *counts))
    # What could not be read again may not be written.
    check_counts(plan, index, *counts, len(data), f"shard {index}")
    return data


def _packed(soft: SoftArrays, plan: Plan) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Ids and values as they are stored; columns that hold no drawn word are 0 in both."""
    if not plan.draws:
        return soft.token_ids, plan.encoding.pack(soft.log_probs)
    counts = to_counts(soft.log_probs, plan.draws)
    return np.where(counts > 0, soft.token_ids, 0), counts


def _unpacked(values: dict[str, npt.NDArray[Any]], plan: Plan, place: str) -> SoftArrays:
    ids, stored = values["topk_ids"], values[values_name(plan)]
    if not plan.draws:
        return SoftLabels(ids, plan.encoding.unpack(stored), values.get("log_normalizers"))
    require(not bool(ids[stored == 0].any()), place, "a word that was not drawn has an id other than 0")
    require(bool((stored <= plan.draws).all()), place, f"counts above the {plan.draws} draws")
    return from_counts(ids, stored, plan.draws)


def _attributes(plan: Plan, index: int) -> dict[str, str | int]:
    return {"format": FORMAT, "version": VERSION, "plan": plan.fingerprint, "shard": index}


def check_arrays(arrays: ShardArrays, plan: Plan, index: int, place: str) -> None:
    """Raise CorruptError unless the arrays obey the format's rules and are those of shard `index`."""
    _check_texts(arrays.pairs, plan, index, place)
    soft, n = arrays.soft, arrays.pairs.n_targets
    shapes = (soft.token_ids.shape, soft.log_probs.shape, arrays.target_log_prob.shape)
    require(shapes == ((n, plan.topk), (n, plan.topk), (n,)), place, f"shapes {shapes} for {n} target positions")
    require(_below(soft.token_ids, plan.vocabulary), place, f"topk_ids outside the vocabulary of {plan.vocabulary}")
    # By columns, and not in float16, all that follows is several times faster.
    ids, best = np.ascontiguousarray(soft.token_ids.T), np.ascontiguousarray(soft.log_probs.T).astype(np.float32)
    written = arrays.target_log_prob.astype(np.float32)
    require(not _repeats(ids), place, "topk_ids name a word twice at one position")
    _check_range(written, "target_log_prob", place)
    if plan.draws:
        _check_drawn(ids, best, plan, place)
        return
    _check_range(best, "topk_log_probs", place)
    require(bool((best[1:] <= best[:-1]).all()), place, "topk_log_probs do not fall")
    mass = float(np.exp(best).sum(axis=0).max(initial=0))
    require(
        mass <= 1 + plan.mass_tolerance,
        place,
        f"the {plan.topk} best words hold a mass of {mass:.4f}, above 1",
    )
    _check_written_word(arrays.pairs, ids, best, written, place)
    _check_normalizers(soft.log_normalizers, best, plan, place)


def _check_range(values: npt.NDArray[np.float32], name: str, place: str) -> None:
    # What is not a number fails the first comparison.
    require(bool(values.min(initial=0) > -np.inf), place, f"{name} holds a value that is not finite")
    require(bool(values.max(initial=-1) <= 0), place, f"{name} holds a log-probability above 0")


def _check_drawn(ids: npt.NDArray[Any], shares: npt.NDArray[np.float32], plan: Plan, place: str) -> None:
    """Drawn words [k, n] come by falling count, then by id, and their counts add up to the number of draws.

    About the written word's own log-probability they say nothing.
    """
    require(bool(shares.max(initial=-1) <= 0), place, "counts hold a value that is not a count")
    counts = to_counts(shares, plan.draws)
    wrong = int((counts.sum(axis=0) != plan.draws).sum())
    require(not wrong, place, f"the counts of {wrong:,} positions do not add up to {plan.draws} draws")
    falling = (counts[1:] < counts[:-1]) | ((counts[1:] == counts[:-1]) & (ids[1:] > ids[:-1]))
    require(bool(falling.all()), place, "drawn words do not stand by falling count and rising id")


def _check_normalizers(
    normalizers: npt.NDArray[np.float32] | None, best: npt.NDArray[np.float32], plan: Plan, place: str
) -> None:
    """Log Z_T lies between 0 and (1 − 1/T)·log V, and the k words ([k, n]) hold no more than 1 at T."""
    n, n_temperatures = best.shape[1], len(plan.temperatures)
    require(
        (normalizers is None) == (n_temperatures == 0),
        place,
        "log_normalizers where the plan has none, or none of them",
    )
    if normalizers is None:
        return
    require(normalizers.shape == (n, n_temperatures), place, f"log_normalizers of shape {normalizers.shape}")
    for column, temperature in enumerate(plan.temperatures):
        values = normalizers[:, column]
        ends = sorted((0.0, (1 - 1 / temperature) * math.log(plan.vocabulary)))
        slack = _NORMALIZER_SLACK * max(1.0, -ends[0], ends[1])
        # What is not a number fails both comparisons.
        inside = (values >= ends[0] - slack) & (values <= ends[1] + slack)
        require(bool(inside.all()), place, f"log_normalizers at temperature {temperature} outside {ends}")
        mass = float(np.exp(best / np.float32(temperature) - values).sum(axis=0).max(initial=0))
        limit = 1 + plan.encoding.mass_tolerance(plan.topk, max(-ends[0], ends[1]))
        require(mass <= limit, place, f"the {plan.topk} best words hold a mass of {mass:.4f} at T = {temperature}")


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
    written: npt.NDArray[np.float32],
    place: str,
) -> None:
    """The written word's own log-probability must agree with its distribution, or the rows have slipped.

    Where the word is among the k (`ids` and `best` [k, n]), both values are equal; where it is not, its own is not
    above the last of the k.
    """
    hit = ids == pairs.target_ids
    wrong = np.where(hit.any(axis=0), (hit & (best != written)).any(axis=0), written > best[-1])
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
    names = datasets(plan, 0, 0, 0).keys()
    with open_image(data, place, _attributes(plan, index), names) as image:
        counts = (image.length("source_ids"), image.length("target_ids"))
        check_counts(plan, index, *counts, len(data), place)
        if record is not None:
            said = (record.n_source_tokens, record.n_targets)
            require(counts == said, place, f"holds {counts} source and target tokens, its record says {said}")
        values = image.read(datasets(plan, stop - first, *counts), plan.encoding.filters)
    pairs = EncodedPairs(values["source_ids"], values["source_offsets"], values["target_ids"], values["target_offsets"])
    written = plan.encoding.unpack(values["target_log_prob"])
    arrays = ShardArrays(pairs, _unpacked(values, plan, place), written)
    check_arrays(arrays, plan, index, place)
    return arrays
