"""`kdcache curves`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from kdcache.cli import options


@click.command("curves")
@click.argument("folders", metavar="DIR …", nargs=-1, required=True)
@click.option(
    "--metric",
    metavar="NAME",
    help="What to draw: loss, nll, soft, correct, learning_rate, gradient_norm, valid_nll, valid_correct.  "
    "[default: valid_nll where every run has it, else loss]",
)
@click.option("--output", metavar="FILE.png", callback=options.written, help="Draw a PNG as well; needs matplotlib.")
@options.verbosity
def curves(folders: tuple[str, ...], metric: str | None, output: str | None) -> None:
    """Draw the training curves of students or teachers over each other.

    A run may still be training. Where curves meet, their marks take turns. Losses of different alpha do not compare
    (alpha weighs the hard labels); nll, valid_nll and valid_correct do.

    \b
    Example:
      kdcache curves student-plain student-soft --output curves.png
    """
    from kdcache.pictures import png_plot, terminal_plot
    from kdcache.pictures.curves import read_curves

    terminal_plot.check_count(folders)
    if output is not None:
        png_plot.check_png(Path(output))
    found = read_curves([Path(folder) for folder in folders], metric)
    width = shutil.get_terminal_size().columns
    click.echo(f"{found[0].title}\n{terminal_plot.plot(found, width)}\n\n{terminal_plot.summary(found, width)}")
    if output is not None:
        png_plot.save_png(found, Path(output))
