"""Lines of text: what ends one, how it is encoded and compressed, and that none ever shifts."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from texts import BOM, pairs_of, two_files

from kdcache.errors import DataError
from kdcache.text.corpus import Corpus, Pair, TextFiles
from kdcache.text.lines import read_sentences


@pytest.mark.parametrize("blank", [b"", b"  ", b"\t", b"\r", "\u2028\u3000".encode()])
def test_fault_51_empty_lines(tmp_path: Path, blank: bytes) -> None:
    """A line of white space is refused with its file and line, or skipped where asked for; its neighbours stay."""
    files = two_files(tmp_path, b"a\nb\nc\n", b"A\n" + blank + b"\nC\n")
    with pytest.raises(DataError, match=r"x\.tgt:2: empty line.*--skip-bad"):
        Corpus(files)
    corpus = Corpus(files, skip_bad=True)
    assert (corpus.n_pairs, corpus.unusable) == (3, [1])
    assert list(corpus.read()) == [Pair("a", "A"), None, Pair("c", "C")]


def test_fault_51_crlf_and_byte_order_mark(tmp_path: Path) -> None:
    """Windows line ends and a byte-order mark leave no trace in text or fingerprint."""
    (tmp_path / "plain").mkdir()
    plain = Corpus(two_files(tmp_path / "plain", b"a b\nc\n", b"A\nC\n"))
    dressed = Corpus(two_files(tmp_path, BOM + b"a b\r\nc\r\n", BOM + b"A\r\nC\r"))
    assert list(dressed.read()) == list(plain.read()) == [Pair("a b", "A"), Pair("c", "C")]
    assert dressed.fingerprint == plain.fingerprint
    assert next(dressed.read(1)) == Pair("c", "C")


def test_a_byte_order_mark_later_in_a_file_is_text(tmp_path: Path) -> None:
    """Only the first line loses the mark U+FEFF; elsewhere it is a character."""
    assert pairs_of(two_files(tmp_path, b"a\n" + BOM + b"b\n", b"A\nB\n"))[1] == Pair("\ufeffb", "B")


def test_fault_51_invalid_utf8(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are refused with file, line, byte and column, or skipped where asked for."""
    files = two_files(tmp_path, b"a\nab\xffc\nd\n", b"A\nB\nD\n")
    with pytest.raises(DataError, match=r"x\.src:2: not UTF-8: byte 0xff at column 3"):
        Corpus(files)
    assert pairs_of(files, skip_bad=True) == [Pair("a", "A"), None, Pair("d", "D")]


def test_fault_51_unicode_line_separators_are_text(tmp_path: Path) -> None:
    """None of the characters that str.splitlines breaks at, bar the line feed, ends a line."""
    text = "a\u2028b\u2029c\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\rj"
    found = pairs_of(two_files(tmp_path, f"{text}\nnext\n".encode(), b"A\nB\n"))
    assert found == [Pair(text, "A"), Pair("next", "B")]


def test_fault_51_line_of_a_megabyte(tmp_path: Path) -> None:
    """A line of a megabyte is read whole, and the next line follows it."""
    long = "wort " * 200_000 + "ende"
    found = pairs_of(two_files(tmp_path, f"{long}\nb\n".encode(), b"A\nB\n"))
    assert found == [Pair(long, "A"), Pair("b", "B")]


LINES = st.one_of(
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"\r")),
    st.text("ab \u2028\x85é\r\t", max_size=5).map(str.encode),
    st.sampled_from([b"", b"\r", BOM, BOM + b"a", b"\xff", b"a\r", b"\xed\xa0\x80"]),
)


def expected_side(line: bytes, index: int) -> str | None:
    """One stripped side, or None where it cannot be used: the rules once more, on lines already cut apart."""
    if index == 0 and line[:3] == BOM:
        line = line[3:]
    if line[-1:] == b"\r":
        line = line[:-1]
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None
    return text if text.strip() else None


# First bytes of what is compressed, or in another encoding.
OTHERS = (
    b"\x1f\x8b\x08",
    b"BZh91AY&SY",
    b"\xfd7zXZ",
    b"\x28\xb5\x2f\xfd",
    b"PK",
    b"\0\0\xfe\xff",
    b"\xff\xfe",
    b"\xfe\xff",
)


@settings(deadline=None)
@given(st.lists(st.tuples(LINES, LINES), min_size=1, max_size=12), st.booleans(), st.sampled_from(["", ".gz"]))
def test_fault_51_lines_never_shift(rows: list[tuple[bytes, bytes]], ended: bool, suffix: str) -> None:
    """Whatever bytes lines are made of, pair i is line i of both files, or None where a rule is broken."""
    if not all(rows[-1]):
        ended = True  # an empty last line without its line feed is no line
    source, target = (b"\n".join(side) + b"\n" * ended for side in zip(*rows, strict=True))
    assume(not source.startswith(OTHERS) and not target.startswith(OTHERS))
    sides = [(expected_side(s, i), expected_side(t, i)) for i, (s, t) in enumerate(rows)]
    expected = [None if s is None or t is None else Pair(s, t) for s, t in sides]
    with tempfile.TemporaryDirectory() as folder:
        files = two_files(Path(folder), source, target, suffix)
        if not any(expected):
            with pytest.raises(DataError, match="none of the"):
                Corpus(files, skip_bad=True)
            return
        corpus = Corpus(files, skip_bad=True)
        assert list(corpus.read()) == expected
        assert corpus.n_pairs == len(rows)
        assert corpus.unusable == [i for i, pair in enumerate(expected) if pair is None]
        if corpus.unusable:
            with pytest.raises(DataError, match=f":{corpus.unusable[0] + 1}: "):
                Corpus(files)


