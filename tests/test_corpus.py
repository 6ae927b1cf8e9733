"""Parallel text: what is read, what is refused, and that no line ever shifts."""

from __future__ import annotations

import gzip
import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.corpus import Corpus, Pair, TextFiles
from kdcache.errors import DataError, UsageError
from kdcache.lines import INDEX_EVERY, read_sentences

BOM = b"\xef\xbb\xbf"


def two_files(folder: Path, source: bytes, target: bytes, suffix: str = "") -> TextFiles:
    pack = gzip.compress if suffix == ".gz" else bytes
    (folder / f"x.src{suffix}").write_bytes(pack(source))
    (folder / f"x.tgt{suffix}").write_bytes(pack(target))
    return TextFiles(source=str(folder / f"x.src{suffix}"), target=str(folder / f"x.tgt{suffix}"))


def one_file(folder: Path, name: str, data: bytes) -> TextFiles:
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return TextFiles(pairs=str(folder / name))


def pairs_of(files: TextFiles, **options: bool) -> list[Pair | None]:
    return list(Corpus(files, **options).read())


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("source", "target", "counts"), [(3, 5, ("3 lines", "has 5")), (1500, 2, ("1,500", "has 2"))])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_fault_51_different_line_counts(
    tmp_path: Path, suffix: str, source: int, target: int, counts: tuple[str, str], skip_bad: bool
) -> None:
    """Files of different length are refused with both counts, also where bad pairs may be skipped."""
    files = two_files(tmp_path, b"a\n" * source, b"b\n" * target, suffix)
    with pytest.raises(DataError, match="must belong together") as caught:
        Corpus(files, skip_bad=skip_bad)
    for part in (*counts, str(files.source), str(files.target)):
        assert part in str(caught.value)


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


def test_several_bad_lines_are_listed_up_to_three(tmp_path: Path) -> None:
    """The message names the first three bad lines and counts the others."""
    with pytest.raises(DataError, match=r":2: empty line; .*:3: not UTF-8.*; .*:5: empty line; and 2 more\."):
        Corpus(two_files(tmp_path, b"a\n\nx\nd\n\n\n\n", b"A\nB\n\xfe\nD\nE\nF\nG\n"))


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


@settings(deadline=None)
@given(st.lists(st.tuples(LINES, LINES), min_size=1, max_size=12), st.booleans(), st.sampled_from(["", ".gz"]))
def test_fault_51_lines_never_shift(rows: list[tuple[bytes, bytes]], ended: bool, suffix: str) -> None:
    """Whatever bytes lines are made of, pair i is line i of both files, or None where a rule is broken."""
    if not all(rows[-1]):
        ended = True  # an empty last line without its line feed is no line
    source, target = (b"\n".join(side) + b"\n" * ended for side in zip(*rows, strict=True))
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


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["x.tsv", "x.jsonl", "x.tsv.gz"]))
def test_fault_51_any_bytes_in_one_file(data: bytes, name: str) -> None:
    """A file of arbitrary bytes between two good pairs gives as many pairs as it has lines, the good ones in place."""
    good = {"x.jsonl": b'{"source": "a", "target": "b"}\n'}.get(name, b"a\tb\n")
    whole = good + data + b"\n" + good
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(one_file(Path(folder), name, whole), skip_bad=True)
        found = list(corpus.read())
    assert len(found) == corpus.n_pairs == whole.count(b"\n")
    assert found[0] == found[-1] == Pair("a", "b")
    assert corpus.unusable == [i for i, pair in enumerate(found) if pair is None]


SENTENCES = st.text(st.characters(exclude_characters="\n\r\t", exclude_categories=("Cs",)), min_size=1, max_size=6)
PAIRS = st.lists(st.builds(Pair, *[SENTENCES.map(lambda text: f".{text}")] * 2), min_size=1, max_size=5)


