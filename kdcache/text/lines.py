"""Lines of text files, plain or compressed: what ends one, how it is encoded, and where in a file it is found again.

Only a line feed ends a line, so that U+2028, form feeds and the like are text. A carriage return before it and a
byte-order mark at the start of a file are stripped. Text is UTF-8. What gzip, bzip2 or xz compressed is known by its
first bytes, and decompressed as it is read. The path `-` is standard input.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import weakref
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kdcache.errors import DataError
from kdcache.files.locations import STANDARD

INDEX_EVERY = 1024
_BOM = b"\xef\xbb\xbf"
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b\x08": gzip.open, b"BZh91AY&SY": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_UNREADABLE = (EOFError, OSError, zlib.error, lzma.LZMAError)
# First bytes of what is no text in UTF-8, and what it is.
_ARCHIVES = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_WIDE = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_JUDGED_BYTES = 4096
# In UTF-32 three bytes of four may be zero, and more than that is no text.
_ZEROS_MIN, _ZEROS_MAX = 16, 0.8


def open_lines(path: Path) -> IO[bytes]:
    """Open a text file or pipe for reading bytes from its start, decompressed if it is compressed.

    Raises:
        DataError: there is no such file, it cannot be read, or it is no text in UTF-8 from its first bytes on.
    """
    try:
        handle = _open(path)
        try:
            _check_encoding(handle.peek(_JUDGED_BYTES)[:_JUDGED_BYTES], path)
        except BaseException:
            handle.close()
            raise
    except _UNREADABLE as error:
        raise DataError(_unreadable(path, error)) from error
    opened: IO[bytes] = handle
    return opened


def check_lasting(path: Path) -> None:
    """Raise DataError if a text that is read more than once comes from a pipe."""
    if path == STANDARD or path.is_fifo():
        raise DataError(f"{path}: a pipe gives its text once, and this text is read again. Write it into a file.")


def _open(path: Path) -> Any:
    longest = max(map(len, _OPENERS))
    source: Any
    if path == STANDARD:
        source = io.BufferedReader(io.FileIO(0, closefd=False))
        start = source.peek(longest)[:longest]
    elif path.is_fifo():
        # Some kilobytes at a time would not show what is in it.
        content = path.read_bytes()
        start, source = content[:longest], io.BufferedReader(io.BytesIO(content))
    elif path.is_file():
        with path.open("rb") as file:
            start, source = file.read(longest), None
    else:
        raise DataError(f"{path}: no such file.")
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None and path.suffix == ".gz":
        opener = gzip.open
    if opener is not None:
        return opener(source or path)
    return source or path.open("rb")


def _unreadable(path: Path, error: Exception) -> str:
    known = error.strerror if isinstance(error, OSError) else None
    return f"{path}: cannot be read: {known}." if known else f"{path}: cannot be decompressed or read: {error}."


def _check_encoding(start: bytes, path: Path) -> None:
    """Raise DataError if the first bytes of a text are not UTF-8: lines cut from them would be counted wrong."""
    for magic, name in _ARCHIVES.items():
        if start.startswith(magic):
            raise DataError(
                f"{path}: compressed by {name}, which is not read. Decompress it, or use gzip, bzip2 or xz."
            )
    encoding = next((name for mark, name in _WIDE.items() if start.startswith(mark)), None)
    if encoding is None and _ZEROS_MIN <= start.count(0) <= _ZEROS_MAX * len(start):
        # Zeros stand at even or at odd places only in UTF-16; they fill one place of four in UTF-32.
        if 0 in (start[::2].count(0), start[1::2].count(0)):
            encoding = "UTF-16"
        elif not (any(start[::4]) and any(start[3::4])):
            encoding = "UTF-32"
    if encoding is not None:
        raise DataError(f"{path}: {encoding}, and text is read as UTF-8. Convert it: iconv -f {encoding} -t UTF-8.")


def read_lines(handle: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the lines from where `handle` stands, each with its end; the handle stays open.

    Raises:
        DataError: the file cannot be decompressed or read; the message names `path`.
    """
    try:
        # Handed on itself, the handle would be closed together with this generator.
        yield from iter(handle.readline, b"")
    except _UNREADABLE as error:
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


def iterate_sentences(path: Path) -> Iterator[str]:
    """Yield the lines of a file of one sentence a line, as they come; they may be empty.

    Raises:
        DataError: the file is missing, holds JSON lines, or a line is not UTF-8.
    """
    if ".jsonl" in path.suffixes:
        raise DataError(f"{path}: JSON lines, but one plain sentence a line is read here. Write one side into a file.")
    with open_lines(path) as handle:
        for number, line in enumerate(read_lines(handle, path), 1):
            stripped = strip_line(line, number == 1)
            yield decode_line(stripped, f"{path}:{number}") if stripped.strip() else ""


def read_sentences(path: Path) -> list[str]:
    """The whole file; errors as of `iterate_sentences`."""
    return list(iterate_sentences(path))


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
