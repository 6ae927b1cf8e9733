"""How a teacher is run over a corpus."""

import itertools
import math
from dataclasses import dataclass

from kdcache.cache.derived.derive_config import ENCODINGS
from kdcache.errors import UsageError
from kdcache.settings import (
    DEVICE,
    EXPERT,
    HARDWARE,
    PRECISION,
    SKIP_BAD,
    Nested,
    Option,
    Range,
    at_least,
    between,
    check_fields,
)
from kdcache.text.corpus import TextFiles

DEFAULT_TOPK = 8
# The most draws that a plan allows, since they are counted in 16 bits.
SAMPLE_MAX = 65_535
# What `kdcache.labels.counter_random` takes.
SEEDS = Range("between 0 and 2^63 - 1", lambda value: 0 <= value < 1 << 63)


def _parse_temperatures(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise UsageError(f"{option} takes temperatures with commas between them, such as 2,5,10, not {text}.") from None


def _parse_shards(text: str, option: str) -> tuple[int, int]:
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal()):
        raise UsageError(f"{option} takes two whole numbers with a colon between them, such as 0:100, not {text}.")
    return int(first), int(stop)


@dataclass(frozen=True, slots=True)
class Distributions:
    """How the distributions are made, and what is stored of them beside or instead of the k best words."""

    maskings: int = Option(
        "Number of ways to divide the positions into passes; their distributions are averaged. M ways take M times "
        "as long.",
        EXPERT,
        metavar="M",
        within=at_least(1),
    ).default(1)
    sample: int = Option(
        "Number of words that are drawn from each distribution and stored in place of the best ones, for "
        "--objective sampled.",
        EXPERT,
        default_words="none are drawn",
        within=between(0, SAMPLE_MAX),
    ).default(0)
    seed: int = Option("Seed for --maskings and --sample.", EXPERT, within=SEEDS).default(1)
    normalizers: tuple[float, ...] = Option(
        "Temperatures T, such as 2,5,10, at which log Z_T, the log of the sum of p^(1/T), is stored; objectives "
        "that count the tail can use them then.",
        EXPERT,
        metavar="T,T,…",
        default_words="none",
        parse=_parse_temperatures,
    ).default(())

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or contradicts another."""
        check_fields(self)
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
    """How a teacher is run over a corpus."""

    teacher: tuple[str, ...] | str = Option(
        "Folder of a teacher, or hf://OWNER/NAME; give it again for each fold, or the folder of --folds.",
        metavar="DIR",
    ).required()
    text: TextFiles = Nested().required()
    topk: int | None = Option(
        "Number of best words that are stored at each target position.",
        default_words=f"{DEFAULT_TOPK}",
        within=at_least(1),
    ).default(None)
    passes: int = Option(
        "Number of passes P: pass p masks target positions p, p+P, p+2P, …. 7 passes mask about the 15 % that are "
        "masked in training.",
        EXPERT,
        metavar="P",
        within=at_least(1),
    ).default(7)
    shard_pairs: int | None = Option(
        "Pairs in a shard; a crash loses the work on two shards at most.",
        EXPERT,
        default_words="by the work they are, 256 to 4096",
        within=at_least(1),
    ).default(None)
    max_tokens: int = Option("Padded tokens of one forward pass.", HARDWARE, within=at_least(1)).default(8_192)
    encoding: str = Option(
        "How numbers are stored; compact takes 8 bits for a log-probability.", EXPERT, choices=ENCODINGS
    ).default("float16")
    max_unknown: float = Option(
        "Largest share of a shard's targets that may be the unknown token.", EXPERT, within=between(0, 1)
    ).default(0.001)
    skip_bad: bool = SKIP_BAD.default(False)
    device: str = DEVICE.default("auto")
    precision: str = PRECISION.default("auto")
    shards: tuple[int, int] | None = Option(
        "Make only the shards from number A up to, but not including, B, where several machines share the work.",
        HARDWARE,
        metavar="A:B",
        default_words="all",
        parse=_parse_shards,
    ).default(None)
    distributions: Distributions = Nested().default(Distributions())
    valid: TextFiles | None = Nested(
        "valid_",
        ("source", "target", "pairs"),
        "pairs",
        changes={
            "source": {"help": "Source text on which the teacher is measured; by default it is its validation text."},
            "target": {"help": "Target text on which the teacher is measured."},
            "pairs": {"help": "Both sides of that text in one file, instead of the two."},
        },
    ).default(None)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The folders of the teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)

    @property
    def words(self) -> int:
        """How many of the best words are stored, where none are drawn."""
        return DEFAULT_TOPK if self.topk is None else self.topk

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or contradicts another."""
        check_fields(self)
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
        if self.shards is not None and not 0 <= self.shards[0] < self.shards[1]:
            raise UsageError(f"--shards A:B: from 0, with A below B, not {self.shards[0]}:{self.shards[1]}.")


@dataclass(frozen=True, slots=True)
class VerifyConfig:
    """How a cache is compared with its teacher."""

    cache: str = Option("Folder or URL of a cache.", metavar="CACHE", positional=True).required()
    teacher: tuple[str, ...] | str = Option(
        "Compute a sample of the pairs again with this teacher, or these of all folds, and compare.", metavar="DIR"
    ).default(())
    sample: int = Option(
        "Number of pairs that are computed again; they are the same ones each time.", within=at_least(1)
    ).default(200)
    device: str = DEVICE.default("auto")
    precision: str = Option(
        "Precision of matrix products; plan is that with which the cache was made.",
        HARDWARE,
        choices=("plan", "float32", "bfloat16"),
    ).default("plan")

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)
