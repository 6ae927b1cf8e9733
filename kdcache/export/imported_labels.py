"""A cache made from soft labels that another program has computed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.fill_cache import Report, ShardMaker, commit_cache
from kdcache.cache.hdf5 import check_writing
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.plan import FORMAT, IMPORTED, VERSION, Plan
from kdcache.cache.shard import ShardArrays
from kdcache.errors import DataError
from kdcache.export.export_config import needed
from kdcache.export.import_config import ImportConfig
from kdcache.files.strict_json import parse_json
from kdcache.labels.soft_labels import SoftLabels
from kdcache.text import ragged
from kdcache.text.corpus import hash_pair, stamp
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.lines import check_lasting, open_lines, read_lines, strip_line
from kdcache.text.tokenizer import Tokenizer

# How far above 0 a log-probability, and above 1 a sum of probabilities, may lie for its rounding.
_SLACK = 1e-3
# What becomes infinite as float16 lies below.
_LEAST = -65_504
_ROWS = 1_024

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Labels:
    """One pair: its source as text and ids, N target ids, and [N, k] words by falling log-probability."""

    source: str
    source_ids: list[int]
    target_ids: Ints
    topk_ids: Ints
    topk_log_probs: Floats
    written: Floats


def import_labels(config: ImportConfig, output: Path) -> dict[str, Any] | None:
    """Write a cache of labels that another program made; run again, it continues.

    A row of the labels has `target_ids` (N ids, the end token last), `topk_ids` and `topk_log_probs` (N lists of k ids
    and natural log-probabilities), `target_log_probs` (N numbers, of the written words; it may be missing where each
    written word is among the k), and `source` (text) or `source_ids` (start token, text, end token). The words of a
    position may stand in any order. A row whose `target_ids` are empty is a skipped pair.

    Returns what `run.json` says of the result, or None if other processes are still at work.

    Raises:
        UsageError: pyarrow is needed and not installed.
        DataError: a row breaks a rule; the message names it.
        ModelError: the tokenizer cannot be used.
        MismatchError: `output` holds another cache.
        OutputError: the disk refused, or the HDF5 library here cannot write shards.
        StoppedError: a signal asked to stop; committed shards are kept.
    """
    config.check()
    check_writing()
    importing = _Importing(config)
    return commit_cache(importing, output, "import", config, range(importing.plan.n_shards))


class _Importing(ShardMaker):
    def __init__(self, config: ImportConfig) -> None:
        self._config = config
        self._tokenizer = Tokenizer.load(Path(config.tokenizer))
        self._files = _files(Path(config.labels))
        for file in self._files:
            check_lasting(file)
        self._stamps = [stamp(file) for file in self._files]
        self._next = 0
        self._rows: Iterator[_Labels] = iter(())
        corpus, content = hashlib.sha256(), hashlib.sha256()
        n_pairs = topk = 0
        for labels in self._read():
            hash_pair(corpus, labels.source.encode(), self._tokenizer.decode(labels.target_ids.tolist()).encode())
            for array in (labels.target_ids, labels.topk_ids, labels.topk_log_probs, labels.written):
                content.update(array.tobytes())
            n_pairs, topk = n_pairs + 1, (labels.topk_ids.shape[1] if len(labels.target_ids) else topk)
        if not topk:
            raise DataError(f"{config.labels}: no labels; at least one row is needed.")
        size = self._tokenizer.size
        self.plan = Plan(
            format=FORMAT,
            version=VERSION,
            corpus=corpus.hexdigest(),
            n_pairs=n_pairs,
            tokenizer=self._tokenizer.fingerprint,
            vocabulary=size,
            teacher=content.hexdigest(),
            positions=config.positions,
            topk=topk,
            passes=1,
            precision=IMPORTED,
            shard_pairs=config.shard_pairs,
            encoding=Encoding.named(config.encoding, size),
        )

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def shard(self, index: int, _report: Report) -> ShardArrays:
        first, stop = self.plan.bounds(index)
        if first < self._next or not self._next:
            self._rows, self._next = self._read(), 0
        rows = list(islice(self._rows, first - self._next, stop - self._next))
        self._next = stop
        if [stamp(file) for file in self._files] != self._stamps:
            raise DataError(f"{self._config.labels}: changed while being read. Import into another output.")
        encoding = self.plan.encoding
        source_ids, source_offsets = ragged.from_lists([row.source_ids for row in rows])
        target_ids, target_offsets = ragged.from_lists([row.target_ids.tolist() for row in rows])
        pairs = EncodedPairs(source_ids, source_offsets, target_ids, target_offsets)
        labelled = [row for row in rows if len(row.target_ids)]
        k = self.plan.topk
        ids = np.concatenate([np.zeros((0, k), np.int64), *(row.topk_ids for row in labelled)])
        log_probs = np.concatenate([np.zeros((0, k)), *(row.topk_log_probs for row in labelled)])
        written = np.concatenate([np.zeros(0), *(row.written for row in labelled)])
        return ShardArrays(pairs, SoftLabels(ids, encoding.round(log_probs)), encoding.round(written))

    def _read(self) -> Iterator[_Labels]:
        """Check and yield the labels of each pair, all with the same k."""
        topk = None
        for place, row in (pair for file in self._files for pair in _rows(file)):
            labels = _checked(row, place, self._tokenizer, self._config.positions)
            if len(labels.target_ids):
                topk = topk or labels.topk_ids.shape[1]
                _require(labels.topk_ids.shape[1] == topk, place, f"another number of words than the {topk} before")
            yield labels


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a file, with its place."""
    if path.suffix == ".parquet":
        parquet = needed("pyarrow.parquet", "parquet")
        try:
            rows = (row for batch in parquet.ParquetFile(path).iter_batches(_ROWS) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", row
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as Parquet: {error}") from error
        return
    with open_lines(path) as handle:
        for number, line in enumerate(read_lines(handle, path), 1):
            place = f"{path}:{number}"
            row = parse_json(strip_line(line, number == 1), place)
            _require(isinstance(row, dict), place, "not a JSON object")
            yield place, row


def _checked(row: dict[str, Any], place: str, tokenizer: Tokenizer, positions: int) -> _Labels:
    """A row as arrays.

    Raises:
        DataError: it breaks a rule of `import_labels`.
    """
    special, size = tokenizer.special, tokenizer.size
    target_ids = _array(row, "target_ids", place, np.int64, 1)
    n = len(target_ids)
    if not n:
        text, nothing = row.get("source"), np.zeros(0)
        skipped = text if isinstance(text, str) else ""
        return _Labels(skipped, [], target_ids, target_ids[:, None], nothing[:, None], nothing)
    topk_ids, log_probs = (
        _array(row, name, place, kind, 2) for name, kind in (("topk_ids", np.int64), ("topk_log_probs", np.float64))
    )
    _require(topk_ids.shape == log_probs.shape, place, "topk_ids and topk_log_probs differ in shape")
    _require(len(topk_ids) == n, place, f"{len(topk_ids)} rows of topk_ids for {n} target_ids")
    for name, ids in (("target_ids", target_ids), ("topk_ids", topk_ids)):
        inside = (ids >= 0) & (ids < size)
        _require(inside.all(), place, f"{name} outside the vocabulary of {size:,}")
    ordered = np.sort(topk_ids, axis=1)
    _require((ordered[:, 1:] != ordered[:, :-1]).all(), place, "topk_ids name a word twice at one position")
    reserved = np.isin(target_ids, (special.pad, special.mask, special.start, special.end))
    last = reserved.sum() == 1 and target_ids[-1] == special.end
    _require(last, place, f"target_ids must end with the id {special.end} and hold no other special token")
    _require(
        np.isfinite(log_probs).all() and log_probs.max() <= _SLACK, place, "a log-probability is above 0 or not finite"
    )
    _require(log_probs.min() > _LEAST, place, f"a log-probability is below {_LEAST:,}, which float16 cannot hold")
    mass = float(np.exp(log_probs).sum(axis=1).max())
    _require(mass <= 1 + _SLACK, place, f"the probabilities of a position add up to {mass:.4f}, above 1")
    order = np.lexsort((topk_ids, -log_probs))
    topk_ids, log_probs = (np.take_along_axis(values, order, axis=1) for values in (topk_ids, log_probs))
    log_probs = np.minimum(log_probs, 0)
    written = _written(row, place, target_ids, topk_ids, log_probs)
    source, source_ids = _source(row, place, tokenizer)
    taken = len(source_ids) + len(special.joint) + n
    _require(taken <= positions, place, f"source, target and special tokens take {taken:,} of {positions:,} positions")
    return _Labels(source, source_ids, target_ids, topk_ids, log_probs, written)


def _written(row: dict[str, Any], place: str, target_ids: Ints, topk_ids: Ints, log_probs: Floats) -> Floats:
    """The written words' log-probabilities [N], those among the k taken from there."""
    hit = topk_ids == target_ids[:, None]
    known: Floats = np.where(hit, log_probs, 0).sum(axis=1)
    if row.get("target_log_probs") is None:
        missing = int((~hit.any(axis=1)).sum())
        _require(not missing, place, f"target_log_probs is missing, and {missing} written words are not among the k")
        return known
    given = _array(row, "target_log_probs", place, np.float64, 1)
    _require(given.shape == known.shape, place, f"{len(given)} target_log_probs for {len(known)} target_ids")
    good = np.where(
        hit.any(axis=1), np.abs(given - known) <= 0.01 + 0.01 * np.abs(known), given <= log_probs[:, -1] + _SLACK
    )
    _require(
        np.isfinite(given).all() and given.min() > _LEAST and good.all(),
        place,
        "target_log_probs disagree with topk_log_probs: rows have slipped against their words",
    )
    np.copyto(known, np.minimum(given, log_probs[:, -1]), where=~hit.any(axis=1))
    return known


def _source(row: dict[str, Any], place: str, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    text, special = row.get("source"), tokenizer.special
    if row.get("source_ids") is None:
        _require(isinstance(text, str) and bool(text.strip()), place, "no source: give a text or source_ids")
        return str(text), tokenizer.encode_sources([str(text)])[0]
    ids = _array(row, "source_ids", place, np.int64, 1)
    framed = len(ids) > 2 and (ids[0], ids[-1]) == (special.start, special.end)
    _require(framed, place, f"source_ids must begin with the id {special.start} and end with {special.end}")
    _require(((ids >= 0) & (ids < tokenizer.size)).all(), place, "source_ids outside the vocabulary")
    return text if isinstance(text, str) else tokenizer.decode(ids.tolist()), ids.tolist()


def _array(row: dict[str, Any], name: str, place: str, kind: type[np.generic], dimensions: int) -> npt.NDArray[Any]:
    """A field as an array of `kind` with so many dimensions, or with none of its numbers."""
    _require(row.get(name) is not None, place, f"{name} is missing")
    try:
        array = np.array(row[name])
    except ValueError:
        array = np.array(None)
    fits = array.dtype.kind in ("iuf" if kind is np.float64 else "iu") and array.ndim == dimensions
    lists, numbers = (
        ("a list", "lists of equal length")[dimensions - 1],
        "numbers" if kind is np.float64 else "whole numbers",
    )
    _require(fits or array.shape == (0,), place, f"{name} must be {lists} of {numbers}")
    return array.astype(kind)


def _require(holds: object, place: str, problem: str) -> None:
    if not holds:
        raise DataError(f"{place}: {problem}. Nothing of these labels is stored.")
