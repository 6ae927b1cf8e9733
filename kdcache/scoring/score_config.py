"""What is scored and how."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError
from kdcache.settings import EXPERT, Nested, Option, between, check_fields
from kdcache.student.generate_config import GenerateConfig

# The scores that each metric gives. `kdcache.scoring.scorers` makes them.
ROUGE = {"rouge": ("rouge1", "rouge2", "rougeL"), "rougeLsum": ("rougeLsum",)}
METRICS = {"bleu": ("bleu",), "chrf": ("chrf",), "ter": ("ter",), **ROUGE}
# The scores in the order of tables, with their titles.
SCORES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}
LESS_IS_BETTER = frozenset({"ter"})
RESAMPLES = 1_000
# The interval cuts off a fortieth at each end, and more draws take hours.
RESAMPLES_RANGE = between(100, 100_000)
TOKENIZERS = ("none", "13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200")


@dataclass(frozen=True, slots=True)
class MetricSettings:
    """How metrics read texts.

    Attributes:
        lowercase: whether BLEU and chrF ignore case; TER and ROUGE always do.
        tokenize: sacreBLEU's name of BLEU's tokenizer, one of TOKENIZERS. None: "13a", or for references without blanks
            between words "zh" (Chinese) or "char" (all others).
        word_order: longest word n-gram of chrF; 0 is chrF, 2 is chrF++.
    """

    lowercase: bool = False
    tokenize: str | None = None
    word_order: int = 0


AS_PUBLISHED = MetricSettings()


def bootstrap_seed() -> int:
    """The seed that sacreBLEU takes for its bootstrap: SACREBLEU_SEED in the environment, or 12345.

    Raises:
        UsageError: it is no whole number above 0. sacreBLEU takes 0 for "none" in one place and for 0 in another.
    """
    given = os.environ.get("SACREBLEU_SEED", "12345")
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(
            f"SACREBLEU_SEED must be a whole number above 0, not {given}: intervals and p-values must come out the "
            "same again. Unset it for sacreBLEU's own, 12345."
        )
    return int(given)


def score_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """A student writes from the source in --pairs where they are given."""
    return {"source": given["pairs"] if given["student"] is not None else None}


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """What is scored and how."""

    reference: tuple[str, ...] = Option(
        "Reference text; give the option again for each further one.", metavar="F"
    ).default(())
    hypothesis: str | None = Option(
        "Text to score, one hypothesis a line; - is standard input, as for every text.", metavar="F"
    ).default(None)
    student: GenerateConfig | None = Nested(
        changes={
            "student": {"help": "Folder of a student that is scored instead of --hypothesis; needs --source."},
            "source": {"help": "Source text from which the student writes."},
            "beam_size": {"group": EXPERT},
        }
    ).default(None)
    baseline: str | None = Option(
        "Text to compare with by a paired test; or, beside --student, the folder of another student, which gets "
        "the same source.",
        metavar="F",
    ).default(None)
    pairs: str | None = Option(
        "Source and reference in one file, instead of --source and --reference: tab-separated, or .jsonl with source "
        "and target.",
        metavar="F",
    ).default(None)
    metric: tuple[str, ...] = Option(
        "Metric; give the option again for each further one. rougeLsum needs <n> between a text's sentences.",
        choices=METRICS,
        parts=tuple,
    ).default(("bleu", "chrf"))
    lowercase: bool = Option("Ignore case; the signature says so.", EXPERT).default(False)
    tokenize: str | None = Option(
        "Tokenizer of BLEU, by sacreBLEU's names.",
        EXPERT,
        choices=TOKENIZERS,
        default_words="13a; zh for Chinese, char for other scripts without blanks",
    ).default(None)
    word_order: int = Option(
        "Longest word n-gram that chrF counts beside characters: 2 is chrF++.", EXPERT, within=between(0, 6)
    ).default(0)
    resamples: int = Option(
        "Number of test sets that are drawn for intervals and p-values. Their seed is SACREBLEU_SEED in the "
        "environment, or 12345.",
        EXPERT,
        within=RESAMPLES_RANGE,
    ).default(RESAMPLES)

    @property
    def settings(self) -> MetricSettings:
        """How the metrics read the texts."""
        return MetricSettings(self.lowercase, self.tokenize, self.word_order)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or contradicts another."""
        if bool(self.reference) == bool(self.pairs) or (self.hypothesis is None) == (self.student is None):
            raise UsageError(
                "Give --reference F, and either --hypothesis F, or --student DIR with --source F; --pairs F is both "
                "--source and --reference."
            )
        check_fields(self)
        source = None if self.student is None else self.student.source
        if self.pairs is not None and source not in (None, self.pairs):
            raise UsageError("--pairs holds the source; leave --source out.")
        if (*self.reference, self.hypothesis, self.baseline, source).count("-") > 1:
            raise UsageError("Only one text can come from standard input (-).")
        if self.student is None and self.baseline is not None and Path(self.baseline).is_dir():
            raise UsageError(
                f"--baseline {self.baseline}: a student writes from the --source of another --student. Beside "
                "--hypothesis give what it wrote, a file of kdcache generate."
            )
        bootstrap_seed()