def packed(folder: Path, pairs: list[Pair]) -> list[TextFiles]:
    """The same pairs in every form that kdcache reads."""
    source, target = ("".join(f"{getattr(p, side)}\n" for p in pairs).encode() for side in ("source", "target"))
    tabs = "".join(f"{p.source}\t{p.target}\n" for p in pairs).encode()
    records = [{"target": p.target, "id": 7, "source": p.source} for p in pairs]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    raw = "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in records).encode()
    return [
        *(two_files(folder, source, target, suffix) for suffix in ("", ".gz")),
        *(one_file(folder, f"x.tsv{suffix}", tabs) for suffix in ("", ".gz")),
        *(one_file(folder, f"x.jsonl{suffix}", lines) for suffix in ("", ".gz")),
        one_file(folder, "raw.jsonl", BOM + raw),
    ]


@settings(deadline=None, max_examples=50)
@given(PAIRS, PAIRS)
def test_fingerprint_is_of_content(some: list[Pair], others: list[Pair]) -> None:
    """Every packing of the same pairs reads the same and has one fingerprint; other pairs have another."""
    with tempfile.TemporaryDirectory() as folder:
        corpora = [Corpus(files) for files in packed(Path(folder), some)]
        assert all(list(corpus.read()) == some for corpus in corpora)
        prints = {corpus.fingerprint for corpus in corpora}
        assert len(prints) == 1
        other = Corpus(packed(Path(folder), others)[0]).fingerprint
        assert (other in prints) == (some == others)


VARIANTS = [
    (b"a\nc\n", b"bd\ne\n"),
    (b"ab\nc\n", b"d\ne\n"),  # a letter moved across the sides
    (b"a\nc\n", b"bd\nE\n"),  # another letter
    (b"c\na\n", b"e\nbd\n"),  # another order
    (b"a\nc\nc\n", b"bd\ne\ne\n"),  # one more pair
    (b"a \nc\n", b"bd\ne\n"),  # a space at the end
    (b"a\n\n", b"bd\ne\n"),  # an unusable pair
    (b"a\n\xff\n", b"bd\ne\n"),  # another unusable pair
    (b"a\n\xff\n", b"bd\nE\n"),  # what stands beside an unusable line counts too
]


def test_fingerprint_changes_with_any_change(tmp_path: Path) -> None:
    """Texts that differ a little, in unusable lines too, all have different fingerprints, the same on every reading."""
    first, second = ([Corpus(two_files(tmp_path, *v), skip_bad=True).fingerprint for v in VARIANTS] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(VARIANTS)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read_from_anywhere(tmp_path: Path, suffix: str) -> None:
    """Reading any range around the indexed lines gives what a slice of the whole list gives."""
    n = 2 * INDEX_EVERY + 3
    rows = [(f"s{i} é" + "x" * (i % 7), f"t{i}") for i in range(n)]
    rows[INDEX_EVERY] = ("", "nothing on the other side")
    source, target = (BOM + "".join(text + "\r\n" for text in side).encode() for side in zip(*rows, strict=True))
    corpus = Corpus(two_files(tmp_path, source, target, suffix), skip_bad=True)
    expected = [Pair(*row) if all(row) else None for row in rows]
    near = [0, 1, *(k * INDEX_EVERY + d for k in (1, 2) for d in (-2, -1, 0, 1, 2)), n, n + 5]
    for start in near:
        assert list(corpus.read(start)) == expected[start:]
        for stop in near:
            assert list(corpus.read(start, stop)) == expected[start:stop], (start, stop)


def test_real_corpus_is_read_line_by_line(multi30k: Path) -> None:
    """On real text, pair i is line i of both files as split at line feeds."""
    files = TextFiles(source=str(multi30k / "val.src"), target=str(multi30k / "val.tgt"))
    sides = [Path(path).read_bytes().decode().rstrip("\n").split("\n") for path in files.paths()]
    assert pairs_of(files) == [Pair(s, t) for s, t in zip(*sides, strict=True)]


def test_file_changed_after_the_scan_is_refused(tmp_path: Path) -> None:
    """Text that changed, in size or in time alone, or vanished since it was counted is not read."""
    files = two_files(tmp_path, b"a\nb\n", b"A\nB\n")
    path = Path(str(files.source))
    corpus = Corpus(files)
    path.write_bytes(b"a\nb\nc\n")
    with pytest.raises(DataError, match="changed while being read"):
        next(corpus.read())
    corpus = Corpus(two_files(tmp_path, b"a\nb\n", b"A\nB\n"))
    path.write_bytes(b"c\nb\n")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="changed while being read"):
        next(corpus.read(1))
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        next(corpus.read())


