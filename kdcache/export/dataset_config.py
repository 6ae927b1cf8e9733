"""Which pairs of a data set become a text."""

from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.settings import Option, check_fields


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """Which pairs of a data set become a text."""

    dataset: str = Option(
        "Data set: NAME or NAME:CONFIG on the Hub, or a .parquet, .csv or .jsonl file.",
        metavar="DATASET",
        positional=True,
    ).required()
    source_field: str = Option("Column of the source, or its key in the column translation.", metavar="NAME").required()
    target_field: str = Option("Column or key of the target.", metavar="NAME").required()
    split: str = Option("Part of the data set.", metavar="NAME").default("train")

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)
        if self.source_field == self.target_field:
            raise UsageError(f"--source-field and --target-field are both {self.source_field}; name two columns.")
