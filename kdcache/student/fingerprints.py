"""What a text of hypotheses comes from, by fingerprints: student, cache, source, references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdcache.files.atomic import file_sha256, sha256
from kdcache.files.run_records import RUN_FILE, log
from kdcache.files.strict_json import read_json

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Lineage:
    """SHA-256 in hexadecimal of all that a score depends on; None is what nothing is known of.

    Attributes:
        hypothesis, source: of the texts; see `text_sha256`.
        references: of each reference text.
        student: of the student's weights file.
        cache: root hash of the cache from which the student learned.
    """

    hypothesis: str | None = None
    references: tuple[str, ...] = ()
    source: str | None = None
    student: str | None = None
    cache: str | None = None

    def prints(self) -> dict[str, str]:
        """All known fingerprints by name."""
        numbered = len(self.references) > 1
        found = {
            "hypothesis": self.hypothesis,
            **{f"reference {i}" if numbered else "reference": one for i, one in enumerate(self.references, 1)},
            "source": self.source,
            "student": self.student,
            "cache": self.cache,
        }
        return {name: value for name, value in found.items() if value is not None}


def text_sha256(sentences: Sequence[str]) -> str:
    """Fingerprint of a text, whatever file it lies in: that of its lines in UTF-8, each ended by one line feed."""
    return sha256("".join(f"{one}\n" for one in sentences).encode())


def weights_print(folder: Path) -> str | None:
    """Fingerprint of a student: SHA-256 of its weights file, or None where there is none."""
    weights = folder / WEIGHTS_FILE
    return file_sha256(weights) if weights.is_file() else None


def student_prints(folder: Path) -> dict[str, str]:
    """Fingerprints of a student: `student`, its weights file, and `cache`, where its run.json names one.

    Raises:
        CorruptError: its run.json is damaged.
    """
    weights = weights_print(folder)
    found = {} if weights is None else {"student": weights}
    record = folder / RUN_FILE
    cache = _inputs(read_json(record)).get("cache") if record.is_file() else None
    return found if cache is None else {**found, "cache": cache}


def student_lineage(folder: Path, source: Sequence[str], references: Sequence[Sequence[str]]) -> Lineage:
    """What a student's hypotheses come from; they themselves are not there yet."""
    prints = student_prints(folder)
    of_references = tuple(map(text_sha256, references))
    return Lineage(None, of_references, text_sha256(source), prints.get("student"), prints.get("cache"))


def text_lineage(path: Path, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Lineage:
    """What the text in `path` comes from, by the record that `kdcache generate` wrote beside it, if there is one.

    Raises:
        CorruptError: the record is damaged.
    """
    known = Lineage(text_sha256(hypotheses), tuple(map(text_sha256, references)))
    record = path.with_name(f"{path.name}.{RUN_FILE}")
    content = read_json(record) if record.is_file() else None
    if not isinstance(content, dict) or content.get("command") != "generate":
        return known
    result, inputs = content.get("result"), _inputs(content)
    if not isinstance(result, dict) or result.get("sha256") != known.hypothesis:
        log.warning("%s: is not the text that %s describes; its student is left out.", path, record.name)
        return known
    return replace(known, source=inputs.get("source"), student=inputs.get("student"), cache=inputs.get("cache"))


def _inputs(content: Any) -> dict[str, str]:
    inputs = content.get("inputs") if isinstance(content, dict) else None
    return {key: value for key, value in inputs.items() if type(value) is str} if isinstance(inputs, dict) else {}
