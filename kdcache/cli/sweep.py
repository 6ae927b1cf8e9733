"""`kdcache sweep`."""

from collections.abc import Sequence
from pathlib import Path

import click

from kdcache.cli.options import Settings, dry_run, set_aside, with_overwrite
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.console import tables
from kdcache.errors import TrainingError, UsageError
from kdcache.student.student_config import StudentConfig, student_defaults

_STUDENT = Settings(StudentConfig, student_defaults)


@click.command("sweep", cls=Command)
@click.argument("file", metavar="FILE.toml")
@click.option("--jobs", type=int, metavar="N", help="Number of runs at a time.  [default: one a GPU, or one a core]")
@with_overwrite
@dry_run("List the runs and how long each would take; write nothing.")
def sweep(file: str, jobs: int | None, dry_run: bool, overwrite: bool) -> None:
    """Train, score and compare a grid of students.

    FILE.toml holds the settings of student-train and what varies. Several runs are trained at a time, and one table and
    one page compare them. Run the same command again to continue; what is finished is not repeated.

    \b
    Example:
      kdcache sweep sweep.toml --jobs 2
    """
    from kdcache.experiments.run_sweep import forecast_sweep, run_sweep
    from kdcache.experiments.sweep_file import read_sweep

    config = read_sweep(Path(file), student_options(), read_student)
    quiet_transformers()
    if dry_run:
        click.echo(tables.table(forecast_sweep(config, jobs)))
        return
    if overwrite:
        set_aside([Path(file).parent / config.output])
    table, failures = run_sweep(config, jobs)
    click.echo(table)
    if failures:
        raise TrainingError(
            f"{len(failures)} of {tables.count(len(config.students), 'run')} failed. Correct what their last lines say "
            "and run the same command again: it repeats only what is not finished."
        )


def student_options() -> dict[str, bool]:
    """The options that a run may set, by name, and whether each is a flag."""
    return {str(one.name): isinstance(one, click.Option) and one.is_flag for one in _STUDENT.parameters()}


def read_student(arguments: Sequence[str]) -> StudentConfig:
    """What student-train would make of these arguments.

    Raises:
        UsageError: it would refuse them.
    """
    command = click.Command("student-train", params=_STUDENT.parameters(), add_help_option=False)
    try:
        values = command.make_context("student-train", list(arguments)).params
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    config: StudentConfig = _STUDENT.take(values)
    return config
