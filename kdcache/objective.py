"""What a student minimises, as settings. The equations are in `kdcache.losses`."""

from __future__ import annotations

from dataclasses import dataclass

from kdcache.errors import UsageError


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """What a student minimises.

    Attributes:
        alpha: weight of the hard labels, 0 … 1; 1 is plain training.
        temperature: T > 0, applied to the teacher's k best before they are renormalised.
        topk: how many of the stored words are used; None is all.
        label_smoothing: ε of the hard term, 0 … 1 (exclusive).
    """

    alpha: float = 0.5
    temperature: float = 1.0
    topk: int | None = None
    label_smoothing: float = 0.1

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"--alpha must be between 0 and 1, not {self.alpha}: it weighs the hard labels.")
        if not self.temperature > 0:
            raise UsageError(f"--temperature must be above 0, not {self.temperature}.")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing must be at least 0 and below 1, not {self.label_smoothing}.")
