"""One shard: arrays to the bytes of an HDF5 file and back, and the rules that both must obey.

Bytes are parsed in memory, never through a file name, so that what was hashed is what is read. Everything about the
file is compared with what the plan allows before any of its data is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdcache.cache.layout import FORMAT, GZIP_LEVEL, LOG_PROB_DTYPES, VERSION, Plan, Sums
from kdcache.errors import CorruptError
from kdcache.softlabels import MASS_TOLERANCE, LogProbs, TopK
from kdcache.tokens import EncodedPairs

_CHUNK_ROWS = 16_384
_FILTERS = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)


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

    def sums(self, unknown: int) -> Sums:
        """Statistics of the stored values; `unknown` is the id of the unknown token."""
        ranks = self.topk.rank_of(self.pairs.target_ids)
        return Sums(
            mass=float(self.topk.mass().sum()),
            known=int((ranks < self.topk.k).sum()),
            best=int((ranks == 0).sum()),
            surprise=float(-self.target_log_prob.astype(np.float64).sum()),
            unknown=int((self.pairs.target_ids == unknown).sum()),
        )


def schema(plan: Plan, n_pairs: int, n_source: int, n_targets: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of every dataset of a shard with these counts."""
    ids = np.dtype(plan.encoding.ids).newbyteorder("<")
    log_probs = LOG_PROB_DTYPES[plan.encoding.log_probs]
    offsets = np.dtype("<i8")
    return {
        "source_ids": (ids, (n_source,)),
        "source_offsets": (offsets, (n_pairs + 1,)),
        "target_ids": (ids, (n_targets,)),
        "target_offsets": (offsets, (n_pairs + 1,)),
        "topk_ids": (ids, (n_targets, plan.topk)),
        "topk_log_probs": (log_probs, (n_targets, plan.topk)),
        "target_log_prob": (log_probs, (n_targets,)),
    }


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
        "topk_log_probs": arrays.topk.log_probs,
        "target_log_prob": arrays.target_log_prob,
    }
    expected = schema(plan, pairs.n_pairs, len(pairs.source_ids), pairs.n_targets)
    with h5py.File(
        "memory", "w", driver="core", backing_store=False, libver=("v110", "v110"), track_order=False
    ) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["plan"] = plan.fingerprint
        file.attrs["shard"] = index
        for name, (dtype, shape) in expected.items():
            _create(file, name, np.ascontiguousarray(values[name], dtype=dtype), shape)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _create(file: h5py.File, name: str, data: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if data.size == 0:
        file.create_dataset(name, data=data, track_times=False)
        return
    # HDF5 refuses chunks larger than the data.
    chunks = (min(shape[0], _CHUNK_ROWS), *shape[1:])
    file.create_dataset(
        name,
        data=data,
        chunks=chunks,
        shuffle=True,
        compression="gzip",
        compression_opts=GZIP_LEVEL,
        fletcher32=True,
        track_times=False,
    )


def check_arrays(arrays: ShardArrays, plan: Plan, index: int, place: str) -> None:
    """Raise CorruptError unless the arrays obey the format's rules and are those of shard `index`."""
    pairs, topk = arrays.pairs, arrays.topk
    first, stop = plan.bounds(index)
    _require(pairs.n_pairs == stop - first, place, f"holds {pairs.n_pairs} pairs, the plan says {stop - first}")
    for name, offsets, ids in (
        ("source", pairs.source_offsets, pairs.source_ids),
        ("target", pairs.target_offsets, pairs.target_ids),
    ):
        good = offsets[0] == 0 and offsets[-1] == len(ids) and bool((np.diff(offsets) >= 0).all())
        _require(good, place, f"{name}_offsets do not divide {name}_ids")
        _require(_below(ids, plan.vocabulary), place, f"{name}_ids outside the vocabulary of {plan.vocabulary}")
    empty = (pairs.source_lengths == 0) == (pairs.target_lengths == 0)
    _require(bool(empty.all()), place, "a pair has one empty side")
    n = pairs.n_targets
    shapes = (topk.token_ids.shape, topk.log_probs.shape, arrays.target_log_prob.shape)
    _require(shapes == ((n, plan.topk), (n, plan.topk), (n,)), place, f"shapes {shapes} for {n} target positions")
    _require(_below(topk.token_ids, plan.vocabulary), place, f"topk_ids outside the vocabulary of {plan.vocabulary}")
    for name, values in (("topk_log_probs", topk.log_probs), ("target_log_prob", arrays.target_log_prob)):
        _require(bool(np.isfinite(values).all()), place, f"{name} holds a value that is not finite")
        _require(bool((values <= 0).all()), place, f"{name} holds a log-probability above 0")
    _require(bool((np.diff(topk.log_probs, axis=1) <= 0).all()), place, "topk_log_probs do not fall")
    mass = float(topk.mass().max(initial=0.0))
    _require(mass <= 1 + MASS_TOLERANCE, place, f"the {plan.topk} best words hold a mass of {mass:.4f}, above 1")
    _check_written_word(arrays, place)


def _check_written_word(arrays: ShardArrays, place: str) -> None:
    """The written word's own log-probability must agree with its distribution, or the rows have slipped."""
    ranks = arrays.topk.rank_of(arrays.pairs.target_ids)
    column = np.minimum(ranks, arrays.topk.k - 1)[:, None]
    stored = np.take_along_axis(arrays.topk.log_probs, column, axis=1)[:, 0].astype(np.float64)
    own = arrays.target_log_prob.astype(np.float64)
    wrong = np.flatnonzero(np.where(ranks < arrays.topk.k, own != stored, own > stored))
    if len(wrong):
        pair = int(np.searchsorted(arrays.pairs.target_offsets, wrong[0], side="right")) - 1
        raise CorruptError(
            f"{place}: the written word's log-probability disagrees with the distribution beside it at {len(wrong):,} "
            f"positions, first in pair {pair} of the shard: rows have slipped against their words."
        )


def _below(ids: npt.NDArray[Any], limit: int) -> bool:
    return len(ids) == 0 or (int(ids.min()) >= 0 and int(ids.max()) < limit)


def _require(good: bool, place: str, problem: str) -> None:
    if not good:
        raise CorruptError(f"{place}: {problem}.")


def decode_shard(data: bytes, plan: Plan, index: int, place: str) -> ShardArrays:
    """Parse and check the bytes of shard `index`.

    Raises:
        CorruptError: they are not such a shard; the message opens with `place`.
    """
    try:
        handle = h5py.h5f.open_file_image(data, h5py.h5f.ACC_RDONLY)
        with h5py.File(handle) as file:
            values = _read(file, plan, index, place)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        # h5py reports HDF5's failures as any of these.
        raise CorruptError(f"{place}: not a readable HDF5 shard: {error}.") from error
    pairs = EncodedPairs(values["source_ids"], values["source_offsets"], values["target_ids"], values["target_offsets"])
    arrays = ShardArrays(pairs, TopK(values["topk_ids"], values["topk_log_probs"]), values["target_log_prob"])
    check_arrays(arrays, plan, index, place)
    return arrays


def _read(file: h5py.File, plan: Plan, index: int, place: str) -> dict[str, npt.NDArray[Any]]:
    first, stop = plan.bounds(index)
    names = set(schema(plan, 0, 0, 0))
    _require(set(file) == names, place, f"datasets {sorted(file)}, expected {sorted(names)}")
    for name in names:
        link = file.get(name, getlink=True)
        _require(isinstance(link, h5py.HardLink), place, f"{name} is a {type(link).__name__}, only hard links are read")
    datasets = {name: file[name] for name in sorted(names)}
    for name, dataset in datasets.items():
        _require(isinstance(dataset, h5py.Dataset), place, f"{name} is not a dataset")
        _check_storage(dataset, place, name)
    attributes = {name: _attribute(file, name) for name in ("format", "version", "plan", "shard")}
    expected_attributes = {"format": FORMAT, "version": VERSION, "plan": plan.fingerprint, "shard": index}
    _require(attributes == expected_attributes, place, f"attributes {attributes}, expected {expected_attributes}")
    n_source, n_targets = datasets["source_ids"].size, datasets["target_ids"].size
    most = (stop - first) * plan.positions
    _require(max(n_source, n_targets) <= most, place, f"more than the {most} tokens that the plan allows")
    for name, (dtype, shape) in schema(plan, stop - first, n_source, n_targets).items():
        found = (datasets[name].dtype, datasets[name].shape)
        _require(found == (dtype, shape), place, f"{name} is {found}, expected {(dtype, shape)}")
    return {name: dataset[()] for name, dataset in datasets.items()}


def _attribute(file: h5py.File, name: str) -> Any:
    value = file.attrs[name]
    return value.item() if isinstance(value, np.generic) else value


def _check_storage(dataset: h5py.Dataset, place: str, name: str) -> None:
    """Refuse storage outside the file, unexpected filters, and chunks that are missing or skip their checksum."""
    properties = dataset.id.get_create_plist()
    _require(properties.get_external_count() == 0, place, f"{name} lies in external files")
    layout = properties.get_layout()
    if dataset.size == 0:
        _require(layout == h5py.h5d.CONTIGUOUS, place, f"{name} is empty but not contiguous")
        return
    _require(layout == h5py.h5d.CHUNKED, place, f"{name} is not chunked")
    filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
    _require(filters == _FILTERS, place, f"{name} has filters {filters}, expected {_FILTERS}")
    shape, chunks = dataset.shape, dataset.chunks
    wanted = (min(shape[0], _CHUNK_ROWS), *shape[1:])
    _require(chunks == wanted, place, f"{name} has chunks of {chunks}, expected {wanted}")
    count = -(-shape[0] // chunks[0])
    _require(dataset.id.get_num_chunks() == count, place, f"{name} lacks chunks, which would read as zeros")
    masks = [dataset.id.get_chunk_info(i).filter_mask for i in range(count)]
    _require(not any(masks), place, f"{name} has chunks that skip a filter")
