"""Parallel text written byte by byte, for tests of how it is read."""

from __future__ import annotations

import gzip
from pathlib import Path

from kdcache.text.corpus import Corpus, Pair, TextFiles

BOM = b"\xef\xbb\xbf"


def two_files(folder: Path, source: bytes, target: bytes, suffix: str = "") -> TextFiles:
    """Source and target as two files of these bytes, compressed if `suffix` is `.gz`."""
    pack = gzip.compress if suffix == ".gz" else bytes
    (folder / f"x.src{suffix}").write_bytes(pack(source))
    (folder / f"x.tgt{suffix}").write_bytes(pack(target))
    return TextFiles(source=str(folder / f"x.src{suffix}"), target=str(folder / f"x.tgt{suffix}"))


def one_file(folder: Path, name: str, data: bytes) -> TextFiles:
    """Both sides in one file of these bytes, compressed if its name ends in `.gz`."""
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return TextFiles(pairs=str(folder / name))


def pairs_of(files: TextFiles, **options: bool) -> list[Pair | None]:
    """All pairs that a corpus reads; `options` are its own."""
    return list(Corpus(files, **options).read())
