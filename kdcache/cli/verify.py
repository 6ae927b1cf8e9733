"""`kdcache verify`."""

from __future__ import annotations

import click

from kdcache.cli import options
from kdcache.errors import CorruptError
from kdcache.progress import Progress


@click.command("verify")
@click.argument("cache", metavar="CACHE")
@options.verbosity
def verify(cache: str) -> None:
    """Check every committed byte of a cache; exit with 1 and name what is wrong.

    A remote cache is fetched whole; local copies of its shards are neither used nor made.

    \b
    Example:
      kdcache verify cache
    """
    _bytes(cache)


def _bytes(cache: str) -> None:
    from kdcache.cache.audit import strangers, verify_shard
    from kdcache.cache.reader import open_cache

    reader = open_cache(cache)
    reader.tokenizer()
    problems = strangers(reader)
    with Progress("verifying", len(reader.records), "shards") as progress:
        for index in range(len(reader.records)):
            problems.extend(verify_shard(reader, index))
            progress.advance(1)
    if problems:
        raise CorruptError("\n".join(problems))
    place, size = reader.place, sum(record.bytes for record in reader.records)
    click.echo(f"{place}: sound. {len(reader.records):,} shards, {size:,} bytes, {reader.n_targets:,} targets.")
