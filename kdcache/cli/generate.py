"""`kdcache generate`."""

from pathlib import Path

import click

from kdcache.cli.options import Settings, output
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.student.generate_config import GenerateConfig


@click.command("generate", cls=Command)
@Settings(GenerateConfig)
@output("F", "File for the generated texts, one a line; - is standard output.")
def generate(config: GenerateConfig, output: Path) -> None:
    """Let a student write a target text for each line.

    \b
    Example:
      kdcache generate --student student --source test.de --output test.hyp
      zcat news.gz | kdcache generate --student student --source - --output - | less
    """
    from kdcache.student.generation import generate_file

    quiet_transformers()
    generate_file(config, output)
