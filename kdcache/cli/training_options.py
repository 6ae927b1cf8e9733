"""Options of training, which teacher and student share, and the configuration that they make."""

from __future__ import annotations

from dataclasses import dataclass

import click

from kdcache.cli.options import Decorator, default_of, device, gathered, precision
from kdcache.training.training_config import SCHEDULES, TRACKERS, TrainingConfig


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The training options as they were given."""

    epochs: int | None
    max_steps: int | None
    max_tokens: int
    micro_tokens: int | None
    learning_rate: float | None
    schedule: str
    warmup: int | None
    valid_every: int | None
    patience: int | None
    average: int | None
    seed: int
    device: str
    precision: str
    report_to: tuple[str, ...]

    def config(self, *, learning_rate: float, epochs: int, beta2: float) -> TrainingConfig:
        """The configuration, with defaults for what was not given."""
        return TrainingConfig(
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            schedule=self.schedule,
            max_tokens=self.max_tokens,
            micro_tokens=self.micro_tokens,
            warmup=self.warmup,
            max_steps=self.max_steps,
            epochs=epochs if self.epochs is None and self.max_steps is None else self.epochs,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            beta2=beta2,
            valid_every=self.valid_every,
            patience=self.patience,
            average=self.average,
            report_to=self.report_to,
        )


def training(*, epochs: int, max_tokens: int, rate_help: str) -> Decorator:
    """The options of training, with the defaults that their help names; they reach the command as `training`."""
    return gathered(
        "training",
        TrainingOptions,
        click.option("--epochs", type=int, help=f"Passes over the text.  [default: {epochs}]"),
        click.option("--max-steps", type=int, help="Optimizer steps, instead of --epochs."),
        click.option(
            "--max-tokens",
            type=int,
            default=max_tokens,
            show_default=True,
            help="Padded tokens of one step over all processes, source and target together.",
        ),
        click.option(
            "--micro-tokens",
            type=int,
            help="Padded tokens of one forward pass; less takes less memory.  [default: --max-tokens]",
        ),
        click.option("--learning-rate", type=float, help=rate_help),
        click.option(
            "--schedule",
            type=click.Choice(SCHEDULES),
            default="linear",
            show_default=True,
            help="noam: the learning rate is a factor, about 1. linear: it is the peak.",
        ),
        click.option(
            "--warmup", type=int, help="Steps until the learning rate is highest.  [default: a tenth, at most 4000]"
        ),
        click.option("--valid-every", type=int, help="Steps between validations.  [default: once an epoch]"),
        click.option(
            "--patience", type=int, help="Stop after this many validations without a lower loss.  [default: never]"
        ),
        click.option(
            "--average",
            type=int,
            help="Export the mean of the last N validated checkpoints instead of the best one.",
        ),
        click.option(
            "--seed",
            type=int,
            default=default_of(TrainingConfig, "seed"),
            show_default=True,
            help="Of initialisation, dropout, masks and order.",
        ),
        device,
        precision,
        click.option(
            "--report-to",
            type=click.Choice(TRACKERS),
            multiple=True,
            help="Report the metrics to this tracker too; may be given several times.",
        ),
    )