def test_file_cut_during_a_read_is_refused(tmp_path: Path) -> None:
    """A file that is cut short while it is read ends in an error and not in fewer pairs."""
    n = 50_000
    files = two_files(tmp_path, b"some words\n" * n, b"other words\n" * n)
    reader = Corpus(files).read()
    next(reader)
    os.truncate(str(files.target), 12 * 30_000)
    with pytest.raises(DataError, match="changed while being read"):
        list(reader)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("x.tsv", b"no tab", "found 0 tabs"),
        ("x.tsv", b"a\tb\tc", "found 2 tabs"),
        ("x.tsv", b"a\t ", "one side is empty"),
        ("x.tsv", b"\t", "empty line"),
        ("x.jsonl", b"{'source': 'a'}", "not JSON"),
        ("x.jsonl", b'["a", "b"]', "expected {"),
        ("x.jsonl", b'{"source": "a"}', "expected {"),
        ("x.jsonl", b'{"source": "a", "target": 7}', "expected {"),
        ("x.jsonl", b'{"source": "a", "target": "\\u2003"}', "expected {"),
        ("x.jsonl", b'{"source": "a", "target": "\\ud83d"}', "surrogate"),
        ("x.jsonl", DEEP, "nested too deeply"),
        ("x.jsonl", b'{"source": "a", "target": "b\xff"}', "not UTF-8: byte 0xff"),
    ],
)
def test_bad_pair_in_one_file(tmp_path: Path, name: str, line: bytes, problem: str) -> None:
    """A line that holds no pair is refused with its number and what is wrong, or skipped where asked for."""
    good = {"x.tsv": b"a\tb", "x.jsonl": b'{"source": "a", "target": "b"}'}[name]
    files = one_file(tmp_path, name, good + b"\n" + line + b"\n" + good)
    with pytest.raises(DataError) as caught:
        Corpus(files)
    assert f"{name}:2: " in str(caught.value)
    assert problem in str(caught.value)
    assert pairs_of(files, skip_bad=True) == [Pair("a", "b"), None, Pair("a", "b")]


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


def test_missing_folder_or_empty_input_is_refused(tmp_path: Path) -> None:
    """A path without a file, a folder, and files without a line each give an error that names them."""
    with pytest.raises(DataError, match=r"nowhere: cannot be read: No such file"):
        Corpus(TextFiles(pairs=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="no such file"):
        Corpus(TextFiles(pairs=str(tmp_path)))
    with pytest.raises(DataError, match="no pairs"):
        Corpus(two_files(tmp_path, b"", b""), skip_bad=True)


@pytest.mark.parametrize("given_", [{}, {"source": "a"}, {"target": "a"}, {"source": "a", "pairs": "b"}])
def test_half_or_double_input_is_a_usage_error(given_: dict[str, str]) -> None:
    """Text is two files or one; anything else says how to give it."""
    with pytest.raises(UsageError, match=r"--source F and --target F together, or .* --pairs F alone"):
        TextFiles(**given_).paths()


def test_sentences_keep_empty_lines(tmp_path: Path) -> None:
    """A list of sentences keeps blank lines as empty texts and names a line that is not UTF-8."""
    path = tmp_path / "x.txt"
    path.write_bytes(BOM + "a\u2028b\r\n \n\nc".encode())
    assert read_sentences(path) == ["a\u2028b", "", "", "c"]
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
