"""The plan of a cache: what it will be, and from what it is made."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache.number_encoding import Encoding
from kdcache.errors import CorruptError, MismatchError
from kdcache.files.atomic import is_sha256, sha256
from kdcache.files.run_records import difference_in_words
from kdcache.files.strict_json import canonical_json, from_json, read_json
from kdcache.settings import spell

FORMAT = "kdcache"
VERSION = 3
PLAN_FILE = "plan.json"
# A cache of caches of caches …: more than anybody makes, less than what exhausts the stack.
GENERATIONS_MAX = 16
# So many draws are counted in 16 bits.
DRAWS_MAX = 65_535
# The precision of labels that another program has made.
IMPORTED = "imported"
PRECISIONS = ("float32", "bfloat16", IMPORTED)
# Parts of a plan that are not called like an option.
_WORDS = {
    "corpus": "the text",
    "n_pairs": "the number of pairs",
    "tokenizer": "the tokenizer",
    "vocabulary": "the size of the vocabulary",
    "teacher": "the teacher",
    "positions": "the number of the teacher's positions",
    "draws": "--sample",
    "temperatures": "--normalizers",
    "sources": "the caches",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a cache will be; its identity.

    Attributes:
        format, version: "kdcache" and the version of the layout.
        corpus: fingerprint of the line pairs.
        n_pairs: number of line pairs.
        tokenizer: fingerprint of the tokenizer.
        vocabulary: size of the output vocabulary; every id is below it.
        teacher: fingerprint of the teacher's tensors and configuration; of K teachers all of them, joined by "+", where
            the i-th did not see, and labelled, the pairs of fold i of K.
        positions: how many positions the teacher has for source and target together.
        topk: words stored at each target position.
        passes: P; pass p masks target positions p, p+P, p+2P, ….
        precision: the precision of the matrix products in the forward pass, "float32" or "bfloat16"; "imported" where
            another program made the labels.
        shard_pairs: pairs in a shard; the last may hold fewer.
        encoding: how numbers are stored.
        maskings: how many partitions of the target positions into passes were averaged, in probability.
        draws: words drawn from each distribution; 0: the k best are stored instead.
        seed: the seed for the partitions after the first and for the draws; 0 where there are neither.
        temperatures: T at which log Z_T = log Σ_w p(w)^(1/T) is stored beside each distribution; rising, without 1.
        sources: the caches that this one was made from; none where a teacher was run.
    """

    format: str
    version: int
    corpus: str
    n_pairs: int
    tokenizer: str
    vocabulary: int
    teacher: str
    positions: int
    topk: int
    passes: int
    precision: str
    shard_pairs: int
    encoding: Encoding
    maskings: int = 1
    draws: int = 0
    seed: int = 0
    temperatures: tuple[float, ...] = ()
    sources: tuple[SourceCache, ...] = ()

    @property
    def teachers(self) -> list[str]:
        """The fingerprint of each teacher."""
        return self.teacher.split("+")

    @property
    def made_by(self) -> str:
        """The command that made it."""
        first = "import" if self.precision == IMPORTED else "dump-logits"
        return (first, "transcode", "merge")[min(len(self.sources), 2)]

    @property
    def generations(self) -> int:
        """The length of the longest chain of caches from a teacher to this one."""
        return 1 + max((source.plan.generations for source in self.sources), default=0)

    @property
    def averaged(self) -> int:
        """The number of caches that were averaged into this one or into an ancestor; 1 without an average."""
        return max((len(plan.sources) for plan in self.ancestry() if plan.sources), default=1)

    def ancestry(self) -> Iterator[Plan]:
        """This plan, and those of all caches that it was made from."""
        yield self
        for source in self.sources:
            yield from source.plan.ancestry()

    @property
    def mass_tolerance(self) -> float:
        """How far above 1 rounding can have lifted the probabilities of the k words together, here and before."""
        before = max((source.plan.mass_tolerance for source in self.sources), default=0.0)
        return before + self.encoding.mass_tolerance(self.topk)

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.n_pairs // self.shard_pairs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the plan, which every shard and record carries."""
        return _fingerprint(self)

    def bounds(self, index: int) -> tuple[int, int]:
        """First pair of shard `index`, and the one after its last."""
        return index * self.shard_pairs, min((index + 1) * self.shard_pairs, self.n_pairs)


@dataclass(frozen=True, slots=True)
class SourceCache:
    """A cache from which another one was made: the hash over its records, and its own plan."""

    root: str
    plan: Plan


@functools.lru_cache(maxsize=8)
def _fingerprint(plan: Plan) -> str:
    return sha256(canonical_json(dataclasses.asdict(plan)))


