"""What is exported, and into which format."""

import importlib
from dataclasses import dataclass
from typing import Any

from kdcache.errors import UsageError
from kdcache.settings import EXPERT, Option, check_fields

QUANTIZATIONS = ("float32", "int8")


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """What is exported, and into which format."""

    source: str = Option(
        "Folder of a student, or folder or URL of a cache.", metavar="STUDENT_OR_CACHE", positional=True
    ).required()
    format: str = Option(
        "ctranslate2 for a student, parquet for a cache.", choices=("ctranslate2", "parquet")
    ).required()
    quantization: str = Option(
        "Numbers of CTranslate2's matrices; int8 is smaller and faster, and what it changes is said.",
        choices=QUANTIZATIONS,
    ).default("float32")
    sentences: str | None = Option(
        "Source text on whose first 200 lines the student and its export are compared.",
        EXPERT,
        metavar="F",
        default_words="sentences of drawn words",
    ).default(None)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or does not suit the format."""
        check_fields(self)
        if self.format == "parquet" and (self.sentences is not None or self.quantization != QUANTIZATIONS[0]):
            raise UsageError("--quantization and --sentences belong to --format ctranslate2; leave them out.")


def needed(package: str, extra: str) -> Any:
    """Import a package that only one command or format needs.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(f"The package {package} is needed: pip install 'kdcache[{extra}]'.") from error
