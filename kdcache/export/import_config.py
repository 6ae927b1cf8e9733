"""From which labels of another program a cache is made."""

from dataclasses import dataclass

from kdcache.cache.derived.derive_config import ENCODINGS
from kdcache.settings import EXPERT, Option, at_least, check_fields


@dataclass(frozen=True, slots=True)
class ImportConfig:
    """From which labels of another program a cache is made."""

    labels: str = Option(
        "Soft labels: JSON lines, a Parquet file, or a folder of Parquet files.", metavar="LABELS", positional=True
    ).required()
    tokenizer: str = Option("Folder with the tokenizer whose ids the labels name.", metavar="DIR").required()
    positions: int = Option(
        "Tokens that a pair may have with its special tokens; students take as many.", within=at_least(1)
    ).default(512)
    shard_pairs: int = Option("Pairs in a shard.", EXPERT, within=at_least(1)).default(4_096)
    encoding: str = Option("How numbers are stored.", EXPERT, choices=ENCODINGS).default("float16")

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)
