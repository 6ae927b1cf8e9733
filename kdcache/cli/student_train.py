"""`kdcache student-train`; its options are fields of StudentConfig, ObjectiveConfig (loss) and TrainingConfig."""

from pathlib import Path

import click

from kdcache.cli.options import Settings, dry_run, needs_output, output
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.cli.stored_settings import preset_option
from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.student.student_config import PRESETS, StudentConfig, student_defaults


@click.command("student-train", cls=Command)
@output("DIR", "Folder for the student.", required=False)
@Settings(StudentConfig, student_defaults)
@preset_option(PRESETS)
@dry_run("Say how long training would take and how much memory; write nothing.")
def student_train(config: StudentConfig, output: Path | None, dry_run: bool) -> None:
    """Train a student from a cache, without its teacher.

    The loss is alpha · hard + (1 - alpha) · soft. With validation text the mean of the last
    validated steps is kept (--average), without it the last step. Run the same command again to continue.

    \b
    Example:
      kdcache student-train --cache cache --output student \\
          --valid-source valid.de --valid-target valid.en --alpha 0.5
    """
    if dry_run:
        _print_forecast(config)
        return
    output = needs_output(output)
    from kdcache.student.train_student import train_student

    quiet_transformers()
    train_student(config, output)


def _print_forecast(config: StudentConfig) -> None:
    from kdcache.student.training_forecast import forecast

    quiet_transformers()
    found = forecast(config)
    where = "GPU memory" if config.training.device == "cuda" else "memory of the process"
    items = [
        ("parameters", f"{found.parameters:,}"),
        ("steps", f"{found.steps:,}"),
        ("time", f"about {duration(found.seconds)} (from {found.pilot_steps} steps, validation not counted)"),
        (where, f"about {tables.size(found.peak_bytes)}"),
    ]
    click.echo(tables.facts(items))
