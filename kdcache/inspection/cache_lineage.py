"""How a cache was made, from its plan: by which command, from what, and that in turn."""

from __future__ import annotations

from collections.abc import Iterator

from kdcache.cache.plan import Plan, SourceCache

_SHORT = 12


def made_by(plan: Plan) -> str:
    """The command that made a cache, and from how many others."""
    if not plan.sources:
        return "dump-logits, with a teacher"
    return f"{plan.made_by}, from {len(plan.sources)} cache{'s' if len(plan.sources) > 1 else ''}"


def tree(plan: Plan) -> list[str]:
    """The caches that this one was made from, each with its own below it, indented; nothing if a teacher made it."""
    return [f"{'  ' * depth}{_line(source)}" for depth, source in _walk(plan, 0)]


def _walk(plan: Plan, depth: int) -> Iterator[tuple[int, SourceCache]]:
    for source in plan.sources:
        yield depth, source
        yield from _walk(source.plan, depth + 1)


def _line(source: SourceCache) -> str:
    plan = source.plan
    words = f"{plan.draws} draws" if plan.draws else f"k {plan.topk}"
    name = "/".join((plan.encoding.log_probs, plan.encoding.filters))
    return (
        f"{source.root[:_SHORT]}  {plan.made_by}, {words}, {name}, passes {plan.passes}, maskings {plan.maskings}, "
        f"teacher {plan.teacher[:_SHORT]}"
    )
