"""Digests of an epoch as processes of every kind read it; a program of its own, since it forks."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue

from kdcache.cache.reader import CacheReader, open_cache
from kdcache.files.locations import StoreConfig
from kdcache.training.batches import Section, epoch_order

METHODS, COUNTS = ("fork", "spawn", "forkserver"), (1, 4)


@dataclass
class Shards:
    """The shards of a cache as sections, without the student's side, which takes long to import."""

    reader: CacheReader

    @property
    def sizes(self) -> list[int]:
        return [record.n_pairs for record in self.reader.records]

    def read(self, order: Sequence[int], _give_up: Callable[[], None]) -> Generator[Section, None, None]:
        for index in order:
            arrays = self.reader.shard(index)
            yield Section(arrays.pairs, arrays.soft)


def digest(reader: CacheReader) -> str:
    """Of the order of an epoch and of everything that its pairs hold."""
    found = hashlib.sha256()
    for one in epoch_order(Shards(reader), 400, seed=1, epoch=2):
        pairs, topk = one.window.pairs, one.window.soft
        for array in (one.rows, pairs.source_ids, pairs.target_ids, topk.token_ids, topk.log_probs):
            found.update(array.tobytes())
    return found.hexdigest()


def tell(reader: CacheReader, answers: SimpleQueue[str]) -> None:
    answers.put(digest(reader))


def main(cache: str, store: str = "", *ways: str) -> None:
    """Read the cache at a folder or URL, with copies in the folder `store`, in all `ways`, or in those given."""
    reader = open_cache(cache, StoreConfig(store) if store else None)
    found = {"here": [digest(reader)]}
    for method in METHODS:
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["streams"])
        for count in (one for one in COUNTS if not ways or f"{method} {one}" in ways):
            answers = context.SimpleQueue()
            children = [context.Process(target=tell, args=(reader, answers)) for _ in range(count)]
            for child in children:
                child.start()
            found[f"{method} {count}"] = [answers.get() for _ in children]
            for child in children:
                child.join()
    found["here again"] = [digest(reader)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