def read_plan(cache: Path) -> Plan:
    """Read the plan of a cache.

    Raises:
        CorruptError: there is none, or it is damaged or of another format.
    """
    path = cache / PLAN_FILE
    if not os.path.lexists(path):
        problem = f"it has no {PLAN_FILE}" if cache.is_dir() else "there is no such folder"
        raise CorruptError(f"{cache}: not a cache: {problem}. Make one with kdcache dump-logits.")
    return plan_of(read_json(path), str(path))


def plan_of(value: Any, place: str) -> Plan:
    """The plan that parsed JSON is.

    Raises:
        CorruptError: it is damaged or of another format; the message opens with `place`.
    """
    version = value.get("version") if isinstance(value, dict) else None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CorruptError(f"{place}: not the plan of a kdcache cache.")
    if version != VERSION:
        raise CorruptError(
            f"{place}: format version {version!r}, this kdcache reads version {VERSION}. Use the kdcache that wrote it."
        )
    try:
        plan = from_json(Plan, value, place)
        check_plan(plan, place)
    except RecursionError:
        raise CorruptError(f"{place}: made from more caches in a row than the {GENERATIONS_MAX} allowed.") from None
    return plan


def check_plan(plan: Plan, place: str) -> None:
    """Raise CorruptError unless `plan` and the plans of all its ancestors can be carried out."""
    if plan.generations > GENERATIONS_MAX:
        raise CorruptError(f"{place}: made from more caches in a row than the {GENERATIONS_MAX} allowed.")
    for ancestor in plan.ancestry():
        _check_names(ancestor, place)
        _check_numbers(ancestor, place)


def _check_names(plan: Plan, place: str) -> None:
    if (plan.format, plan.version) != (FORMAT, VERSION):
        raise CorruptError(f"{place}: made from a cache of format {plan.format!r}, version {plan.version}.")
    hashes = [(name, getattr(plan, name)) for name in ("corpus", "tokenizer")]
    hashes += [("teacher", one) for one in plan.teachers]
    for name, value in [*hashes, *(("root", source.root) for source in plan.sources)]:
        if not is_sha256(value):
            raise CorruptError(f"{place}: {name} {value!r}: a SHA-256 is 64 hexadecimal digits, in lower case.")
    if plan.precision not in PRECISIONS:
        raise CorruptError(f"{place}: precision {plan.precision!r}, not one of {', '.join(PRECISIONS)}.")
    if not plan.encoding.known:
        raise CorruptError(f"{place}: unknown encoding {plan.encoding}.")


def _check_numbers(plan: Plan, place: str) -> None:
    if min(plan.n_pairs, plan.vocabulary, plan.positions, plan.topk, plan.passes, plan.shard_pairs) < 1:
        raise CorruptError(f"{place}: a count is below 1.")
    if plan.topk > plan.vocabulary:
        raise CorruptError(f"{place}: {plan.topk} words of a vocabulary of {plan.vocabulary}.")
    if plan.vocabulary > np.iinfo(plan.encoding.ids).max + 1:
        raise CorruptError(f"{place}: {plan.encoding.ids} cannot hold the ids of {plan.vocabulary} words.")
    if plan.maskings < 1 or not 0 <= plan.draws <= DRAWS_MAX or plan.seed < 0:
        raise CorruptError(f"{place}: {plan.maskings} maskings, {plan.draws} draws, seed {plan.seed}.")
    if plan.draws and plan.topk != min(plan.draws, plan.vocabulary):
        raise CorruptError(f"{place}: {plan.draws} draws in {plan.topk} columns.")
    rising = all(low < high for low, high in itertools.pairwise((0.0, *plan.temperatures, math.inf)))
    if not rising or 1.0 in plan.temperatures:
        raise CorruptError(f"{place}: temperatures {plan.temperatures}: they rise, and 1 is not among them.")
    if plan.temperatures and (plan.draws or plan.encoding.log_probs != "float16"):
        raise CorruptError(f"{place}: normalizers belong to the k best words as float16.")


def compare_plans(cache: Path, stored: Plan, given: Plan) -> None:
    """Raise MismatchError that says each field in which two plans differ."""
    differences = [
        (name, old, new)
        for name in (field.name for field in dataclasses.fields(Plan))
        if (old := _shown(stored, name)) != (new := _shown(given, name))
    ]
    if differences:
        words = [
            difference_in_words(
                _WORDS.get(name, spell(name)),
                *(dataclasses.astuple(one) if isinstance(one, Encoding) else one for one in (old, new)),
            )
            for name, old, new in differences
        ]
        remedy = (
            "A cache keeps its plan: repeat the first command exactly, choose another output, or let --overwrite move "
            "this one away."
        )
        field, old, new = differences[0]
        raise MismatchError(str(cache), field, old, new, remedy, "; ".join(words))


def _shown(plan: Plan, name: str) -> Any:
    """A part of a plan, caches by their root hashes."""
    return [source.root for source in plan.sources] if name == "sources" else getattr(plan, name)
