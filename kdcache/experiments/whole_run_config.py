"""What `kdcache run` trains on and compares."""

from dataclasses import dataclass, replace

from kdcache.errors import UsageError
from kdcache.scoring.score_config import METRICS
from kdcache.settings import EXPERT, TRAINING, Nested, Option, at_least, check_fields
from kdcache.student.student_config import DEFAULT_EPOCHS as STUDENT_EPOCHS
from kdcache.student.student_config import SIZES
from kdcache.teacher.teacher_config import BERT, DEFAULT_EPOCHS, FOLDS
from kdcache.text.corpus import VALID_TEXT, TextFiles


@dataclass(frozen=True, slots=True)
class WholeRunConfig:
    """What is trained on, tested on and compared.

    Attributes:
        text, valid: pairs for training and validation.
        test: pairs on which the students are compared; None: those for validation.
    """

    text: TextFiles = Nested().required()
    bert: str = BERT.required()
    # What the students translate is two files for the sweep, which is made of these settings.
    valid: TextFiles = replace(VALID_TEXT, only=("source", "target"), alone="").required()
    test: TextFiles | None = replace(
        VALID_TEXT,
        prefix="test_",
        only=("source", "target"),
        alone="",
        changes={
            "source": {"help": "Source text on which the students are compared.", "default_words": "--valid-source"},
            "target": {"help": "Target text on which the students are compared.", "default_words": "--valid-target"},
        },
    ).default(None)
    metric: tuple[str, ...] = Option(
        "Metric of the comparison; give the option again for each further one.", choices=METRICS, parts=tuple
    ).default(("bleu", "chrf"))
    lowercase: bool = Option("Ignore case in the comparison.", EXPERT).default(False)
    size: str = Option("Size of the students.", TRAINING, choices=SIZES).default("tiny")
    seeds: int = Option("Students of each kind; three make a comparison.", TRAINING, within=at_least(1)).default(1)
    teacher_epochs: int = Option("Epochs of the teacher.", TRAINING, within=at_least(1)).default(DEFAULT_EPOCHS)
    folds: int | None = replace(
        FOLDS, help="Number of teachers, each of which labels pairs that it did not see.", group=TRAINING
    ).default(None)
    epochs: int = Option("Epochs of each student.", TRAINING, within=at_least(1)).default(STUDENT_EPOCHS)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or text for validation is missing."""
        for text, prefix in ((self.valid, "valid"), (self.test or self.valid, "test")):
            if text.source is None or text.target is None:
                raise UsageError(
                    f"Give --{prefix}-source F and --{prefix}-target F; the labels are judged by that text."
                )
        check_fields(self)
