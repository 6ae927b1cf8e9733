"""Parallel text written byte by byte, and a tokenizer written by hand, for tests of how text is read."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

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


SPECIAL = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]")
NAMES = dict(zip(("pad_token", "unk_token", "mask_token", "cls_token", "sep_token"), SPECIAL, strict=True))


def bert_tokenizer(
    vocabulary: dict[str, int], added: list[dict[str, Any]], normalizer: dict[str, Any], longest: int
) -> dict[str, Any]:
    """The content of a `tokenizer.json` as published BERTs have it, with words of up to `longest` characters."""
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", vocabulary["[SEP]"]],
            "cls": ["[CLS]", vocabulary["[CLS]"]],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": longest,
            "vocab": vocabulary,
        },
    }
