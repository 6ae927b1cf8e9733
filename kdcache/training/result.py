"""What a training came to, for those who asked for it and for its record."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class FitResult:
    """What training came to.

    Attributes:
        steps: optimizer steps taken.
        exported_steps: the steps whose parameters, or their mean, the model now has.
        best_loss: mean of -log P(word) over the validation targets at the best validation, in nats, or None.
        averaged_loss: the same of the mean of the last checkpoints, or None if none was asked for.
        seconds, loader_wait: of this process in training, and of these spent waiting for batches; an interrupted
            run's earlier part is not counted.
    """

    steps: int
    exported_steps: tuple[int, ...]
    best_loss: float | None
    averaged_loss: float | None
    seconds: float = field(compare=False)
    loader_wait: float = field(compare=False)

    @property
    def exported(self) -> str:
        """The steps in words: one, or the mean of several."""
        words = ", ".join(f"{step:,}" for step in self.exported_steps)
        return words if len(self.exported_steps) == 1 else f"{words} (the mean)"

    def record(self) -> dict[str, object]:
        """For `run.json`."""
        return {
            "steps": self.steps,
            "exported_steps": list(self.exported_steps),
            "valid_nll": self.best_loss,
            "averaged_valid_nll": self.averaged_loss,
            "seconds": round(self.seconds, 3),
            "loader_wait_share": round(self.loader_wait / max(self.seconds, 1e-9), 6),
        }
