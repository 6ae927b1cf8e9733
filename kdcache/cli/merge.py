"""`kdcache merge`."""

from pathlib import Path

import click

from kdcache.cache.derived.derive_config import MergeConfig
from kdcache.cli.options import LOCAL, Settings
from kdcache.cli.screen import Command
from kdcache.console import tables


@click.command("merge", cls=Command)
@Settings(MergeConfig)
@click.argument("output", metavar="OUTPUT", type=LOCAL)
def merge(config: MergeConfig, output: Path) -> None:
    """Average caches of the same text.

    They may come from several teachers, or from one teacher with several maskings; each has the same weight. Only the
    words of the average that are known are stored, and what is unknown is reported. An average is not averaged again:
    give all caches at once. Run the same command again to continue.

    \b
    Example:
      kdcache merge cache-a cache-b average
    """
    from kdcache.cache.derived import merging

    result = merging.merge(config, output)
    if result is None:
        return
    mass = {name: f"{100 * value:.2f} %" for name, value in result["mass"].items()}
    items = [
        ("targets", f"{result['targets']:,}"),
        ("skipped in some caches only", f"{result['skipped_in_some']:,} pairs, left out here"),
        ("mass of the words kept", mass["kept"]),
        ("mass of words known but cut", mass["cut"]),
        ("mass in the caches' tails", f"{mass['tails']}, of which {mass['missed']} at most belong to words kept"),
        ("content", result["manifest"]),
    ]
    click.echo(tables.facts(items))
