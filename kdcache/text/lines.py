"""Lines of text files, plain or compressed: what ends one, how it is encoded, and where in a file it is found again.

Only a line feed ends a line, so that U+2028, form feeds and the like are text. A carriage return before it and a
byte-order mark at the start of a file are stripped. Text is UTF-8. A file whose name ends in `.gz` is decompressed as
it is read.
"""

from __future__ import annotations

import gzip
import weakref
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from kdcache.errors import DataError

INDEX_EVERY = 1024
_BOM = b"\xef\xbb\xbf"


def open_lines(path: Path) -> IO[bytes]:
    """Open a text file, decompressed if its name ends in `.gz`, for reading bytes from its start.

    Raises:
        DataError: there is no such regular file, or it cannot be read.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file.")
        return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


def read_lines(handle: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the lines from where `handle` stands, each with its end; the handle stays open.

    Raises:
        DataError: the file cannot be decompressed or read; the message names `path`.
    """
    try:
        # Handed on itself, the handle would be closed together with this generator.
        yield from iter(handle.readline, b"")
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be decompressed or read: {error}.") from error


def strip_line(line: bytes, first: bool) -> bytes:
    """Remove the line end and, from the `first` line of a file, the byte-order mark."""
    if first and line.startswith(_BOM):
        line = line[len(_BOM) :]
    return line.removesuffix(b"\n").removesuffix(b"\r")


def decode_line(line: bytes, place: str) -> str:
    """Decode one stripped line.

    Raises:
        DataError: the bytes are not UTF-8, or nothing but white space; the message opens with `place`.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from error
    if not text.strip():
        raise DataError(f"{place}: empty line")
    return text


def read_sentences(path: Path) -> list[str]:
    """Read a whole file of one sentence a line; lines may be empty.

    Raises:
        DataError: the file is missing, holds JSON lines, or a line is not UTF-8.
    """
    if ".jsonl" in path.suffixes:
        raise DataError(f"{path}: JSON lines, but one plain sentence a line is read here. Write one side into a file.")
    with open_lines(path) as handle:
        sentences = []
        for number, line in enumerate(read_lines(handle, path), 1):
            stripped = strip_line(line, number == 1)
            sentences.append(decode_line(stripped, f"{path}:{number}") if stripped.strip() else "")
    return sentences


class Handles:
    """Open files, kept from one reading to the next: what is compressed need not be inflated again from its start.

    `starts` says for each path where every INDEX_EVERY-th line begins, in bytes after decompression.
    """

    def __init__(self, paths: Sequence[Path], starts: Sequence[array[int]]) -> None:
        self._paths, self._starts = paths, starts
        self._line = 0
        self._idle: list[IO[bytes]] = []
        weakref.finalize(self, close_all, self._idle)

    @contextmanager
    def at(self, line: int, stop: int) -> Iterator[list[IO[bytes]]]:
        """One handle for each path at the beginning of `line`, from which all up to `stop` will be read."""
        handles, at = self._idle.copy(), self._line
        self._idle.clear()
        if not handles:
            handles, at = [open_lines(path) for path in self._paths], 0
        try:
            self._advance(handles, at, line)
            yield handles
        except BaseException:
            close_all(handles)
            raise
        if self._idle:  # another reading, begun meanwhile, was first
            close_all(handles)
        else:
            self._idle.extend(handles)
            self._line = stop

    def _advance(self, handles: list[IO[bytes]], at: int, line: int) -> None:
        block = line // INDEX_EVERY
        # Going back in a compressed file means inflating it from its start.
        if not block * INDEX_EVERY <= at <= line:
            for handle, starts in zip(handles, self._starts, strict=True):
                handle.seek(starts[block])
            at = block * INDEX_EVERY
        for handle in handles:
            for _ in range(line - at):
                handle.readline()


def close_all(handles: Sequence[IO[bytes]]) -> None:
    """Close each of them."""
    for handle in handles:
        handle.close()
