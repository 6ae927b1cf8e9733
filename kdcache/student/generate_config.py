"""How texts are generated."""

from dataclasses import dataclass

from kdcache.settings import DEVICE, EXPERT, Option, at_least, between, check_fields
from kdcache.student.student_config import POSITIONS


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How texts are generated."""

    student: str = Option("Student: a folder as student-train wrote it, or hf://OWNER/NAME.", metavar="DIR").required()
    source: str = Option(
        "Source text, one sentence a line; compressed by gzip, bzip2 or xz too; - is standard input.", metavar="F"
    ).required()
    beam_size: int = Option(
        "Number of hypotheses that beam search keeps; 1 is greedy search.", within=between(1, 1_000)
    ).default(4)
    length_penalty: float = Option(
        "Power p of the length: hypotheses are ranked by log P / length^p. The 0.6 of many papers is another "
        "formula, GNMT's ((5 + length) / 6)^0.6.",
        EXPERT,
        metavar="P",
        # Beyond, scores of long texts pass the -1e9 that the library takes for "none", or float32.
        within=between(-2, 10),
    ).default(1.0)
    max_length: int | None = Option(
        "Tokens of a hypothesis, its start and end included, after which it is cut.",
        EXPERT,
        within=between(2, POSITIONS),
        default_words="the student's own, half as long again as the longest target that it learned from",
    ).default(None)
    # None, and not transformers' 0 and 1.0, keeps the records of earlier runs valid.
    no_repeat_ngram_size: int | None = Option(
        "Number of word pieces in a row that no hypothesis holds twice; 0 is no limit.",
        EXPERT,
        within=between(0, POSITIONS),
        default_words="0",
    ).default(None)
    repetition_penalty: float | None = Option(
        "Factor against word pieces that a hypothesis holds already, of CTRL (Keskar et al. 2019); 1 is none.",
        EXPERT,
        within=between(0.1, 10),
        default_words="1.0",
    ).default(None)
    max_tokens: int = Option("Source tokens of one batch, padding included.", None, within=at_least(1)).default(2_048)
    device: str = DEVICE.default("auto")

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)
