"""How a teacher is made and trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import TrainingConfig

SCRATCH = "scratch:tiny"
PRETRAINED_RATE = 1e-4
SCRATCH_RATE = 1e-3
DEFAULT_EPOCHS = 10
BETA2 = 0.999


def teacher_training() -> TrainingConfig:
    """The defaults of teacher training, for a pretrained encoder."""
    return TrainingConfig(
        learning_rate=PRETRAINED_RATE, schedule="linear", max_tokens=4_096, epochs=DEFAULT_EPOCHS, beta2=BETA2
    )


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """How a teacher is made and trained.

    Attributes:
        text: training text.
        valid: validation text, or None.
        bert: a hub name, a folder, or "scratch:tiny".
        trim_vocab: cut a WordPiece vocabulary down to the training text.
        skip_bad: leave out pairs that cannot be used instead of refusing them.
        training: how it is trained.
    """

    text: TextFiles
    bert: str
    valid: TextFiles | None = None
    trim_vocab: bool = True
    skip_bad: bool = False
    training: TrainingConfig = field(default_factory=teacher_training)
