"""`kdcache inspect`."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import LOCAL, Settings
from kdcache.cli.screen import Command
from kdcache.console import tables
from kdcache.errors import CorruptError, UsageError
from kdcache.files.locations import StoreConfig
from kdcache.files.run_records import RUN_FILE
from kdcache.files.strict_json import read_json

if TYPE_CHECKING:
    from kdcache.inspection.cache_summary import Summary


_WIDTH = 80


@click.command("inspect", cls=Command)
@click.argument("cache", metavar="CACHE")
@click.option("--pair", type=int, metavar="N", help="Show pair N, from 0, with its distributions, word by word.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--html",
    metavar="FILE.html",
    type=LOCAL,
    help="Also write a page with pictures, the pairs that the teacher knows least, and a sample.",
)
@Settings(StoreConfig)
def inspect(cache: str, pair: int | None, as_json: bool, html: Path | None, config: StoreConfig) -> None:
    """Say what is in a cache.

    \b
    Example:
      kdcache inspect cache --pair 17
      kdcache inspect cache --html cache.html
    """
    if pair is not None and html is not None:
        raise UsageError("Give either --pair N or --html FILE, not both.")
    if pair is not None:
        _show_pair(cache, config, pair, as_json)
        return
    from kdcache.cache.reader import CacheReader, open_cache, open_files
    from kdcache.inspection.cache_summary import made_by, source_lines, summarize

    # Only the page needs shards, and so a store with room for them.
    reader = CacheReader(open_files(cache)) if html is None else open_cache(cache, config)
    found = summarize(reader)
    items = [*_facts(found), ("made by", made_by(reader.plan))]
    if html is not None:
        from kdcache.inspection.inspect_page import write_page

        write_page(reader, [*_names(reader.place), *items], html)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    for sentence in found.verdict:
        click.echo(textwrap.fill(sentence, _WIDTH))
    click.echo(f"\n{tables.facts(items)}")
    for line in source_lines(reader.plan):
        click.echo(f"  {line}")


def _names(cache: str) -> list[tuple[str, str]]:
    """What the cache, its teachers and its text are called, without their folders, as far as its run.json says."""
    try:
        config = read_json(Path(cache) / RUN_FILE)["config"]
        teachers, text = config["teacher"], [file for file in config["text"].values() if file]
    except (CorruptError, KeyError, TypeError, AttributeError):
        teachers, text = [], []
    teachers = [teachers] if isinstance(teachers, str) else teachers
    found = {"name of the cache": [cache], "name of the teacher": teachers, "text": text}
    return [(what, " + ".join(Path(str(one)).name for one in names)) for what, names in found.items() if names]


def _facts(found: Summary) -> list[tuple[str, str]]:
    plan = found.plan
    return [
        ("pairs", f"{found.pairs:,} ({found.skipped:,} skipped)"),
        ("targets", f"{found.targets:,} ({found.unknown:,} unknown words)"),
        ("source tokens", f"{found.source_tokens:,}"),
        ("vocabulary", f"{plan['vocabulary']:,}"),
        *_distributions(plan),
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


def _distributions(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """How the distributions were made."""
    items = [
        ("draws", f"{plan['draws']} a position, with seed {plan['seed']}")
        if plan["draws"]
        else ("top-k", f"{plan['topk']}"),
        ("passes", f"{plan['passes']}"),
    ]
    # An average of caches has those of its sources, which stand in the lineage.
    if plan["maskings"] > 1 and len(plan["sources"]) < 2:
        items.append(("maskings", f"{plan['maskings']}, averaged, with seed {plan['seed']}"))
    if plan["temperatures"]:
        items.append(("normalizers", "at T = " + ", ".join(f"{one:g}" for one in plan["temperatures"])))
    return items


def _show_pair(cache: str, store: StoreConfig, index: int, as_json: bool) -> None:
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
