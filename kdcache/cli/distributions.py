"""Options of `kdcache dump-logits` that say how distributions are made and what is stored of them."""

from __future__ import annotations

from typing import Any

import click

from kdcache.cli.options import default_of, gathered
from kdcache.dump.dump_config import Distributions
from kdcache.errors import UsageError


def _temperatures(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[float, ...]:
    try:
        return () if value is None else tuple(float(one) for one in value.split(","))
    except ValueError:
        raise UsageError(
            f"--normalizers takes temperatures with commas between them, such as 2,5,10, not {value}."
        ) from None


distributions = gathered(
    "distributions",
    Distributions,
    click.option(
        "--maskings",
        type=int,
        default=default_of(Distributions, "maskings"),
        show_default=True,
        help="Ways to divide the positions into passes whose distributions are averaged; M take M times as long.",
    ),
    click.option(
        "--sample",
        type=int,
        default=default_of(Distributions, "sample"),
        metavar="N",
        help="Store N words drawn from each distribution in place of the best ones, for --objective sampled.",
    ),
    click.option(
        "--seed",
        type=int,
        default=default_of(Distributions, "seed"),
        show_default=True,
        help="Of --maskings and --sample.",
    ),
    click.option(
        "--normalizers",
        metavar="T,T,…",
        callback=_temperatures,
        help="Store log Z_T at these temperatures, such as 2,5,10: objectives that count the tail can use them then.",
    ),
)


def described(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """What `kdcache inspect` says about them: names and values."""
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
