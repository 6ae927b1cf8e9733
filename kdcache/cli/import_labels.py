"""`kdcache import`."""

from pathlib import Path

import click

from kdcache.cli.options import LOCAL, Settings
from kdcache.cli.screen import Command
from kdcache.export.import_config import ImportConfig


@click.command("import", cls=Command)
@Settings(ImportConfig)
@click.argument("output", metavar="OUTPUT", type=LOCAL)
def import_labels(config: ImportConfig, output: Path) -> None:
    """Make a cache of soft labels that another program computed.

    A row holds source, target_ids, topk_ids, topk_log_probs and target_log_probs, as `kdcache export --format parquet`
    writes them, or the same in JSON lines. Every row is checked before anything is stored. Run the same command again
    to continue.

    \b
    Example:
      kdcache import labels.jsonl --tokenizer teacher cache
    """
    from kdcache.export import imported_labels

    result = imported_labels.import_labels(config, output)
    if result is not None:
        click.echo(f"{output}: {result['targets']:,} targets, content {result['manifest']}.")
