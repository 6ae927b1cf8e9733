"""The part of HDF5 that shards use, written deterministically and read as if an enemy had written it.

HDF5's library parses the structure of a file; it does not touch compressed data. Its inflate filter grows its buffer
for as long as a stream goes on, so a chunk of a few megabytes can fill the memory of any machine. Chunks are therefore
cut out of the image and inflated here, up to the size that they must have. zlib's own checksum covers what was
inflated; HDF5's Fletcher-32, which is written for other readers, covers the same bytes and is not computed a second
time. Chunks that are not compressed are read by the library, which checks their Fletcher-32.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdcache.errors import CorruptError, OutputError

# Before, the checksum of a superblock is wrong in the bytes of a file that was built in memory (h5py issue 2558).
_WRITING_HDF5 = (2, 0, 0)
# Levels above 4 save two per cent more and take three times as long.
GZIP_LEVEL = 4
CHUNK_ROWS = 65_536
# HDF5 takes no larger chunks.
_CHUNK_BYTES_MAX = (1 << 32) - 1
FILTERS = {
    "gzip": (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32),
    "none": (h5py.h5z.FILTER_FLETCHER32,),
}

Array = npt.NDArray[Any]
Schema = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]

# Signature, superblock version 3, 8-byte addresses, no status flags, no user block, no extension.
_OPENING = b"\x89HDF\r\n\x1a\n" + bytes([3, 8, 8, 0]) + bytes(8) + b"\xff" * 8
_END = slice(28, 36)
_CHECKSUM_BYTES = 4

# Kinds of messages in object headers (HDF5 file format, IV.A.2). All others are refused unread: external files, shared
# messages, filters of a group, ….
_GROUP_MESSAGES = frozenset({0, 2, 6, 10, 12, 16, 21})  # nil, link info, link, group info, attribute, more, attr. info
_DATASET_MESSAGES = frozenset({0, 1, 3, 5, 8, 11, 16})  # nil, space, type, fill value, layout, filters, more


def hdf5_version() -> tuple[int, int, int]:
    """The version of the HDF5 library that h5py brings along."""
    version: tuple[int, int, int] = h5py.version.hdf5_version_tuple
    return version


def check_writing() -> None:
    """Raise OutputError if the HDF5 library here writes shards that no HDF5 opens; older ones than 2.0 do."""
    if (found := hdf5_version()) < _WRITING_HDF5:
        raise OutputError(
            f"h5py {h5py.__version__} works with HDF5 {'.'.join(map(str, found))}, which reads caches, but the shards "
            "that it writes cannot be opened; writing needs HDF5 2.0 or later. Run pip install 'h5py>=3.16'."
        )


def write_image(
    attributes: Mapping[str, str | int], arrays: Mapping[str, Array], filters: str, least: int = 0
) -> bytes:
    """The bytes of a file with these attributes and arrays; equal input gives equal bytes.

    If the file would have fewer than `least` bytes, the smallest arrays that have so many together are stored with
    level 0 of the same filters, which compresses nothing.
    """
    image = _write(attributes, arrays, dict.fromkeys(arrays, GZIP_LEVEL if filters == "gzip" else None))
    if len(image) >= least:
        return image
    levels: dict[str, int | None] = dict.fromkeys(arrays, GZIP_LEVEL)
    names = sorted(arrays, key=lambda name: arrays[name].nbytes)
    for count, name in enumerate(names):
        if sum(arrays[smaller].nbytes for smaller in names[:count]) >= least:
            break
        levels[name] = 0
    return _write(attributes, arrays, levels)


def _write(attributes: Mapping[str, str | int], arrays: Mapping[str, Array], levels: Mapping[str, int | None]) -> bytes:
    with h5py.File(
        "memory", "w", driver="core", backing_store=False, libver=("v110", "v110"), track_order=False
    ) as file:
        for name, value in attributes.items():
            file.attrs[name] = _attribute(value)
        for name, data in arrays.items():
            _create(file, name, data, levels[name])
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _attribute(value: str | int) -> Array:
    # Strings of fixed length lie in the object header, under its checksum. Those of variable length, which h5py would
    # choose, lie in HDF5's global heap, which has none: a flipped bit there can make the library search for ever.
    return np.array(value.encode("ascii") if isinstance(value, str) else value)


def _create(file: h5py.File, name: str, data: Array, level: int | None) -> None:
    if data.size == 0:
        file.create_dataset(name, data=data, track_times=False)
        return
    file.create_dataset(
        name,
        data=data,
        chunks=_chunk_shape(data.shape, data.dtype),
        shuffle=level is not None,
        compression=None if level is None else "gzip",
        compression_opts=level,
        fletcher32=True,
        track_times=False,
    )


def _chunk_shape(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    # HDF5 refuses chunks larger than the data, and stores the last one whole: equal parts leave little of it empty.
    rows = max(1, min(CHUNK_ROWS, _CHUNK_BYTES_MAX // (math.prod(shape[1:]) * dtype.itemsize)))
    n_chunks = -(-shape[0] // rows)
    return (-(-shape[0] // n_chunks), *shape[1:])


@contextmanager
def open_image(data: bytes, place: str, attributes: Mapping[str, str | int], names: Collection[str]) -> Iterator[Image]:
    """Open the bytes of a file that must have exactly these attributes and datasets; no data is read yet.

    Raises:
        CorruptError: it has not, or HDF5 cannot parse it; also from inside the `with` block. The message opens with
            `place`.
    """
    try:
        complete = data.startswith(_OPENING) and int.from_bytes(data[_END], "little") == len(data)
        require(complete, place, "not a complete HDF5 file of the kind that kdcache writes")
        with h5py.File(h5py.h5f.open_file_image(data, h5py.h5f.ACC_RDONLY)) as file:
            yield Image(file, data, place, attributes, names)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        # h5py reports HDF5's failures as any of these.
        raise CorruptError(f"{place}: not a readable HDF5 shard: {error}.") from error


class Image:
    """An open file whose objects are known to be plain: no links to elsewhere, no storage outside, known filters."""

    def __init__(
        self, file: h5py.File, data: bytes, place: str, attributes: Mapping[str, str | int], names: Collection[str]
    ) -> None:
        self._data = memoryview(data)
        self._place = place
        self._check_header(file, "the root group", _GROUP_MESSAGES)
        require(set(file) == set(names), place, f"datasets {sorted(file)}, expected {sorted(names)}")
        self._check_attributes(file, attributes)
        self._datasets = {name: self._open(file, name) for name in sorted(names)}

    def length(self, name: str) -> int:
        """Number of elements of a dataset with one dimension."""
        shape = self._datasets[name].shape
        require(shape is not None and len(shape) == 1, self._place, f"{name} has the shape {shape}")
        return int(shape[0])

    def read(self, schema: Schema, filters: str) -> dict[str, Array]:
        """All arrays, once every one of them is known to have its type, its shape and all of its chunks."""
        for name, (dtype, shape) in schema.items():
            dataset = self._datasets[name]
            good = dataset.shape == shape and dataset.id.get_type().equal(h5py.h5t.py_create(dtype))
            require(good, self._place, f"{name} is {dataset.dtype} {dataset.shape}, expected {dtype} {shape}")
        return {name: self._read(name, *expected, filters) for name, expected in schema.items()}

    def _check_attributes(self, file: h5py.File, expected: Mapping[str, str | int]) -> None:
        names = set(file.attrs)
        require(names == set(expected), self._place, f"attributes {sorted(names)}, expected {sorted(expected)}")
        for name, value in expected.items():
            wanted, attribute = _attribute(value), file.attrs.get_id(name)
            good = attribute.shape == () and attribute.dtype == wanted.dtype
            require(good, self._place, f"attribute {name} is of type {attribute.dtype}, expected {wanted.dtype}")
            stored = file.attrs[name]
            require(stored == wanted, self._place, f"attribute {name} is {stored!r}, expected {value!r}")

    def _open(self, file: h5py.File, name: str) -> h5py.Dataset:
        link = file.get(name, getlink=True)
        ordinary = isinstance(link, h5py.HardLink)
        require(ordinary, self._place, f"{name} is a {type(link).__name__}, only hard links are read")
        dataset = file[name]
        require(isinstance(dataset, h5py.Dataset), self._place, f"{name} is not a dataset")
        # Before anything else is asked of it: the shape of a virtual dataset can lie in other files.
        properties = dataset.id.get_create_plist()
        elsewhere = properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count()
        require(not elsewhere, self._place, f"{name} lies in other files")
        self._check_header(dataset, name, _DATASET_MESSAGES)
        return dataset

    def _check_header(self, thing: h5py.HLObject, name: str, allowed: frozenset[int]) -> None:
        info = h5py.h5o.get_info(thing.id)
        kinds = {kind for kind in range(info.hdr.mesg.present.bit_length()) if info.hdr.mesg.present >> kind & 1}
        elsewhere = info.meta_size.obj.heap_size + info.meta_size.attr.heap_size + info.hdr.mesg.shared
        good = kinds <= allowed and not elsewhere
        require(good, self._place, f"{name} is stored with parts that shards do not have ({sorted(kinds - allowed)})")

    def _read(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], filters: str) -> Array:
        result = np.empty(shape, dtype)
        properties = self._datasets[name].id.get_create_plist()
        layout = properties.get_layout()
        if result.size == 0:
            require(layout == h5py.h5d.CONTIGUOUS, self._place, f"{name} is empty but not contiguous")
            return result
        require(layout == h5py.h5d.CHUNKED, self._place, f"{name} is not chunked")
        used = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
        require(used == FILTERS[filters], self._place, f"{name} has filters {used}, expected {FILTERS[filters]}")
        chunk_shape = _chunk_shape(shape, dtype)
        stored_shape = properties.get_chunk()
        require(
            stored_shape == chunk_shape, self._place, f"{name} has chunks of {stored_shape}, expected {chunk_shape}"
        )
        starts = range(0, shape[0], chunk_shape[0])
        chunks = self._chunks(name, starts)
        if filters == "none":
            expected = int(np.prod(chunk_shape)) * dtype.itemsize + _CHECKSUM_BYTES
            whole = all(len(stored) == expected for stored in chunks)
            require(whole, self._place, f"{name} has a chunk that is not {expected:,} bytes long")
            self._datasets[name].read_direct(result)
            return result
        for start, stored in zip(starts, chunks, strict=True):
            values = self._inflate(stored, dtype, chunk_shape, name)
            # The last chunk is stored whole, whatever of it belongs to the array.
            result[start : start + chunk_shape[0]] = values[: shape[0] - start]
        return result

    def _chunks(self, name: str, starts: range) -> list[memoryview]:
        """The stored bytes of each chunk, none missing and none outside the file."""
        infos: list[Any] = []
        self._datasets[name].id.chunk_iter(infos.append)
        good = [info.chunk_offset[0] for info in infos] == list(starts)
        require(good, self._place, f"{name} lacks chunks, which would read as zeros")
        plain = all(info.filter_mask == 0 for info in infos)
        require(plain, self._place, f"{name} has chunks that skip a filter")
        return [self._data[info.byte_offset : info.byte_offset + info.size] for info in infos]

    def _inflate(self, stored: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
        """One chunk's values; at most one byte more than they may take is ever inflated."""
        expected = int(np.prod(shape)) * dtype.itemsize
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(stored[:-_CHECKSUM_BYTES], expected + 1)
        except zlib.error as error:
            raise CorruptError(f"{self._place}: {name} has a damaged chunk: {error}.") from error
        good = len(data) == expected and stream.eof and not stream.unused_data
        require(good, self._place, f"{name} has a chunk that does not inflate to {expected:,} bytes")
        return _unshuffled(data, dtype).reshape(shape)


def _unshuffled(data: bytes, dtype: np.dtype[Any]) -> Array:
    """Undo the shuffle filter, which stores the first bytes of all values, then all second bytes, …."""
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
    values: Array = planes[-1].astype(f"<u{dtype.itemsize}")
    for plane in planes[-2::-1]:
        values <<= 8
        values |= plane
    return values.view(dtype)


def require(good: bool, place: str, problem: str) -> None:
    """Raise CorruptError unless `good`."""
    if not good:
        raise CorruptError(f"{place}: {problem}.")
