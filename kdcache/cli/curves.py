"""`kdcache curves`."""

import shutil
from pathlib import Path

import click

from kdcache.cli.options import LOCAL
from kdcache.cli.screen import Command


@click.command("curves", cls=Command)
@click.argument("folders", metavar="DIR …", nargs=-1, required=True)
@click.option(
    "--metric",
    metavar="NAME",
    help="Metric to draw: loss, nll, soft, correct, learning_rate, gradient_norm, valid_nll or valid_correct.  "
    "[default: valid_nll where every run has it, else loss]",
)
@click.option("--output", metavar="FILE.png", type=LOCAL, help="Draw a PNG as well; needs matplotlib.")
def curves(folders: tuple[str, ...], metric: str | None, output: Path | None) -> None:
    """Draw the training curves of several runs in one picture.

    The runs are folders of students or teachers; they may still be training. Losses with different alpha do not
    compare, since alpha weighs the hard labels; nll, valid_nll and valid_correct do.

    \b
    Example:
      kdcache curves student-plain student-soft --output curves.png
    """
    from kdcache.pictures import png_plot, terminal_plot
    from kdcache.pictures.curves import read_curves

    if output is not None:
        png_plot.check_png(output)
    found = read_curves([Path(folder) for folder in folders], metric)
    width = shutil.get_terminal_size().columns
    click.echo(f"{found[0].title}\n{terminal_plot.plot(found, width)}\n\n{terminal_plot.summary(found, width)}")
    if output is not None:
        png_plot.save_png(found, output)
        click.echo(f"{output}: the same as a picture.", err=True)
