"""Reading parallel text: two files line by line, or one file that holds both sides.

What a line is, `kdcache.text.lines` says. A pair keeps its index (line number - 1) whatever its neighbours are like.
Nothing here holds more than a few lines in memory.
"""

import hashlib
import json
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from kdcache.errors import DataError, UsageError
from kdcache.settings import Nested, Option
from kdcache.text.lines import (
    INDEX_EVERY,
    Handles,
    check_lasting,
    close_all,
    decode_line,
    open_lines,
    read_lines,
    strip_line,
)

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """One source sentence and the target sentence that belongs to it."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Where parallel text lies: two files, or one with both sides."""

    source: str | None = Option(
        "Source text, one sentence a line; compressed by gzip, bzip2 or xz too.", metavar="F"
    ).default(None)
    target: str | None = Option("Target text; its lines belong to those of --source.", metavar="F").default(None)
    pairs: str | None = Option(
        "Both sides in one file: tab-separated, or .jsonl with source and target.", metavar="F"
    ).default(None)

    def check(self) -> None:
        """Raise UsageError if neither or both forms are given, or half of one."""
        self.paths()

    def paths(self) -> tuple[Path, ...]:
        """The one or two files.

        Raises:
            UsageError: neither or both forms are given, or half of one.
        """
        if self.pairs is not None and self.source is None and self.target is None:
            return (Path(self.pairs),)
        if self.pairs is None and self.source is not None and self.target is not None:
            return (Path(self.source), Path(self.target))
        raise UsageError("Give the text as --source F and --target F together, or as --pairs F alone.")


# Metadata of a field with validation text.
VALID_TEXT = Nested(
    "valid_",
    ("source", "target", "pairs"),
    "pairs",
    changes={
        "source": {"help": "Source text for validation, one sentence a line."},
        "target": {"help": "Target text for validation."},
        "pairs": {"help": "Both sides of the text for validation in one file, instead of the two."},
    },
)


