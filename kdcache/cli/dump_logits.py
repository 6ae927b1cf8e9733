"""`kdcache dump-logits`."""

from pathlib import Path

import click

from kdcache.cli.options import Settings, dry_run, needs_output, output
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.dump.dump_config import DumpConfig


@click.command("dump-logits", cls=Command)
@Settings(DumpConfig)
@output("CACHE", "Folder for the cache.", required=False)
@dry_run("Count, time a few batches and say what the cache would cost; write nothing.")
def dump_logits(config: DumpConfig, output: Path | None, dry_run: bool) -> None:
    """Run a teacher over a text and store its best words.

    Every target position is masked once, and the most probable words there go into a cache of sharded HDF5. Run the
    same command again to continue. Started by torchrun, each process makes its share of the shards.

    \b
    Example:
      kdcache dump-logits --teacher teacher --source train.de --target train.en \\
          --topk 8 --output cache
    """
    if dry_run:
        _print_forecast(config, output)
        return
    output = needs_output(output)
    from kdcache.dump.dump_shards import dump

    quiet_transformers()
    dump(config, output)


def _print_forecast(config: DumpConfig, output: Path | None) -> None:
    from kdcache.dump.dump_forecast import forecast

    quiet_transformers()
    found = forecast(config, output)
    items = [
        ("pairs", f"{found.pairs:,} ({found.skipped:,} skipped) in {tables.count(found.shards, 'shard')}"),
        ("targets", f"{found.targets:,}"),
        ("passes", f"{config.passes}, {found.views:,} masked views in {config.distributions.maskings} partitions"),
        ("tokens to encode", f"{found.tokens:,}"),
        ("bytes", f"about {tables.size(found.bytes)}, {found.bytes / max(1, found.targets):.1f} a target"),
        ("time", f"about {duration(found.seconds)} (from {found.pilot_pairs:,} pairs)"),
    ]
    click.echo(tables.facts(items))
