"""How a cache was made, from its plan: by which command, from what, and that in turn."""

from __future__ import annotations

from collections.abc import Iterator

from kdcache.cache.plan import Plan, Source

_SHORT = 12


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What a plan says about the making of its values, as names and values."""
    made = "dump-logits, by the teacher" if not plan.sources else f"{plan.made_by}, from {_count(len(plan.sources))}"
    temperatures = ", ".join(f"{one:g}" for one in plan.temperatures)
    drawn = f"drawn, {plan.draws} times a position (seed {plan.seed})"
    return [
        ("made by", made),
        ("maskings", f"{plan.maskings}" + (f" (seed {plan.seed})" if plan.maskings > 1 and not plan.sources else "")),
        ("words are", drawn if plan.draws else "the most probable"),
        ("normalizers", f"at T = {temperatures}" if temperatures else "none"),
    ]


def _count(n: int) -> str:
    return "1 cache" if n == 1 else f"{n} caches"


def tree(plan: Plan) -> list[str]:
    """The caches that this one was made from, each with its own below it, indented; nothing if a teacher made it."""
    return [f"{'  ' * depth}{_line(source)}" for depth, source in _walk(plan, 0)]


def _walk(plan: Plan, depth: int) -> Iterator[tuple[int, Source]]:
    for source in plan.sources:
        yield depth, source
        yield from _walk(source.plan, depth + 1)


def _line(source: Source) -> str:
    plan = source.plan
    name = "/".join((plan.encoding.log_probs, plan.encoding.filters))
    return (
        f"{source.root[:_SHORT]}  {plan.made_by}, k {plan.topk}, {name}, passes {plan.passes}, "
        f"teacher {plan.teacher[:_SHORT]}"
    )
