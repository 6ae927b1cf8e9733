"""`kdcache demo`."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import options
from kdcache.cli.console import quiet_transformers, set_up


@click.command("demo")
@click.argument("folder", metavar="[DIR]", default="demo-run", callback=options.written)
@options.verbosity
def demo(folder: str) -> None:
    """Run the whole pipeline on a small embedded corpus, with and without soft labels, in a few minutes.

    \b
    Example:
      kdcache demo demo-run
    """
    from kdcache.experiments.demo import GUIDE_FILE, DemoConfig, results_table, run_demo, verdict

    _set_up_libraries()
    differences = run_demo(Path(folder), DemoConfig(), _set_up_process)
    click.echo(f"\n{results_table(differences)}\n\n{verdict(differences[0])}")
    click.echo(f"What lies where, and what to try next: {Path(folder) / GUIDE_FILE}")


def _set_up_process(quiet: bool) -> None:
    set_up(verbose=False, quiet=quiet)
    _set_up_libraries()


def _set_up_libraries() -> None:
    import torch

    quiet_transformers()
    # Models as small as the demo's lose more by sharing their work out than they gain.
    torch.set_num_threads(1)
