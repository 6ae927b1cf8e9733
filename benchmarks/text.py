"""Real text for the benchmarks: Multi30k where it lies beside the checkout, else the embedded corpus."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from kdcache.experiments.demo import corpus_folder
from kdcache.text.corpus import Corpus, TextFiles

_MULTI30K = Path(__file__).parents[2] / "shared" / "data" / "multi30k_de-en"


def training_text() -> TextFiles:
    """The training side of the larger corpus at hand."""
    folder = _MULTI30K if _MULTI30K.is_dir() else corpus_folder()
    return TextFiles(str(folder / "train.src"), str(folder / "train.tgt"))


def first_pairs(folder: Path, count: int) -> TextFiles:
    """Files with the first `count` pairs of the training text."""
    pairs = [pair for pair in islice(Corpus(training_text()).read(), count) if pair is not None]
    paths = folder / "text.src", folder / "text.tgt"
    for path, lines in zip(paths, ([p.source for p in pairs], [p.target for p in pairs]), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TextFiles(*map(str, paths))