def damaged_gzip(kind: str) -> bytes:
    """Each of these makes Python's gzip module raise another kind of error."""
    data = gzip.compress("".join(f"line {i * i}\n" for i in range(5_000)).encode())
    middle = len(data) // 2
    return {
        "cut": data[:middle],
        "checksum": data[:-8] + b"\0\0\0\0" + data[-4:],
        "scrambled": data[:10] + b"\xff" * 20 + data[30:],
        "plain": b"a\nb\n",
    }[kind]


@pytest.mark.parametrize("kind", ["cut", "checksum", "scrambled", "plain"])
def test_damaged_gzip_is_refused(tmp_path: Path, kind: str) -> None:
    """A compressed file that is cut, damaged or not compressed is refused by name."""
    (tmp_path / "x.tsv.gz").write_bytes(damaged_gzip(kind))
    with pytest.raises(DataError, match=r"x\.tsv\.gz: cannot be decompressed or read"):
        Corpus(TextFiles(pairs=str(tmp_path / "x.tsv.gz")), skip_bad=True)


def text_of(lines: int) -> str:
    return "".join(f"Zeile {i}, 第{i}行\n" for i in range(lines))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["text", "text.txt", "text.gz"])
def test_compression_is_known_by_content(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    """gzip, bzip2 and xz are read whatever the name of the file says, in any order, and from a pipe."""
    text = text_of(3_000)
    if name == "text.gz" and pack is not gzip.compress:
        name = "text.xz"
    (tmp_path / "plain").write_text(text)
    (tmp_path / name).write_bytes(pack(text.encode()))
    plain, packed = (Corpus(TextFiles(str(tmp_path / "plain"), str(tmp_path / one))) for one in ("plain", name))
    assert packed.fingerprint == plain.fingerprint
    assert [list(packed.read(start, start + 2)) for start in (2_500, 7)] == [
        list(plain.read(start, start + 2)) for start in (2_500, 7)
    ]
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(pack(text.encode()),))
    writer.start()
    assert read_sentences(tmp_path / "pipe") == text.splitlines()
    writer.join()


def test_a_pipe_cannot_be_read_twice(tmp_path: Path) -> None:
    """A pipe as a text for training is refused at once, and the message says what helps."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("a\n")
    with pytest.raises(DataError, match=r"pipe: a pipe gives its text once, .* Write it into a file\."):
        Corpus(TextFiles(str(tmp_path / "pipe"), str(tmp_path / "file")))


@pytest.mark.parametrize("lines", [30, 3_000])
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "zstd", "zip"]
)
def test_fault_51_another_encoding_is_named(tmp_path: Path, encoding: str, lines: int) -> None:
    """UTF-16 and UTF-32, with a byte-order mark or without, and archives are called so before any line is counted."""
    archives = {"zstd": b"\x28\xb5\x2f\xfd\x04\x00", "zip": b"PK\x03\x04\x14\x00"}
    other = archives.get(encoding) or text_of(lines).encode(encoding)
    name = encoding[:6].upper() if encoding not in archives else f"compressed by {encoding}"
    for pack in (bytes, gzip.compress):
        files = two_files(tmp_path, pack(other), text_of(lines + 1).encode())
        with pytest.raises(DataError, match=rf"x\.src: {name}, "):
            Corpus(files, skip_bad=True)


def test_fault_51_latin_1_before_the_number_of_lines(tmp_path: Path) -> None:
    """Where line counts differ and bytes are not UTF-8, the encoding is what the message names."""
    with pytest.raises(DataError, match=r"x\.src:2: not UTF-8.* convert the text"):
        Corpus(two_files(tmp_path, b"a\n\xfc\nc\n", b"A\nB\n"), skip_bad=True)


def test_sentences_keep_empty_lines(tmp_path: Path) -> None:
    """A list of sentences keeps blank lines as empty texts and names a line that is not UTF-8."""
    path = tmp_path / "x.txt"
    path.write_bytes(BOM + "a\u2028b\r\n \n\nc".encode())
    assert read_sentences(path) == ["a\u2028b", "", "", "c"]
    with pytest.raises(DataError, match="JSON lines, but one plain sentence a line is read here"):
        read_sentences(tmp_path / "text.jsonl.gz")
    path.write_bytes(b"a\n\xe4\n")
    with pytest.raises(DataError, match=r"x\.txt:2: not UTF-8"):
        read_sentences(path)


def _bytes_read() -> int:
    """What this process has asked the system for, in bytes."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def test_compressed_text_is_inflated_twice_at_most(tmp_path: Path) -> None:
    """Reading compressed text in runs from front to back inflates each file once more than the first scan did."""
    generator = random.Random(1)
    lines = ["".join(generator.choices("abcdefghij ", k=200)) + "x" for _ in range(8_000)]
    files = two_files(tmp_path, *(["\n".join(lines).encode() + b"\n"] * 2), ".gz")
    size = sum(path.stat().st_size for path in files.paths())
    corpus = Corpus(files)
    before = _bytes_read()
    read = [pair for start in range(0, 8_000, 100) for pair in corpus.read(start, start + 100)]
    assert _bytes_read() - before < 1.5 * size
    assert [pair.source for pair in read if pair is not None] == lines
    # And in any other order it gives the same.
    again = {start: list(corpus.read(start, start + 10)) for start in (5_000, 20, 7_990, 5_005)}
    assert all(found == read[start : start + 10] for start, found in again.items())
