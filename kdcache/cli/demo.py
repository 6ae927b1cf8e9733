"""`kdcache demo`."""

from pathlib import Path

import click

from kdcache.cli.options import LOCAL
from kdcache.cli.screen import Command, quiet_transformers, set_up


@click.command("demo", cls=Command)
@click.argument("folder", metavar="[DIR]", default="demo-run", type=LOCAL)
def demo(folder: Path) -> None:
    """Run everything on a small built-in corpus, in a few minutes.

    Two students are trained, with and without soft labels, and compared.

    \b
    Example:
      kdcache demo demo-run
    """
    from kdcache.experiments.demo import GUIDE_FILE, DemoConfig, report, run_demo

    _set_up_libraries()
    differences = run_demo(folder, DemoConfig(), set_up_process)
    click.echo(f"\n{report(folder, differences)}")
    click.echo(f"What lies where, and what to try next: {folder / GUIDE_FILE}")


def set_up_process(quiet: bool) -> None:
    """Set up a further process of the demo, which says nothing where it is `quiet`."""
    set_up(quiet=quiet)
    _set_up_libraries()


def _set_up_libraries() -> None:
    import torch

    quiet_transformers()
    # Models as small as the demo's lose more by sharing their work out than they gain.
    torch.set_num_threads(1)
