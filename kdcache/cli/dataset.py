"""`kdcache dataset`."""

from pathlib import Path

import click

from kdcache.cli.options import LOCAL, Settings
from kdcache.cli.screen import Command
from kdcache.export.dataset_config import DatasetConfig


@click.command("dataset", cls=Command)
@Settings(DatasetConfig)
@click.argument("output", metavar="OUTPUT.jsonl", type=LOCAL)
def dataset(config: DatasetConfig, output: Path) -> None:
    """Write the pairs of a data set into a file that --pairs takes.

    The datasets library loads it, from the Hugging Face hub or from a file.

    \b
    Example:
      kdcache dataset opus_books:de-en train.jsonl --source-field de --target-field en
      kdcache dataset news.parquet news.jsonl --source-field text --target-field headline
    """
    from kdcache.export.dataset_pairs import write_pairs

    write_pairs(config, output)
