"""How a teacher is run over a corpus."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.corpus import TextFiles
from kdcache.errors import UsageError

# What `kdcache.cache.encoding.NAMES` knows.
ENCODINGS = ("float16", "compact", "uncompressed")


@dataclass(frozen=True, slots=True)
class DumpConfig:
    """How a teacher is run over a corpus.

    Attributes:
        teacher: folder of a trained teacher.
        text: the corpus.
        topk: words stored at each target position.
        passes: P; pass p masks target positions p, p+P, p+2P, ….
        shard_pairs: pairs in a shard: what a crash can cost at most.
        max_tokens: padded tokens in one forward pass.
        encoding: how numbers are stored: "float16", "compact" or "uncompressed".
        max_unknown: largest share of a shard's targets that may be the unknown token.
        skip_bad: leave out pairs that cannot be used instead of refusing them.
        device: "auto", "cpu" or "cuda".
        precision: "auto" (bfloat16 on a GPU, float32 elsewhere), "float32" or "bfloat16".
        shards: first shard to make and the one after the last; None is all.
    """

    teacher: str
    text: TextFiles
    topk: int = 8
    passes: int = 7
    shard_pairs: int = 4_096
    max_tokens: int = 8_192
    encoding: str = "float16"
    max_unknown: float = 0.001
    skip_bad: bool = False
    device: str = "auto"
    precision: str = "auto"
    shards: tuple[int, int] | None = None

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        for option, value in (
            ("--topk", self.topk),
            ("--passes", self.passes),
            ("--shard-pairs", self.shard_pairs),
            ("--max-tokens", self.max_tokens),
        ):
            if value < 1:
                raise UsageError(f"{option} must be at least 1, not {value}.")
        if self.encoding not in ENCODINGS:
            raise UsageError(f"--encoding must be one of {', '.join(ENCODINGS)}, not {self.encoding}.")
        if not 0 <= self.max_unknown <= 1:
            raise UsageError(f"--max-unknown is a share between 0 and 1, not {self.max_unknown}.")
        if self.shards is not None and not 0 <= self.shards[0] < self.shards[1]:
            raise UsageError(f"--shards A:B: from 0, with A below B, not {self.shards[0]}:{self.shards[1]}.")
