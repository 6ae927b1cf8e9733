"""`kdcache dump-logits` and `inspect`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcache.cli import options
from kdcache.cli.console import quiet_transformers
from kdcache.cli.distributions import described, distributions
from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.dump.dump_config import DEFAULT_TOPK, ENCODINGS, Distributions, DumpConfig
from kdcache.errors import UsageError
from kdcache.files.locations import StoreConfig
from kdcache.text.corpus import TextFiles

if TYPE_CHECKING:
    from kdcache.inspection.cache_summary import Summary


def _default(name: str) -> object:
    return options.default_of(DumpConfig, name)


@click.command("dump-logits")
@click.option("--teacher", required=True, metavar="DIR", help="What teacher-train wrote.")
@options.text
@click.option("--output", metavar="CACHE", callback=options.written, help="Where the cache goes.")
@click.option("--topk", type=int, help=f"Words stored a position.  [default: {DEFAULT_TOPK}]")
@click.option(
    "--passes",
    type=int,
    default=_default("passes"),
    show_default=True,
    help="P: pass p masks target positions p, p+P, … together; 7 imitates the 15 % of training.",
)
@click.option(
    "--shard-pairs",
    type=int,
    default=_default("shard_pairs"),
    show_default=True,
    help="Pairs in a shard; a crash costs the work on two of them at most.",
)
@click.option(
    "--max-tokens",
    type=int,
    default=_default("max_tokens"),
    show_default=True,
    help="Padded tokens of one forward pass.",
)
@click.option(
    "--encoding",
    type=click.Choice(ENCODINGS),
    default=_default("encoding"),
    show_default=True,
    help="How numbers are stored; compact takes 8 bits for a log-probability.",
)
@click.option(
    "--max-unknown",
    type=float,
    default=_default("max_unknown"),
    show_default=True,
    help="Share of a shard's targets that may be the unknown token.",
)
@click.option(
    "--shards", metavar="A:B", help="Make only shards A to B (exclusive, from 0), where several machines share a cache."
)
@distributions
@options.skip_bad
@options.device
@options.precision
@click.option("--dry-run", is_flag=True, help="Count, time a few batches, say what it would cost; write nothing.")
@options.verbosity
def dump_logits(
    teacher: str,
    text: TextFiles,
    output: str | None,
    topk: int | None,
    passes: int,
    shard_pairs: int,
    max_tokens: int,
    encoding: str,
    max_unknown: float,
    shards: str | None,
    distributions: Distributions,
    skip_bad: bool,
    device: str,
    precision: str,
    dry_run: bool,
) -> None:
    """Run a teacher once over every masked target position and store its top-k in sharded HDF5.

    Interrupted or killed, run the same command again: it continues with the shards that are missing. Started by
    torchrun, each process makes its share of the shards.

    \b
    Example:
      kdcache dump-logits --teacher teacher --source train.de --target train.en --topk 8 --output cache
    """
    config = DumpConfig(
        teacher=teacher,
        text=text,
        topk=topk,
        passes=passes,
        shard_pairs=shard_pairs,
        max_tokens=max_tokens,
        encoding=encoding,
        max_unknown=max_unknown,
        skip_bad=skip_bad,
        device=device,
        precision=precision,
        shards=None if shards is None else _bounds(shards),
        distributions=distributions,
    )
    config.check()
    if dry_run:
        _dump_forecast(config)
        return
    if output is None:
        raise UsageError("Missing option --output (only --dry-run goes without).")
    from kdcache.dump.dump_shards import dump

    quiet_transformers()
    dump(config, Path(output))


def _bounds(text: str) -> tuple[int, int]:
    first, colon, stop = text.partition(":")
    if not (colon and first.isdecimal() and stop.isdecimal()):
        raise UsageError(f"--shards takes two whole numbers with a colon between them, such as 0:100, not {text}.")
    return int(first), int(stop)


def _dump_forecast(config: DumpConfig) -> None:
    from kdcache.dump.dump_forecast import forecast

    quiet_transformers()
    found = forecast(config)
    items = [
        ("pairs", f"{found.pairs:,} ({found.skipped:,} skipped) in {found.shards:,} shards"),
        ("targets", f"{found.targets:,}"),
        ("passes", f"{config.passes}, {found.views:,} masked views in {config.distributions.maskings} partitions"),
        ("tokens to encode", f"{found.tokens:,}"),
        ("bytes", f"about {tables.size(found.bytes)}, {found.bytes / max(1, found.targets):.1f} a target"),
        ("time", f"about {duration(found.seconds)} (from {found.pilot_pairs:,} pairs)"),
    ]
    click.echo(tables.facts(items))


@click.command("inspect")
@click.argument("cache", metavar="CACHE")
@click.option("--pair", type=int, metavar="N", help="Show pair N (from 0) with its distributions, word by word.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--html",
    metavar="FILE.html",
    callback=options.written,
    help="Write a page with pictures, the worst pairs and a sample as well.",
)
@options.store
@options.verbosity
def inspect(cache: str, pair: int | None, as_json: bool, html: str | None, store: StoreConfig) -> None:
    """Say what is in a cache.

    \b
    Example:
      kdcache inspect cache --pair 17
      kdcache inspect cache --html cache.html
    """
    if pair is not None and html is not None:
        raise UsageError("Give either --pair N or --html FILE, not both.")
    if pair is not None:
        _show_pair(cache, store, pair, as_json)
        return
    from kdcache.cache.reader import CacheReader, open_cache, open_files
    from kdcache.inspection.cache_summary import made_by, source_lines, summarize

    # Only the page needs shards, and so a store with room for them.
    reader = CacheReader(open_files(cache)) if html is None else open_cache(cache, store)
    found = summarize(reader)
    items = [*_facts(found), ("made by", made_by(reader.plan))]
    if html is not None:
        from kdcache.inspection.inspect_page import write_page

        write_page(reader, items, Path(html))
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo(tables.facts(items))
    for line in source_lines(reader.plan):
        click.echo(f"  {line}")


def _facts(found: Summary) -> list[tuple[str, str]]:
    plan = found.plan
    return [
        ("pairs", f"{found.pairs:,} ({found.skipped:,} skipped)"),
        ("targets", f"{found.targets:,} ({found.unknown:,} unknown words)"),
        ("source tokens", f"{found.source_tokens:,}"),
        ("vocabulary", f"{plan['vocabulary']:,}"),
        *described(plan),
        ("precision", f"{plan['precision']}"),
        ("encoding", ", ".join(f"{name} {value}" for name, value in plan["encoding"].items())),
        ("shards", f"{found.shards:,} of {plan['shard_pairs']:,} pairs"),
        ("size", f"{tables.size(found.bytes)}, {found.bytes_per_target:.1f} bytes a target with everything"),
        *([] if found.mass is None else [("mass of the top-k", f"{100 * found.mass:.1f} %")]),
        ("written word among them", f"{100 * found.known:.1f} %"),
        *([] if found.best is None else [("written word is the first", f"{100 * found.best:.1f} %")]),
        ("teacher perplexity", f"{found.perplexity:.2f}"),
        *([] if plan["draws"] else [("cost of rounding", f"{100 * found.rounding:.3f} % total variation, expected")]),
        ("teacher", plan["teacher"]),
        ("tokenizer", plan["tokenizer"]),
        ("corpus", plan["corpus"]),
        ("content", found.root),
    ]


def _show_pair(cache: str, store: StoreConfig, index: int, as_json: bool) -> None:
    import math

    from kdcache.cache.reader import open_cache
    from kdcache.inspection.cache_summary import view_pair

    reader = open_cache(cache, store)
    found = view_pair(reader, index)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    click.echo(f"source  {found.source}\ntarget  {found.target}\n")
    if not found.words:
        click.echo("This pair was skipped.")
        return
    draws = reader.plan.draws
    rows = [("written", "p", f"shares of {draws} draws, %" if draws else "the teacher's best, %")]
    for written, log_prob, best in found.words:
        listed = "  ".join(f"{piece} {100 * math.exp(value):.1f}" for piece, value in best)
        rows.append((written, f"{100 * math.exp(log_prob):.1f} %", listed))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for written, probability, listed in rows:
        click.echo(f"{written:<{widths[0]}}  {probability:>{widths[1]}}  {listed}")
