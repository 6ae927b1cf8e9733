"""`kdcache transcode` and `merge`."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import options
from kdcache.console import tables
from kdcache.dump.dump_config import ENCODINGS


@click.command("transcode")
@click.argument("cache", metavar="CACHE")
@click.argument("output", metavar="OUTPUT", callback=options.written)
@click.option("--topk", type=int, help="Words kept a position; no more than are stored.  [default: all]")
@click.option("--encoding", type=click.Choice(ENCODINGS), help="How numbers are stored.  [default: as they are]")
@click.option("--shard-pairs", type=int, help="Pairs in a shard.  [default: as they are]")
@options.verbosity
def transcode(cache: str, output: str, topk: int | None, encoding: str | None, shard_pairs: int | None) -> None:
    """Make a cache from another one without its teacher: fewer words, other shards, another encoding.

    Interrupted or killed, run the same command again: it continues. Started by torchrun, each process makes its share
    of the shards.

    \b
    Example:
      kdcache transcode cache smaller --topk 8 --encoding compact
    """
    from kdcache.cache.derived.transcoding import TranscodeConfig
    from kdcache.cache.derived.transcoding import transcode as write

    config = TranscodeConfig(cache, topk, encoding, shard_pairs)
    result = write(config, Path(output))
    if result is not None:
        click.echo(f"{output}: {result['targets']:,} targets, content {result['manifest']}.")


@click.command("merge")
@click.argument("output", metavar="OUTPUT", callback=options.written)
@click.argument("caches", metavar="CACHE CACHE ...", nargs=-1, required=True)
@click.option("--topk", type=int, help="Words stored a position.  [default: the least of the caches]")
@options.verbosity
def merge(output: str, caches: tuple[str, ...], topk: int | None) -> None:
    """Average caches of the same text: several teachers, or one teacher with several maskings.

    OUTPUT comes first, since the caches may be many. Each weighs the same. Only the part of the average that they know
    is stored, nothing is renormalised, and what they do not say is reported. An average is not averaged again: give all
    the caches at once. Interrupted or killed, run the same command again: it continues.

    \b
    Example:
      kdcache merge average cache-a cache-b
    """
    from kdcache.cache.derived.merging import MergeConfig
    from kdcache.cache.derived.merging import merge as write

    result = write(MergeConfig(caches, topk), Path(output))
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
