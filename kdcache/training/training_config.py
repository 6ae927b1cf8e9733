"""How a model is trained."""

import importlib.util
from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.settings import DEVICE, EXPERT, HARDWARE, POSITIVE, PRECISION, TRAINING, Option, at_least, check_fields

SCHEDULES = ("noam", "linear")
# Trackers that training can report to; each is the name of its package.
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
NOAM_SMALLEST = 0.01


def _check_trackers(names: tuple[str, ...]) -> None:
    """Raise UsageError unless all trackers can be imported."""
    for name in names:
        packages = dict.fromkeys(("accelerate", name))
        missing = [package for package in packages if importlib.util.find_spec(package) is None]
        if missing:
            raise UsageError(
                f"--report-to {name}: {' and '.join(missing)} cannot be imported. Install it, for TensorBoard with "
                "'kdcache[trackers]', or leave the option out: metrics.jsonl has all values."
            )


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How a model is trained, with AdamW, whose beta1 is 0.9."""

    learning_rate: float = Option(
        "Highest learning rate; with --schedule noam a factor, about 1.", TRAINING, within=POSITIVE
    ).required()
    schedule: str = Option(
        "How the learning rate changes after the warmup: linear, down to 0 at the end; noam, with step^-0.5 "
        "(Vaswani et al. 2017, section 5.3).",
        TRAINING,
        choices=SCHEDULES,
    ).default("linear")
    max_tokens: int = Option(
        "Batch size: padded tokens of one optimizer step, source and target together, over all processes.",
        TRAINING,
        within=at_least(1),
    ).default(4_096)
    micro_tokens: int | None = Option(
        "Padded tokens of one forward pass at most; a lower number takes less memory.",
        HARDWARE,
        default_words="--max-tokens",
        within=at_least(1),
    ).default(None)
    warmup: int | None = Option(
        "Steps until the learning rate is highest.",
        TRAINING,
        default_words="a tenth of all steps, at most 4000",
        within=at_least(0),
    ).default(None)
    max_steps: int | None = Option(
        "Number of optimizer steps, instead of --epochs.", TRAINING, within=at_least(1)
    ).default(None)
    epochs: int | None = Option("Number of passes over the training text.", within=at_least(1)).default(None)
    seed: int = Option("Seed for initialisation, dropout, masks and batch order.", TRAINING).default(1)
    device: str = DEVICE.default("auto")
    precision: str = PRECISION.default("auto")
    clip: float = Option("Largest norm of the gradient.", None).default(1.0)
    beta2: float = Option("Decay of AdamW's second moment.", None).default(0.98)
    weight_decay: float = Option("AdamW's weight decay.", None).default(0.01)
    valid_every: int | None = Option(
        "Steps between two validations.", TRAINING, default_words="once an epoch", within=at_least(1)
    ).default(None)
    save_seconds: float = Option("Seconds between two checkpoints.", None).default(120.0)
    patience: int | None = Option(
        "Stop after this number of validations in a row without a lower loss.",
        TRAINING,
        default_words="never",
        within=at_least(1),
    ).default(None)
    average: int | None = Option(
        "Export the mean of this number of last validated checkpoints; 0 exports the best one.",
        TRAINING,
        default_words="0",
        within=at_least(0),
    ).default(None)
    report_to: tuple[str, ...] = Option(
        "Tracker that gets the metrics too; give the option again for each further one.",
        TRAINING,
        choices=TRACKERS,
        parts=tuple,
        test=_check_trackers,
    ).default(())
    keep_checkpoints: bool = Option(
        "Keep the checkpoints when training has finished, instead of removing them.", EXPERT
    ).default(False)

    @property
    def most_tokens(self) -> int:
        """Padded tokens of one forward pass at most."""
        return self.max_tokens if self.micro_tokens is None else min(self.micro_tokens, self.max_tokens)

    def check(self) -> None:
        """Raise UsageError if values contradict each other or are outside their range."""
        check_fields(self)
        if self.max_steps is None and self.epochs is None:
            raise UsageError("Give --epochs or --max-steps: nothing says how long to train.")
        if self.max_steps is not None and self.epochs is not None:
            raise UsageError("Give either --epochs or --max-steps, not both.")
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
