"""What becomes of caches from which another one is made."""

from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.settings import Option, at_least, check_fields

# What `kdcache.cache.number_encoding.NAMES` knows.
ENCODINGS = ("float16", "compact", "uncompressed")


@dataclass(frozen=True, slots=True)
class TranscodeConfig:
    """What becomes of one cache; None leaves a part as it is."""

    cache: str = Option("Folder or URL of the cache that is read.", metavar="CACHE", positional=True).required()
    topk: int | None = Option(
        "Number of words kept at each position, no more than are stored.", default_words="all", within=at_least(1)
    ).default(None)
    encoding: str | None = Option("How numbers are stored.", default_words="as they are", choices=ENCODINGS).default(
        None
    )
    shard_pairs: int | None = Option("Pairs in a shard.", default_words="as they are", within=at_least(1)).default(None)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)


@dataclass(frozen=True, slots=True)
class MergeConfig:
    """Which caches are averaged; their order does not matter."""

    caches: tuple[str, ...] = Option(
        "Folders or URLs of at least two caches.", metavar="CACHE CACHE ...", positional=True
    ).required()
    topk: int | None = Option(
        "Number of words stored at each position.", default_words="the least of the caches", within=at_least(1)
    ).default(None)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or there is nothing to average."""
        if len(self.caches) < 2:
            raise UsageError(
                "At least two caches are needed to average them. The last name is that of the output: "
                "kdcache merge CACHE CACHE … OUTPUT"
            )
        check_fields(self)
