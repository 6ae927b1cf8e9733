"""Made-up text, distributions and teachers, where the real ones would only cost time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.plan import FORMAT, VERSION, Plan
from kdcache.cache.shard import ShardArrays
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, make_plan
from kdcache.dump.dump_shards import dump_job
from kdcache.files.atomic import sha256
from kdcache.labels.soft_labels import SoftArrays, SoftLabels
from kdcache.process.ranks import Process
from kdcache.teacher.masking import MaskedViews
from kdcache.teacher.reduction import Predictions, Reduction
from kdcache.text import ragged, vocabulary
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.tokenizer import Tokenizer

_WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "s", "l", "m", "t", "ka", "do", "mi")]
TOPK = 8


def made_up_words() -> list[str]:
    """The words of made-up text."""
    return list(_WORDS)


def make_tokenizer() -> Tokenizer:
    """A tokenizer that knows all the words of made-up text."""
    return vocabulary.from_corpus([" ".join(_WORDS)] * 2)


def write_text(folder: Path, n_pairs: int, seed: int = 1) -> TextFiles:
    """Files of made-up pairs: 4 to 11 words on either side, frequent words more often."""
    generator = np.random.default_rng(seed)
    paths = folder / f"{n_pairs}.src", folder / f"{n_pairs}.tgt"
    words = np.array(_WORDS)
    for path in paths:
        with path.open("w", encoding="utf-8") as file:
            for start in range(0, n_pairs, 4_096):
                lengths = generator.integers(4, 12, size=min(4_096, n_pairs - start))
                ranks = (len(words) * generator.random(int(lengths.sum())) ** 3).astype(np.int64)
                ends = np.cumsum(lengths)
                file.writelines(
                    " ".join(words[ranks[end - length : end]]) + "\n" for end, length in zip(ends, lengths, strict=True)
                )
    return TextFiles(str(paths[0]), str(paths[1]))


@dataclass(frozen=True, slots=True)
class InstantTeacher:
    """Answers like a teacher, at once: the written word first, then the ids after it."""

    tokenizer: Tokenizer
    positions: int = 512
    weights: int = 1

    @property
    def vocabulary(self) -> int:
        """Size of the output vocabulary."""
        return self.tokenizer.size

    def log_probs(self, views: MaskedViews, device: torch.device, _precision: str) -> Tensor:
        """The same word everywhere."""
        rows = torch.full((len(views.labels), self.vocabulary), -torch.inf, device=device)
        rows[:, 0] = 0
        return rows

    def predict(self, views: MaskedViews, reduction: Reduction, _device: torch.device, _precision: str) -> Predictions:
        """Distributions of a fixed shape."""
        ids = (views.labels[:, None] + np.arange(reduction.topk)) % self.vocabulary
        log_probs = np.broadcast_to(np.log(0.6 * 0.4 ** np.arange(reduction.topk)), ids.shape).astype(np.float32)
        return Predictions(*map(torch.from_numpy, (ids.astype(np.int32), log_probs, log_probs[:, 0].copy())))

    def fingerprint(self) -> str:
        """That of a name."""
        return sha256(b"instant")


def text_tokenizer(text: TextFiles) -> Tokenizer:
    """A tokenizer with a vocabulary of this text."""
    pairs = (pair for pair in Corpus(text).read() if pair is not None)
    return vocabulary.from_corpus(line for pair in pairs for line in (pair.source, pair.target))


def label_text(cache: Path, text: TextFiles, tokenizer: Tokenizer) -> None:
    """Dump the text with a teacher that costs nothing and whose distributions mean nothing."""
    corpus, teacher = Corpus(text), InstantTeacher(tokenizer)
    config, device = DumpConfig("instant", text, device="cpu", max_unknown=1.0), torch.device("cpu")
    job = Job(config, (teacher,), corpus, make_plan(config, [teacher], corpus, device), device)
    dump_job(job, cache, Process())


def write_cache(folder: Path, n_pairs: int, shard_pairs: int = 4_096, seed: int = 1) -> None:
    """A complete cache of made-up pairs whose distributions are as hard to compress as real ones."""
    tokenizer = make_tokenizer()
    # Ids spread over a vocabulary of a usual size; the tokenizer only names some of them.
    size = 8_000
    plan = Plan(
        FORMAT, VERSION, sha256(b"synthetic"), n_pairs, tokenizer.fingerprint, size, sha256(b"synthetic"),
        512, TOPK, 7, "float32", shard_pairs, Encoding.named("float16", size),
    )  # fmt: skip
    writer = CacheWriter(folder, plan, tokenizer)
    for index, arrays in enumerate(_shards(plan, np.random.default_rng(seed))):
        writer.commit(index, arrays)
    writer.finalize()


def _shards(plan: Plan, generator: np.random.Generator) -> Iterator[ShardArrays]:
    for index in range(plan.n_shards):
        first, stop = plan.bounds(index)
        sources, targets = (generator.integers(8, 24, size=stop - first) for _ in range(2))
        topk = _distributions(int(targets.sum()), plan.vocabulary, generator)
        # The written word is one of the eight, more often a probable one.
        rank = np.minimum(generator.geometric(0.6, size=len(topk.token_ids)) - 1, plan.topk - 1)
        rows = np.arange(len(rank))
        source_ids = _frequent(int(sources.sum()), plan.vocabulary, generator)
        pairs = EncodedPairs(
            source_ids, ragged.offsets_of(sources), topk.token_ids[rows, rank], ragged.offsets_of(targets)
        )
        yield ShardArrays(pairs, topk, topk.log_probs[rows, rank])


def _frequent(count: int, size: int, generator: np.random.Generator) -> npt.NDArray[np.int32]:
    """Ids of which small ones are frequent, as after trimming."""
    return (size * generator.random(count) ** 4).astype(np.int32)


def _distributions(count: int, size: int, generator: np.random.Generator) -> SoftArrays:
    ids: npt.NDArray[np.int32] = _frequent(count * TOPK, size, generator).reshape(count, TOPK)
    # Different words at one position: sorted, then pushed apart, then in random order.
    spread = np.sort(ids, axis=1) + np.arange(TOPK, dtype=np.int32)
    ids = generator.permuted(np.minimum(spread, size - TOPK + np.arange(TOPK, dtype=np.int32)), axis=1)
    logits = -np.sort(-generator.gumbel(scale=2.0, size=(count, TOPK)), axis=1)
    total = np.log(np.exp(logits).sum(axis=1, keepdims=True)) - np.log(generator.uniform(0.5, 0.99, size=(count, 1)))
    return SoftLabels(ids, (logits - total).astype(np.float16))
