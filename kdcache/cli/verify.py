"""`kdcache verify`."""

from __future__ import annotations

import click

from kdcache.cli import options
from kdcache.cli.console import quiet_transformers
from kdcache.console import tables
from kdcache.console.progress import Progress
from kdcache.dump.dump_config import VERIFY_PRECISIONS, VerifyConfig
from kdcache.errors import CacheError, CorruptError, UsageError

SAMPLE = options.default_of(VerifyConfig, "sample")


@click.command("verify")
@click.argument("cache", metavar="CACHE")
@click.option("--teacher", metavar="DIR", help="Compute a sample of the pairs again with this teacher instead.")
@click.option("--sample", type=int, help=f"Pairs that are computed again, always the same ones.  [default: {SAMPLE}]")
@options.device
@click.option(
    "--precision",
    type=click.Choice(VERIFY_PRECISIONS),
    default=options.default_of(VerifyConfig, "precision"),
    show_default=True,
    help="Of matrix products; plan is what the cache was made with.",
)
@options.verbosity
def verify(cache: str, teacher: str | None, sample: int | None, device: str, precision: str) -> None:
    """Check every committed byte of a cache; exit with 1 and name what is wrong.

    A remote cache is fetched whole; local copies of its shards are neither used nor made.

    With --teacher, hold what is stored against what the teacher says now, with the teacher's own noise beside it.

    \b
    Example:
      kdcache verify cache
      kdcache verify cache --teacher teacher --sample 500
    """
    if teacher is not None:
        _live(cache, teacher, SAMPLE if sample is None else sample, device, precision)
        return
    if sample is not None or precision != VERIFY_PRECISIONS[0] or device != "auto":
        raise UsageError("Missing option --teacher: --sample, --device and --precision belong to it.")
    _bytes(cache)


def _bytes(cache: str) -> None:
    from kdcache.cache.audit import unexpected_files, verify_shard
    from kdcache.cache.reader import open_cache

    reader = open_cache(cache)
    reader.tokenizer()
    problems = unexpected_files(reader)
    with Progress("verifying", len(reader.records), "shards") as progress:
        for index in range(len(reader.records)):
            problems.extend(verify_shard(reader, index))
            progress.advance(1)
    if problems:
        raise CorruptError("\n".join(problems))
    place, size = reader.place, sum(record.bytes for record in reader.records)
    click.echo(f"{place}: sound. {len(reader.records):,} shards, {size:,} bytes, {reader.n_targets:,} targets.")


def _live(cache: str, teacher: str, sample: int, device: str, precision: str) -> None:
    from kdcache.dump.verification import table
    from kdcache.dump.verification import verify as hold

    quiet_transformers()
    found = hold(VerifyConfig(cache, teacher, sample, device, precision))
    click.echo(f"{found.pairs:,} pairs, {found.targets:,} targets\n")
    click.echo(tables.table(table(found)))
    shown = [
        f"{one:.2e} {how} ({limit:.2e} allowed)"
        for one, how, limit in zip(found.beyond, 2 * ("at most", "on average"), found.allowed, strict=False)
    ]
    click.echo(f"\nbeyond rounding: {', '.join(shown[:2])}")
    if shown[2:]:
        click.echo(f"normalizers: {', '.join(shown[2:])}")
    if not found.sound:
        lines = ", ".join(f"{line:,}" for line in found.worst)
        raise CacheError(
            f"{cache}: rounding and the teacher's own noise do not explain how far it is from its teacher. Furthest "
            f"are the lines {lines}. Was --precision another than the dump's, or the hardware? If not, make it anew."
        )
    click.echo(f"{cache}: what its teacher says.")
