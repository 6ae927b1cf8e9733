"""`kdcache transcode`."""

from pathlib import Path

import click

from kdcache.cache.derived.derive_config import TranscodeConfig
from kdcache.cli.options import LOCAL, Settings
from kdcache.cli.screen import Command


@click.command("transcode", cls=Command)
@Settings(TranscodeConfig)
@click.argument("output", metavar="OUTPUT", type=LOCAL)
def transcode(config: TranscodeConfig, output: Path) -> None:
    """Store a cache with fewer words, other shards or another encoding.

    It needs no teacher. Run the same command again to continue. Started by torchrun, each process makes its share of
    the shards.

    \b
    Example:
      kdcache transcode cache smaller --topk 8 --encoding compact
    """
    from kdcache.cache.derived import transcoding

    result = transcoding.transcode(config, output)
    if result is not None:
        click.echo(f"{output}: {result['targets']:,} targets, content {result['manifest']}.")
