"""`kdcache export`."""

from pathlib import Path

import click

from kdcache.cli.options import LOCAL, Settings
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.export.export_config import ExportConfig


@click.command("export", cls=Command)
@Settings(ExportConfig)
@click.argument("output", metavar="OUTPUT", type=LOCAL)
def export(config: ExportConfig, output: Path) -> None:
    """Write a student for CTranslate2, or a cache as Parquet.

    A student's export is compared with the student before it is finished, and the difference is said. A cache gives one
    file for each shard.

    \b
    Example:
      kdcache export student translator --format ctranslate2 --quantization int8
      kdcache export cache tables --format parquet
    """
    if config.format == "parquet":
        from kdcache.export.parquet_files import export_parquet

        export_parquet(config, output)
        return
    from kdcache.export.ctranslate2_folder import export_ctranslate2

    quiet_transformers()
    export_ctranslate2(config, output)
