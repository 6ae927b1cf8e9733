"""`kdcache generate`."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import options
from kdcache.cli.console import quiet_transformers
from kdcache.student.generate_config import GenerateConfig


@click.command("generate")
@click.option("--student", required=True, metavar="DIR", help="What student-train wrote.")
@click.option("--source", required=True, metavar="F", help="Source text, one sentence a line; .gz too.")
@click.option(
    "--output", required=True, metavar="F", callback=options.written, help="Where the hypotheses go, one a line."
)
@options.beam_size
@options.length_penalty
@options.device
@options.verbosity
def generate(student: str, source: str, output: str, beam_size: int, length_penalty: float, device: str) -> None:
    """Write a target text for every line of a source, by beam search.

    \b
    Example:
      kdcache generate --student student --source test.de --output test.hyp
    """
    config = GenerateConfig(student, source, beam_size, length_penalty, device=device)
    config.check()
    from kdcache.student.generation import generate_file

    quiet_transformers()
    generate_file(config, Path(output))
