"""How a student is built and trained."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.corpus import TextFiles
from kdcache.errors import UsageError
from kdcache.objective import ObjectiveConfig
from kdcache.training.config import TrainingConfig

ARCHITECTURES = ("transformer", "rnn")
DEFAULT_EPOCHS = 30
NOAM_FACTOR = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a Transformer, and the learning rate that suits them with a linear schedule."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    learning_rate: float


SIZES = {
    "tiny": Size(layers=4, width=128, feed_forward=256, heads=4, learning_rate=2e-3),
    "small": Size(layers=3, width=256, feed_forward=1024, heads=4, learning_rate=1e-3),
    "base": Size(layers=6, width=512, feed_forward=2048, heads=8, learning_rate=5e-4),
}


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """How a student is built and trained.

    Attributes:
        cache: the folder of soft labels and text.
        valid: validation text, or None.
        text: the training text, to be compared with the one in the cache; None compares nothing.
        arch: "transformer"; "rnn" is not built yet.
        size: "tiny", "small" or "base".
        dropout: 0 … 1 (exclusive), of embeddings, residual branches and attention.
        objective: what is minimised.
        training: how it is trained.
        skip_bad: leave out validation pairs that cannot be used instead of refusing them.
    """

    cache: str
    objective: ObjectiveConfig
    training: TrainingConfig
    valid: TextFiles | None = None
    text: TextFiles | None = None
    arch: str = "transformer"
    size: str = "tiny"
    dropout: float = 0.1
    skip_bad: bool = False

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        if self.arch == "rnn":
            raise UsageError("--arch rnn is not built yet; use --arch transformer.")
        if self.arch not in ARCHITECTURES:
            raise UsageError(f"--arch must be one of {', '.join(ARCHITECTURES)}, not {self.arch}.")
        if self.size not in SIZES:
            raise UsageError(f"--size must be one of {', '.join(SIZES)}, not {self.size}.")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout must be at least 0 and below 1, not {self.dropout}.")
        self.objective.check()
        self.training.check()


def default_rate(size: str, schedule: str) -> float:
    """The learning rate of a size when none is given."""
    return NOAM_FACTOR if schedule == "noam" or size not in SIZES else SIZES[size].learning_rate
