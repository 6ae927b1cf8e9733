"""Parallel text: which pairs are read, what is refused, and the fingerprint of what is there."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import BOM, one_file, pairs_of, two_files

from kdcache.errors import DataError, UsageError
from kdcache.text.corpus import Corpus, Pair, TextFiles
from kdcache.text.lines import INDEX_EVERY


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


def test_several_bad_lines_are_listed_up_to_three(tmp_path: Path) -> None:
    """The message names the first three bad lines and counts the others."""
    with pytest.raises(DataError, match=r":2: empty line; .*:3: not UTF-8.*; .*:5: empty line; and 2 more\."):
        Corpus(two_files(tmp_path, b"a\n\nx\nd\n\n\n\n", b"A\nB\n\xfe\nD\nE\nF\nG\n"))


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