class Corpus:
    """Parallel text that was read through once: counted, fingerprinted, checked and indexed.

    Attributes:
        name: the files, for messages.
        n_pairs: number of line pairs, unusable ones included.
        fingerprint: SHA-256 of all line pairs; the same for equal text, however it is packed into files.
        unusable: index (from 0) of each pair whose text breaks a rule, in order.

    Raises:
        DataError: a file is missing, line counts differ, there is no pair at all, or, unless `skip_bad`, some pairs
            are empty or not UTF-8.
    """

    def __init__(self, files: TextFiles, *, skip_bad: bool = False) -> None:
        self._paths = files.paths()
        for path in self._paths:
            check_lasting(path)
        self.name = " + ".join(str(path) for path in self._paths)
        self._jsonl = len(self._paths) == 1 and ".jsonl" in self._paths[0].suffixes
        self._starts = tuple(array("q") for _ in self._paths)
        self._stamps = tuple(stamp(path) for path in self._paths)
        self._handles = Handles(self._paths, self._starts)
        self.unusable: list[int] = []
        self.n_pairs = 0
        self._problems: list[str] = []
        digest = hashlib.sha256()
        for index, lines in enumerate(self._scan()):
            try:
                pair = self._parse(lines, index)
                sides = (pair.source.encode(), pair.target.encode())
            except DataError as error:
                sides = (b"\n".join(lines), b"")
                self.unusable.append(index)
                if len(self._problems) < _SHOWN:
                    self._problems.append(str(error))
            hash_pair(digest, *sides)
            self.n_pairs += 1
        self.fingerprint = digest.hexdigest()
        self._refuse(skip_bad)

    def _refuse(self, skip_bad: bool) -> None:
        problems = self._problems
        if self.n_pairs == 0:
            raise DataError(f"{self.name}: no pairs; at least one line is needed.")
        if len(self.unusable) == self.n_pairs:
            raise DataError(f"{self.name}: none of the {self.n_pairs:,} pairs can be used: {problems[0]}.")
        if problems and not skip_bad:
            more = len(self.unusable) - len(problems)
            listed = "; ".join(problems) + (f"; and {more:,} more" if more else "")
            raise DataError(f"{listed}. Correct the text, or pass --skip-bad to leave such pairs out and count them.")

    def _scan(self) -> Iterator[tuple[bytes, ...]]:
        """Yield the stripped lines of each pair and note where every INDEX_EVERY-th begins."""
        handles = [open_lines(path) for path in self._paths]
        try:
            readers = [read_lines(handle, path) for handle, path in zip(handles, self._paths, strict=True)]
            offsets = [0] * len(handles)
            for index in range(1 << 62):
                lines = [next(reader, None) for reader in readers]
                if None in lines:
                    self._check_counts(index, lines, readers)
                    return
                raw = cast(list[bytes], lines)
                if index % INDEX_EVERY == 0:
                    for starts, offset in zip(self._starts, offsets, strict=True):
                        starts.append(offset)
                offsets = [offset + len(line) for offset, line in zip(offsets, raw, strict=True)]
                yield tuple(strip_line(line, index == 0) for line in raw)
        finally:
            close_all(handles)

    def _check_counts(self, index: int, lines: list[bytes | None], readers: list[Iterator[bytes]]) -> None:
        counts = [index + (line is not None) + sum(1 for _ in r) for line, r in zip(lines, readers, strict=True)]
        if len(set(counts)) > 1:
            source, target = self._paths
            other = next((problem for problem in self._problems if "not UTF-8" in problem), None)
            if other is not None:
                raise DataError(f"{other}. Lines can be counted only in UTF-8; convert the text.")
            raise DataError(
                f"Line i of both files must belong together, but {source} has {counts[0]:,} lines and {target} has "
                f"{counts[1]:,}. Align the files and try again."
            )

    def _parse(self, lines: tuple[bytes, ...], index: int) -> Pair:
        places = [f"{path}:{index + 1}" for path in self._paths]
        if len(lines) == 2:
            return Pair(decode_line(lines[0], places[0]), decode_line(lines[1], places[1]))
        text = decode_line(lines[0], places[0])
        return _parse_json_pair(text, places[0]) if self._jsonl else _parse_tabs(text, places[0])

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Pair | None]:
        """Yield pairs `start` to `stop` (exclusive); None stands for a pair that cannot be used.

        Raises:
            DataError: a file changed since it was scanned.
        """
        stop = self.n_pairs if stop is None else min(stop, self.n_pairs)
        self._refuse_changed()
        if start >= stop:
            return
        with self._handles.at(start, stop) as handles:
            rows = zip(*(read_lines(h, p) for h, p in zip(handles, self._paths, strict=True)), strict=False)
            for index, lines in enumerate(islice(rows, stop - start), start):
                try:
                    yield self._parse(tuple(strip_line(line, index == 0) for line in lines), index)
                except DataError:
                    yield None
            # A file that was cut while it was read gives fewer lines without an error.
            self._refuse_changed()

    def sample(self, count: int) -> list[Pair | None]:
        """Pairs at equal distances, `count` or up to twice as many; all of them, if there are no more. As of `read`."""
        return list(islice(self.read(), 0, None, max(1, self.n_pairs // count)))

    def _refuse_changed(self) -> None:
        if [stamp(path) for path in self._paths] != list(self._stamps):
            raise DataError(f"{self.name}: changed while being read. Run the command again on files that stay.")


def hash_pair(digest: "hashlib._Hash", source: bytes, target: bytes) -> None:
    """Take one pair into a corpus's fingerprint."""
    digest.update(struct.pack("<QQ", len(source), len(target)))
    digest.update(source)
    digest.update(target)


def fingerprints(**corpora: Corpus | None) -> dict[str, str]:
    """The fingerprint of each corpus that is given, by name."""
    return {name: corpus.fingerprint for name, corpus in corpora.items() if corpus is not None}


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file, which change with its content. Raises DataError where it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return status.st_size, status.st_mtime_ns


def _parse_tabs(text: str, place: str) -> Pair:
    fields = text.split("\t")
    if len(fields) != 2:
        raise DataError(f"{place}: a pair is two texts with one tab between them, found {len(fields) - 1} tabs")
    if not all(field.strip() for field in fields):
        raise DataError(f"{place}: one side is empty")
    return Pair(*fields)


def _parse_json_pair(text: str, place: str) -> Pair:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from error
    except RecursionError:
        raise DataError(f"{place}: JSON nested too deeply") from None
    sides = [record.get(name) for name in ("source", "target")] if isinstance(record, dict) else []
    if len(sides) != 2 or not all(isinstance(side, str) and side.strip() for side in sides):
        raise DataError(f'{place}: expected {{"source": "…", "target": "…"}} with two texts that are not empty')
    pair = Pair(*cast(list[str], sides))
    try:
        (pair.source + pair.target).encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: an escaped half of a surrogate pair, which is no character") from None
    return pair
