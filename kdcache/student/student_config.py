"""How a student is built and trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.files.locations import StoreConfig
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import TrainingConfig

ARCHITECTURES = ("transformer", "rnn")
POSITIONS = 1_024
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
class RnnSize:
    """Dimensions of an RNN, and the learning rate that suits them with a linear schedule."""

    layers: int
    width: int
    learning_rate: float


RNN_SIZES = {
    "tiny": RnnSize(layers=1, width=256, learning_rate=2e-3),
    "small": RnnSize(layers=2, width=256, learning_rate=2e-3),
    "base": RnnSize(layers=2, width=512, learning_rate=1e-3),
}


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """How a student is built and trained.

    Attributes:
        cache: the folder or URL of soft labels and text.
        store: where copies of the shards of a remote cache are kept.
        valid: validation text, or None.
        compared: a text that must be the one in the cache; None compares nothing.
        arch: "transformer", or "rnn", an encoder and a decoder of LSTMs with attention.
        size: "tiny", "small" or "base".
        dropout: 0 … 1 (exclusive), of embeddings, residual branches and attention.
        objective: what is minimised.
        training: how it is trained.
        start_from: folder of a student whose weights are the first ones; None begins with random ones.
        skip_bad: leave out validation pairs that cannot be used instead of refusing them.
    """

    cache: str
    objective: ObjectiveConfig
    training: TrainingConfig
    valid: TextFiles | None = None
    compared: TextFiles | None = None
    arch: str = "transformer"
    size: str = "tiny"
    dropout: float = 0.1
    start_from: str | None = None
    skip_bad: bool = False
    store: StoreConfig = StoreConfig()  # noqa: RUF009 (frozen)

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        if self.arch not in ARCHITECTURES:
            raise UsageError(f"--arch must be one of {', '.join(ARCHITECTURES)}, not {self.arch}.")
        if self.size not in (sizes := _sizes(self.arch)):
            raise UsageError(f"--size must be one of {', '.join(sizes)}, not {self.size}.")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout must be at least 0 and below 1, not {self.dropout}.")
        self.objective.check()
        self.training.check()


def _sizes(arch: str) -> Mapping[str, Size | RnnSize]:
    return RNN_SIZES if arch == "rnn" else SIZES


def default_rate(arch: str, size: str, schedule: str) -> float:
    """The learning rate of an architecture and size when none is given."""
    sizes = _sizes(arch)
    return NOAM_FACTOR if schedule == "noam" or size not in sizes else sizes[size].learning_rate
