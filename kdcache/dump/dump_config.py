"""How a teacher is run over a corpus."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.labels.counter_random import SEED_MAX
from kdcache.text.corpus import TextFiles

DEFAULT_TOPK = 8
# What `kdcache.cache.plan` allows: so many draws are counted in 16 bits.
SAMPLE_MAX = 65_535

# What `kdcache.cache.number_encoding.NAMES` knows.
ENCODINGS = ("float16", "compact", "uncompressed")

# Of a comparison with the teacher; "plan" is that of the dump.
VERIFY_PRECISIONS = ("plan", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Distributions:
    """How the distributions are made, and what is stored of them beside or instead of the k best words.

    Attributes:
        maskings: partitions of the target positions into passes whose distributions are averaged, in probability.
        sample: words drawn from each distribution in place of the k best; 0: none.
        seed: of `sample`, and of the partitions after the first.
        normalizers: temperatures T, rising and without 1, at which log Σ_w p(w)^(1/T) is stored.
    """

    maskings: int = 1
    sample: int = 0
    seed: int = 1
    normalizers: tuple[float, ...] = ()

    def check(self) -> None:
        """Raise UsageError if a value is outside its range or contradicts another."""
        if self.maskings < 1:
            raise UsageError(f"--maskings must be at least 1, not {self.maskings}.")
        if not 0 <= self.sample <= SAMPLE_MAX:
            raise UsageError(f"--sample must be between 0 and {SAMPLE_MAX}, not {self.sample}.")
        if not 0 <= self.seed <= SEED_MAX:
            raise UsageError(f"--seed must be between 0 and 2^63 - 1, not {self.seed}.")
        bounded = (0.0, *self.normalizers, math.inf)
        if 1.0 in self.normalizers or not all(low < high for low, high in itertools.pairwise(bounded)):
            shown = ",".join(f"{one:g}" for one in self.normalizers)
            raise UsageError(
                f"--normalizers takes temperatures above 0, rising and other than 1 (where the normalizer is 1), such "
                f"as 2,5,10, not {shown}."
            )
        if self.sample and self.normalizers:
            raise UsageError(
                "--normalizers with --sample: they give the tail of the k best words, and drawn words have no tail. "
                "Leave one of them out."
            )


@dataclass(frozen=True, slots=True)
class DumpConfig:
    """How a teacher is run over a corpus.

    Attributes:
        teacher: folder of a trained teacher.
        text: the corpus.
        topk: words stored at each target position; None: 8, or those that are drawn.
        passes: P; pass p masks target positions p, p+P, p+2P, ….
        shard_pairs: pairs in a shard: what a crash can cost at most.
        max_tokens: padded tokens in one forward pass.
        encoding: how numbers are stored: "float16", "compact" or "uncompressed".
        max_unknown: largest share of a shard's targets that may be the unknown token.
        skip_bad: leave out pairs that cannot be used instead of refusing them.
        device: "auto", "cpu" or "cuda".
        precision: "auto" (bfloat16 on a GPU that has it, float32 elsewhere), "float32" or "bfloat16".
        shards: first shard to make and the one after the last; None is all.
        distributions: how they are made, and what else is stored of them.
    """

    teacher: str
    text: TextFiles
    topk: int | None = None
    passes: int = 7
    shard_pairs: int = 4_096
    max_tokens: int = 8_192
    encoding: str = "float16"
    max_unknown: float = 0.001
    skip_bad: bool = False
    device: str = "auto"
    precision: str = "auto"
    shards: tuple[int, int] | None = None
    distributions: Distributions = Distributions()

    @property
    def words(self) -> int:
        """How many of the best words are stored, where none are drawn."""
        return DEFAULT_TOPK if self.topk is None else self.topk

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        for option, value in (
            ("--topk", self.words),
            ("--passes", self.passes),
            ("--shard-pairs", self.shard_pairs),
            ("--max-tokens", self.max_tokens),
        ):
            if value < 1:
                raise UsageError(f"{option} must be at least 1, not {value}.")
        if self.encoding not in ENCODINGS:
            raise UsageError(f"--encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding}.")
        self.distributions.check()
        if self.topk is not None and self.distributions.sample:
            raise UsageError(
                f"--topk {self.topk} with --sample {self.distributions.sample}: either the best words are stored or "
                "drawn ones. Leave one of them out."
            )
        if self.distributions.normalizers and self.encoding == "compact":
            raise UsageError(
                "--normalizers with --encoding compact: its codes end at a probability of e^-25, which at a higher "
                "temperature is far too much. Use --encoding float16."
            )
        if not 0 <= self.max_unknown <= 1:
            raise UsageError(f"--max-unknown is a share between 0 and 1, not {self.max_unknown}.")
        if self.shards is not None and not 0 <= self.shards[0] < self.shards[1]:
            raise UsageError(f"--shards A:B: from 0, with A below B, not {self.shards[0]}:{self.shards[1]}.")


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """How a cache is held against its teacher.

    Attributes:
        cache: its folder or URL.
        teacher: folder of the teacher.
        sample: line pairs that are computed again; always the same ones.
        device: "auto", "cpu" or "cuda".
        precision: "plan" (that of the dump), "float32" or "bfloat16".
    """

    cache: str
    teacher: str
    sample: int = 200
    device: str = "auto"
    precision: str = "plan"

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        if self.sample < 1:
            raise UsageError(f"--sample must be at least 1, not {self.sample}.")
