"""How texts are generated."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.settings import DEVICE, EXPERT, FINITE, Option, at_least, check_fields


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How texts are generated."""

    student: str = Option("Folder of a student, as student-train wrote it.", metavar="DIR").required()
    source: str = Option("Source text, one sentence a line; .gz is read too.", metavar="F").required()
    beam_size: int = Option(
        "Number of hypotheses that beam search keeps; 1 is greedy search.", within=at_least(1)
    ).default(4)
    length_penalty: float = Option(
        "Power p of the length: hypotheses are ranked by log P / length^p. The 0.6 of many papers is another "
        "formula, GNMT's ((5 + length) / 6)^0.6.",
        EXPERT,
        metavar="P",
        within=FINITE,
    ).default(1.0)
    max_tokens: int = Option("Source tokens of one batch, padding included.", None, within=at_least(1)).default(2_048)
    device: str = DEVICE.default("auto")

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)
