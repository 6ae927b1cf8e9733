"""`kdcache verify`."""

import click
from click.core import ParameterSource

from kdcache.cli.options import Settings
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.console import tables
from kdcache.console.progress import Progress
from kdcache.dump.dump_config import VerifyConfig
from kdcache.errors import CacheError, CorruptError, UsageError

_OF_TEACHER = ("sample", "device", "precision")


@click.command("verify", cls=Command)
@Settings(VerifyConfig)
@click.pass_context
def verify(context: click.Context, config: VerifyConfig) -> None:
    """Check every committed byte of a cache.

    It exits with 1 and names what is wrong. A remote cache is fetched whole; local copies of its shards are neither
    used nor made. With --teacher, it compares what is stored with what the teacher says now, and with how much the
    teacher's own results vary.

    \b
    Example:
      kdcache verify cache
      kdcache verify cache --teacher teacher --sample 500
    """
    if config.teacher:
        _compare(config)
        return
    if any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in _OF_TEACHER):
        raise UsageError("Missing option --teacher: --sample, --device and --precision belong to it.")
    _check_bytes(config.cache)


def _check_bytes(cache: str) -> None:
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
    click.echo(
        f"{place}: sound. {tables.count(len(reader.records), 'shard')}, {size:,} bytes, {reader.n_targets:,} targets."
    )


def _compare(config: VerifyConfig) -> None:
    from kdcache.dump import verification

    quiet_transformers()
    found = verification.verify(config)
    click.echo(f"{found.pairs:,} pairs, {found.targets:,} targets\n")
    click.echo(tables.table(verification.table(found)))
    shown = [
        f"{one:.2e} {how} ({limit:.2e} allowed)"
        for one, how, limit in zip(found.beyond, 2 * ("at most", "on average"), found.allowed, strict=False)
    ]
    click.echo(f"\nbeyond rounding: {', '.join(shown[:2])}")
    if shown[2:]:
        click.echo(f"normalizers: {', '.join(shown[2:])}")
    if not found.steady:
        raise CacheError(
            f"{config.cache}: the teacher's answers to a view depend on what is computed beside it, by up to "
            f"{found.noise.largest:.2f} in log-probability. Such labels are wrong; please report the model."
        )
    if not found.sound:
        lines = ", ".join(f"{line:,}" for line in found.worst)
        raise CacheError(
            f"{config.cache}: rounding and the teacher's own noise do not explain how far it is from its teacher. "
            f"Furthest are the lines {lines}. Was --precision another than the dump's, or the hardware? If not, make "
            "the cache anew."
        )
    click.echo(f"{config.cache}: what its teacher says.")
