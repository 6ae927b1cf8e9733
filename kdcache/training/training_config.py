"""How a model is trained."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from kdcache.errors import UsageError

SCHEDULES = ("noam", "linear")
PRECISIONS = ("auto", "float32", "bfloat16")
# Trackers that training can report to; each is the name of its package.
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
NOAM_SMALLEST = 0.01


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        learning_rate: with `linear` the peak; with `noam` the factor before d^-0.5, about 1.
        schedule: "noam" (Vaswani et al. 2017, section 5.3) or "linear" (up, then down to 0).
        max_tokens: padded tokens of one optimizer step over all processes, source and target together.
        micro_tokens: padded tokens of one forward pass at most, a matter of memory; None: max_tokens.
        warmup: steps until the learning rate is highest; None: a tenth of all, at most 4,000.
        max_steps: optimizer steps; None: `epochs` decides.
        epochs: passes over the data, where max_steps is None.
        seed: of initialisation, dropout, masks and order.
        device: "auto", "cpu" or "cuda".
        precision: "auto" (bfloat16 on a GPU that has it, float32 elsewhere), "float32" or "bfloat16" (autocast).
        clip: largest norm of the gradient.
        beta2, weight_decay: of AdamW; its other moment's decay is 0.9.
        valid_every: steps between validations; None: once an epoch.
        save_seconds: time between checkpoints.
        patience: validations in a row without a lower loss that end training; None: none do.
        report_to: trackers, of TRACKERS, that get the lines of metrics.jsonl too.
        average: how many of the last validated checkpoints are averaged; None: the best one is taken.
    """

    learning_rate: float
    schedule: str
    max_tokens: int
    micro_tokens: int | None = None
    warmup: int | None = None
    max_steps: int | None = None
    epochs: int | None = None
    seed: int = 1
    device: str = "auto"
    precision: str = "auto"
    clip: float = 1.0
    beta2: float = 0.98
    weight_decay: float = 0.01
    valid_every: int | None = None
    save_seconds: float = 120.0
    patience: int | None = None
    average: int | None = None
    report_to: tuple[str, ...] = ()

    @property
    def most_tokens(self) -> int:
        """Padded tokens of one forward pass at most."""
        return self.max_tokens if self.micro_tokens is None else min(self.micro_tokens, self.max_tokens)

    def check(self) -> None:
        """Raise UsageError if values contradict each other or are outside their range."""
        if (self.max_steps is None) == (self.epochs is None):
            raise UsageError("Give either --epochs or --max-steps, not both.")
        for option, value in (
            ("--max-steps", self.max_steps),
            ("--epochs", self.epochs),
            ("--max-tokens", self.max_tokens),
            ("--micro-tokens", self.micro_tokens),
            ("--valid-every", self.valid_every),
            ("--patience", self.patience),
            ("--average", self.average),
        ):
            if value is not None and value < 1:
                raise UsageError(f"{option} must be at least 1, not {value}.")
        for name in self.report_to:
            _check_tracker(name)
        if self.warmup is not None and self.warmup < 0:
            raise UsageError(f"--warmup must be at least 0 steps, not {self.warmup}.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning-rate must be above 0, not {self.learning_rate}.")
        if self.schedule == "noam" and self.learning_rate < NOAM_SMALLEST:
            raise UsageError(
                f"--learning-rate {self.learning_rate} with --schedule noam: there it is a factor, about 1, and the "
                f"rate is factor · width^-0.5 · warmup^-0.5 at its highest. Below {NOAM_SMALLEST} it is surely meant "
                "as a rate: use --schedule linear."
            )
        if self.schedule == "linear" and self.learning_rate > 0.1:
            raise UsageError(
                f"--learning-rate {self.learning_rate} with --schedule linear is the highest rate itself, usually "
                "below 0.01. For a factor use --schedule noam."
            )


def _check_tracker(name: str) -> None:
    """Raise UsageError unless `name` is a tracker that can be imported."""
    if name not in TRACKERS:
        raise UsageError(f"--report-to must be one of {', '.join(TRACKERS)}, not {name}.")
    missing = [package for package in dict.fromkeys(("accelerate", name)) if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(
            f"--report-to {name}: {' and '.join(missing)} cannot be imported. Install it, for TensorBoard with "
            "'kdcache[trackers]', or leave the option out: metrics.jsonl has all values."
        )
