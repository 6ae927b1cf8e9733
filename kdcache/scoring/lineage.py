"""What a score depends on, by fingerprints: hypotheses, references, source, student and cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcache.files.run_records import RUN_FILE, log
from kdcache.files.strict_json import read_json
from kdcache.student.fingerprints import recorded_inputs, student_fingerprints, text_sha256
from kdcache.text.lines import read_sentences


@dataclass(frozen=True, slots=True)
class Text:
    """A text as it was read once.

    Attributes:
        sentences: its lines.
        sha256: its fingerprint, that of `text_sha256`.
    """

    sentences: list[str]
    sha256: str

    @classmethod
    def of(cls, sentences: Sequence[str]) -> Text:
        """A text of these sentences."""
        return cls(list(sentences), text_sha256(sentences))

    @classmethod
    def read(cls, path: str) -> Text:
        """The text in a file; a DataError names what is wrong with it."""
        return cls.of(read_sentences(Path(path)))


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


def student_lineage(folder: Path, source: Text, references: Sequence[Text]) -> Lineage:
    """What a student's hypotheses depend on, before they are generated."""
    prints = student_fingerprints(folder)
    of_references = tuple(text.sha256 for text in references)
    return Lineage(None, of_references, source.sha256, prints.get("student"), prints.get("cache"))


def text_lineage(path: Path, hypotheses: Text, references: Sequence[Text]) -> Lineage:
    """What the text in `path` depends on, by the record that `kdcache generate` wrote beside it, if there is one.

    Raises:
        CorruptError: the record is damaged.
    """
    known = Lineage(hypotheses.sha256, tuple(text.sha256 for text in references))
    record = path.with_name(f"{path.name}.{RUN_FILE}")
    content = read_json(record) if record.is_file() else None
    if not isinstance(content, dict) or content.get("command") != "generate":
        return known
    result, inputs = content.get("result"), recorded_inputs(content)
    if not isinstance(result, dict) or result.get("sha256") != known.hypothesis:
        log.warning("%s: is not the text that %s describes; its student is left out.", path, record.name)
        return known
    if inputs.get("source") in known.references:
        log.warning("%s: was written from the text that is given as its reference. Give the reference.", path)
    return replace(known, source=inputs.get("source"), student=inputs.get("student"), cache=inputs.get("cache"))
