"""The file that `kdcache score --json` writes and `kdcache score --table` reads."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import CorruptError
from kdcache.files.strict_json import from_json, read_json, readable_json
from kdcache.scoring.lineage import Lineage
from kdcache.scoring.score_corpus import Difference, Score

VERSION = 1


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What all intervals and p-values of a file were made with: number of resamples, and the seed."""

    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system against another one.

    Attributes:
        baseline: the other one as it was given: a file, or a student's folder.
        scores, lineage: its own.
        differences: system - baseline, one for each score.
    """

    baseline: str
    scores: tuple[Score, ...]
    lineage: Lineage
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """All that one call of `kdcache score` found.

    Attributes:
        version: of this file's form.
        system: what was scored, as it was given: a file, or a student's folder.
        scores: of the system.
        ceilings: for a student, what the references score after its tokenizer has encoded and decoded them.
        bootstrap, lineage: how the scores came about.
        comparison: with a baseline, if one was given.
    """

    version: int
    system: str
    scores: tuple[Score, ...]
    ceilings: tuple[Score, ...]
    bootstrap: Bootstrap
    lineage: Lineage
    comparison: Comparison | None

    def content(self) -> bytes:
        """The file's bytes."""
        return readable_json(dataclasses.asdict(self))


def read_scores(path: Path) -> ScoreFile:
    """Read such a file.

    Raises:
        CorruptError: it is missing, or not such a file, or of another version.
    """
    value = read_json(path)
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION or type(version) is not int:
        raise CorruptError(f"{path}: no result of kdcache score --json in version {VERSION}. Score again.")
    return from_json(ScoreFile, value, str(path))
