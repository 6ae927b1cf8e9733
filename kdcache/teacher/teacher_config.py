"""How a teacher is made and trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.errors import UsageError
from kdcache.settings import EXPERT, SKIP_BAD, Nested, Option, at_least, check_fields
from kdcache.text.corpus import VALID_TEXT, TextFiles
from kdcache.training.training_config import TrainingConfig

SCRATCH = "scratch:tiny"
PRETRAINED_RATE = 1e-4
SCRATCH_RATE = 1e-3
DEFAULT_EPOCHS = 10
BETA2 = 0.999


def _parse_fold(text: str, option: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise UsageError(f"{option} takes two whole numbers with a slash between them, such as 1/5, not {text}.")
    return int(number), int(count)


# Metadata of a field with the number of teachers that leave out a fold each.
FOLDS = Option(
    "Train K teachers, each of which leaves out another fold, into folders inside the output.",
    EXPERT,
    metavar="K",
    within=at_least(2),
    default_words="one teacher of all pairs",
)
# Metadata of a field with the model that a teacher starts from.
BERT = Option(
    f"BERT to start from: a name on the Hub, a folder, or {SCRATCH} for a small one with random weights.",
    metavar="NAME_OR_DIR",
)


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """How a teacher is made and trained."""

    text: TextFiles = Nested().required()
    bert: str = BERT.required()
    valid: TextFiles | None = VALID_TEXT.default(None)
    trim_vocab: bool = Option(
        "Keep the pieces of the vocabulary that the training text does not use.",
        EXPERT,
        name="no_trim_vocab",
        inverted=True,
    ).default(True)
    fold: tuple[int, int] | None = Option(
        "Leave the I-th of K folds of the text out, for labels from teachers that did not see the pair.",
        EXPERT,
        metavar="I/K",
        default_words="none is left out",
        parse=_parse_fold,
    ).default(None)
    folds: int | None = FOLDS.default(None)
    skip_bad: bool = SKIP_BAD.default(False)
    training: TrainingConfig = Nested(
        changes={
            "learning_rate": {"default_words": f"{PRETRAINED_RATE:g}; {SCRATCH_RATE:g} for {SCRATCH}"},
            "epochs": {"default_words": f"{DEFAULT_EPOCHS}"},
        }
    ).default(TrainingConfig(PRETRAINED_RATE, epochs=DEFAULT_EPOCHS, beta2=BETA2))

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or contradicts another."""
        check_fields(self)
        if self.fold is not None and self.folds is not None:
            raise UsageError("--fold and --folds exclude each other: the second trains the teachers of all folds.")
        if self.fold is not None and not 1 <= self.fold[0] <= self.fold[1] > 1:
            raise UsageError(f"--fold I/K: I from 1 to K, and K at least 2, not {self.fold[0]}/{self.fold[1]}.")


def teacher_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options that depend on other options, for those that are not given."""
    scratch = given["bert"].startswith("scratch:")
    epochs = DEFAULT_EPOCHS if given["max_steps"] is None else None
    return {"learning_rate": SCRATCH_RATE if scratch else PRETRAINED_RATE, "epochs": epochs, "beta2": BETA2}
