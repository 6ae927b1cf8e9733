"""`kdcache run`."""

from pathlib import Path

import click

from kdcache.cli.options import Settings, output
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.cli.sweep import read_student, student_options
from kdcache.experiments.whole_run_config import WholeRunConfig


@click.command("run", cls=Command)
@Settings(WholeRunConfig)
@output("DIR", "Folder for teacher, cache, students and the page that compares them.")
def run(config: WholeRunConfig, output: Path) -> None:
    """Do it all: teacher, cache, students with and without labels, verdict.

    The students are trained with student-train's defaults, with soft labels and with --alpha 1, and a table and a page
    say whether the labels paid. Run the same command again to continue.

    \b
    Example:
      kdcache run --source train.de --target train.en --valid-source valid.de \\
          --valid-target valid.en --bert bert-base-multilingual-cased --output all
    """
    from kdcache.experiments.whole_run import run_all

    quiet_transformers()
    click.echo(run_all(config, output, student_options(), read_student))
