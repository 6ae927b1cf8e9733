"""`kdcache sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kdcache.cli import options
from kdcache.cli.console import quiet_transformers
from kdcache.cli.train import student
from kdcache.console import tables
from kdcache.errors import UsageError
from kdcache.student.student_config import StudentConfig


@click.command("sweep")
@click.argument("file", metavar="FILE.toml")
@click.option("--jobs", type=int, help="Runs at a time.  [default: one for each GPU; without one, for each core]")
@click.option("--dry-run", is_flag=True, help="List the runs and how long each would take; write nothing.")
@options.verbosity
def sweep(file: str, jobs: int | None, dry_run: bool) -> None:
    """Train and score a grid of students, several at a time, and compare them in one table and one page.

    FILE.toml has the settings and what varies; see docs/sweeps.md. Run again, it repeats only what is not finished.

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
    result = run_sweep(config, jobs)
    click.echo(result.table)
    result.check()


@click.command("student-train", add_help_option=False)
@student
def _settings(config: StudentConfig) -> StudentConfig:
    return config


def student_options() -> dict[str, bool]:
    """The options that a run may set, by name, and whether each is a flag."""
    return {str(one.name): isinstance(one, click.Option) and one.is_flag for one in _settings.params}


def read_student(arguments: Sequence[str]) -> StudentConfig:
    """What student-train would make of these arguments.

    Raises:
        UsageError: it would refuse them.
    """
    try:
        with _settings.make_context("student-train", list(arguments)) as context:
            config: StudentConfig = _settings.invoke(context)
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    return config
