"""The pairs and soft labels that training takes from a cache, and checks that the cache is the right one for it."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.errors import MismatchError, UsageError
from kdcache.losses.objective_config import BUCKETED, ObjectiveConfig, Ramp
from kdcache.text.corpus import Corpus
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.tokenizer import Tokenizer
from kdcache.training.batches import Section

_OTHER_TEXT = "Train on the text that the cache was made from, or dump this text into a cache of its own."


class CacheSections:
    """The shards of a cache as sections; without `soft`, their soft labels are left out.

    Of the normalizers only those at `temperature` are kept, none by default.
    """

    def __init__(self, reader: CacheReader, *, soft: bool, temperature: float | None = None) -> None:
        self._reader, self._soft = reader, soft
        self._column = None if temperature is None else reader.plan.temperatures.index(temperature)

    @property
    def sizes(self) -> list[int]:
        """Pairs in each shard."""
        return [record.n_pairs for record in self._reader.records]

    def read(self, order: Sequence[int], give_up: Callable[[], None]) -> Generator[Section, None, None]:
        """Read and check one shard after the other; those of a remote cache are fetched ahead."""
        with closing(self._reader.read(order, give_up)) as shards:
            for index in order:
                yield self._section(next(shards), index)

    def longest_target(self) -> int:
        """Tokens of the longest target, its end included, in all shards or 16 from everywhere."""
        # More, of a remote cache, would cost a run of few steps too much.
        chosen = np.linspace(0, len(self.sizes) - 1, min(len(self.sizes), 16), dtype=int).tolist()
        return max(int(section.pairs.target_lengths.max()) for section in self.read(chosen, lambda: None))

    def _section(self, arrays: ShardArrays, index: int) -> Section:
        if not self._soft:
            return Section(arrays.pairs)
        stored = arrays.soft.log_normalizers
        # A copy: a view of one column would keep the others in memory.
        kept = None if stored is None or self._column is None else stored[:, [self._column]]
        soft = replace(arrays.soft, log_normalizers=kept)
        return Section(arrays.pairs, soft, np.arange(*self._reader.plan.bounds(index)))


def cache_sections(reader: CacheReader, objective: ObjectiveConfig, resample: float | None = None) -> CacheSections:
    """The shards with what `objective` needs, and what words of the decoder's input are resampled from.

    Raises:
        UsageError: the cache does not hold it.
    """
    check_objective(objective, reader.plan)
    temperature = _tail_temperature(objective)
    return CacheSections(reader, soft=objective.needs_soft_labels or bool(resample), temperature=temperature)


def _tail_temperature(objective: ObjectiveConfig) -> float | None:
    """The temperature other than 1 at which the objective counts the tail, if there is one."""
    if not objective.needs_soft_labels or objective.name not in BUCKETED or isinstance(objective.temperature, Ramp):
        return None
    return None if objective.temperature == 1 else float(objective.temperature)


def check_objective(objective: ObjectiveConfig, plan: Plan) -> None:
    """Raise UsageError unless a cache with this plan holds what `objective` needs."""
    if objective.topk is not None and not 1 <= objective.topk <= plan.topk:
        raise UsageError(f"--topk must be between 1 and the {plan.topk} that the cache holds, not {objective.topk}.")
    if not objective.needs_soft_labels:
        return
    if plan.draws and objective.name != "sampled":
        raise UsageError(
            f"--objective {objective.name}: the cache holds {plan.draws} drawn words a position, and no best ones. Use "
            "--objective sampled, or make a cache without --sample."
        )
    if objective.name == "sampled" and not plan.draws:
        raise UsageError(
            f"--objective sampled: the cache holds the {plan.topk} best words, and no drawn ones. Make one with "
            "dump-logits --sample, or use --objective bucket, which counts the tail too."
        )
    temperature = _tail_temperature(objective)
    if temperature is not None and temperature not in plan.temperatures:
        stored = ", ".join(f"{known:g}" for known in (1.0, *plan.temperatures))
        raise UsageError(
            f"--temperature {temperature:g} with --objective {objective.name}: the mass of the tail is known at "
            f"temperature {stored} only. Choose one of these, make a cache with dump-logits --normalizers "
            f"{temperature:g}, or use --objective chen2020 or hinton."
        )


def check_text(reader: CacheReader, corpus: Corpus) -> None:
    """Compare a text with the words in a cache, pair by pair, as the cache's tokenizer sees them.

    Pairs that the cache skipped are not compared.

    Raises:
        MismatchError: the number of pairs or a pair differs; the message names the first.
        CorruptError: a shard is damaged.
    """
    plan = reader.plan
    if corpus.fingerprint == plan.corpus:
        return
    if corpus.n_pairs != plan.n_pairs:
        raise MismatchError(corpus.name, "number of pairs", plan.n_pairs, corpus.n_pairs, _OTHER_TEXT)
    tokenizer = reader.tokenizer()
    for index in range(plan.n_shards):
        first, stop = plan.bounds(index)
        given, stored = tokenizer.encode_pairs(list(corpus.read(first, stop))), reader.shard(index).pairs
        used = np.flatnonzero(stored.target_lengths > 0)
        different = stored.take(used).first_difference(given.take(used))
        if different is not None:
            row = int(used[different])
            place = f"{corpus.name}, line {first + row + 1}"
            raise MismatchError(
                place, "pair", _text(stored, row, tokenizer), _text(given, row, tokenizer), remedy=_OTHER_TEXT
            )


def _text(pairs: EncodedPairs, row: int, tokenizer: Tokenizer) -> str:
    sides = (pairs.source_ids, pairs.source_offsets), (pairs.target_ids, pairs.target_offsets)
    return " ⇒ ".join(tokenizer.decode(ids[start[row] : start[row + 1]].tolist()) for ids, start in sides)
