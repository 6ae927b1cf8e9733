"""The environments of other toolkits, each made once in a folder and kept, and the text in the forms they read."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.synthetic import label_text, text_tokenizer
from benchmarks.text import first_pairs
from kdcache.cache.reader import CacheReader
from kdcache.student.seq2seq import build_student
from kdcache.text.tokenizer import Tokenizer

_MADE = "made"
# By its exact version and before the rest: a toolkit's own range would fetch a build with CUDA libraries.
_TORCH = ("torch==2.13.0", "numpy==2.4.6")


@dataclass(frozen=True, slots=True)
class Peer:
    """A toolkit: its own distribution, and what it needs of those that it asks for."""

    package: str
    needs: tuple[str, ...]


PEERS = {
    "joeynmt": Peer(
        "joeynmt==2.3.0",
        (
            "datasets", "importlib_metadata", "matplotlib", "packaging", "pandas", "pillow", "pyyaml", "sacrebleu",
            "sacremoses", "seaborn", "sentencepiece", "setuptools", "six", "subword-nmt", "tensorboard", "wrapt",
        ),
    ),
    "eole": Peer(
        "eole==0.6.4",
        (
            "aiohttp", "configargparse", "ctranslate2<5", "fastapi", "huggingface_hub", "pandas", "pyahocorasick",
            "pydantic", "pyonmttok", "pyyaml", "rapidfuzz", "requests", "rich", "sacrebleu", "safetensors",
            "sentencepiece", "six", "subword-nmt", "tensorboard", "tokenizers", "torch-optimi", "uvicorn", "waitress",
        ),
    ),
    "trainer": Peer(
        "transformers==5.23.0",
        (
            "accelerate", "filelock", "huggingface_hub", "pyyaml", "regex", "safetensors", "tokenizers", "tqdm",
            "typer",
        ),
    ),
}  # fmt: skip


def environment(folder: Path, name: str) -> Path:
    """The Python of a peer's environment, which is made if it is not there or was made from another list."""
    peer = PEERS[name]
    home = folder / f"venv-{name}"
    python, note = home / "bin" / "python", home / "made-from.json"
    wanted = json.dumps([_TORCH, peer.package, peer.needs])
    if note.is_file() and note.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making the environment of {peer.package} in {home}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    for packages in (_TORCH, ("--no-deps", peer.package), peer.needs):
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True, stderr=subprocess.DEVNULL)
    note.write_text(wanted, encoding="utf-8")
    return python


@dataclass(frozen=True, slots=True)
class Material:
    """The same text for everybody.

    Attributes:
        cache: with made-up soft labels, for kdcache.
        source, target: pieces with spaces between them, a sentence a line.
        pieces: one a line, special tokens left out.
        pairs: ids as kdcache's student reads them, as JSON.
        tokenizer: whose pieces these are.
    """

    cache: Path
    source: Path
    target: Path
    pieces: Path
    pairs: Path
    tokenizer: Tokenizer


def prepare(folder: Path, count: int) -> Material:
    """Make the text of the first `count` pairs, or take what an earlier call made."""
    home = folder / f"text-{count}"
    if not (home / _MADE).exists():
        home.mkdir(parents=True, exist_ok=True)
        text = first_pairs(home, count)
        label_text(home / "cache", text, text_tokenizer(text))
    return material_of(home, home / "cache")


def material_of(home: Path, cache: Path) -> Material:
    """Write the text of a cache into the folder `home`, or take what an earlier call wrote."""
    reader = CacheReader(cache)
    tokenizer = reader.tokenizer()
    material = Material(
        cache, home / "pieces.src", home / "pieces.tgt", home / "pieces.txt", home / "pairs.json", tokenizer
    )
    if not (home / _MADE).exists():
        home.mkdir(parents=True, exist_ok=True)
        _write_pieces(reader, material)
        (home / _MADE).touch()
    return material


def pieces(tokenizer: Tokenizer) -> tuple[list[str], set[int]]:
    """Each id's piece, and the ids of special tokens, which toolkits have of their own."""
    special = tokenizer.special
    names = [tokenizer.piece(one) for one in range(tokenizer.size)]
    return names, {special.pad, special.unk, special.mask, special.start, special.end}


def _write_pieces(reader: CacheReader, material: Material) -> None:
    names, reserved = pieces(material.tokenizer)
    pairs = []
    with material.source.open("w", encoding="utf-8") as source, material.target.open("w", encoding="utf-8") as target:
        for index in range(len(reader.records)):
            found = reader.shard(index).pairs
            for i in range(found.n_pairs):
                ids = found.source_ids[found.source_offsets[i] : found.source_offsets[i + 1]].tolist()
                labels = found.target_ids[found.target_offsets[i] : found.target_offsets[i + 1]].tolist()
                pairs.append({"input_ids": ids, "labels": labels})
                source.write(" ".join(names[one] for one in ids if one not in reserved) + "\n")
                target.write(" ".join(names[one] for one in labels if one not in reserved) + "\n")
    material.pairs.write_text(json.dumps(pairs), encoding="utf-8")
    kept = [name for one, name in enumerate(names) if one not in reserved]
    material.pieces.write_text("".join(f"{name}\n" for name in kept), encoding="utf-8")


def save_model(folder: Path, material: Material, size: str, dropout: float) -> Path:
    """The untrained student that kdcache would train, for Hugging Face's trainer."""
    home = folder / f"model-{size}"
    build_student("transformer", size, material.tokenizer, material.tokenizer.size, dropout, 1).save(home)
    return home
