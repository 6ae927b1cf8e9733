"""`kdcache demo`."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache import tables
from kdcache.cli import options
from kdcache.cli.console import quiet_transformers


@click.command("demo")
@click.argument("folder", metavar="[DIR]", default="demo-run")
@options.verbosity
def demo(folder: str) -> None:
    """Run the whole pipeline on a small embedded corpus, with and without soft labels, in a few minutes.

    \b
    Example:
      kdcache demo demo-run
    """
    from kdcache.demo import run_demo

    quiet_transformers()
    result = run_demo(Path(folder))
    rows = [("metric", "without", "with soft labels", "difference", "95 % interval")]
    for one in result.differences:
        interval = f"{one.low:+.2f} to {one.high:+.2f}"
        rows.append((one.name, f"{one.baseline:.2f}", f"{one.system:.2f}", f"{one.difference:+.2f}", interval))
    click.echo()
    click.echo(tables.table(rows))
    click.echo()
    click.echo(verdict(result.differences[0].low, result.differences[0].high))
    click.echo(
        f"Look around in {result.folder}: teacher/, cache/, with-soft-labels/, without/, and what each wrote (.txt)."
    )


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says, in words."""
    if low > 0:
        return "The soft labels helped: the interval of the BLEU difference lies above 0."
    if high < 0:
        return "The soft labels hurt: the interval of the BLEU difference lies below 0."
    return "No difference that this test set can show: the interval of the BLEU difference contains 0."
