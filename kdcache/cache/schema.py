"""Names, types and sizes of everything in a cache directory.

::

    CACHE/plan.json            Plan          written first, never changed
    CACHE/tokenizer/           the tokenizer's two files
    CACHE/shards/00000.h5      shard 0: pairs 0 … shard_pairs - 1
    CACHE/shards/00000.json    ShardRecord   written after the shard: the commit
    CACHE/manifest.json        Manifest      written when all records are there
    CACHE/held_out.json        HeldOut       the teacher on text that it did not learn from; not in all caches
"""

import math
from typing import Any

import numpy as np

from kdcache.cache.number_encoding import LOG_PROB_DTYPES, NORMALIZER_DTYPE, count_dtype
from kdcache.cache.plan import Plan
from kdcache.errors import CorruptError, UsageError

MANIFEST_FILE = "manifest.json"
HELD_OUT_FILE = "held_out.json"
TOKENIZER_FOLDER = "tokenizer"
SHARDS_FOLDER = "shards"
# One manifest lists all shards, and their names have five digits.
SHARDS_MAX = 100_000

# A shard's file takes at most a little more than its arrays, and its arrays at most RATIO times its file and SLACK:
# bytes that are made to fill the memory are refused. The arrays of an ordinary shard take about twice its file.
RATIO = 16
SLACK = 64 << 20


def shard_name(index: int) -> str:
    """File name of shard `index` inside the shards folder."""
    return f"{index:05d}.h5"


def record_name(index: int) -> str:
    """File name of the commit record of shard `index`."""
    return f"{index:05d}.json"


def datasets(
    plan: Plan, n_pairs: int, n_source: int, n_targets: int
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of every dataset of a shard with these counts."""
    ids = np.dtype(plan.encoding.ids).newbyteorder("<")
    log_probs = LOG_PROB_DTYPES[plan.encoding.log_probs]
    offsets = np.dtype("<i8")
    normalizers = (
        {"log_normalizers": (NORMALIZER_DTYPE, (n_targets, len(plan.temperatures)))} if plan.temperatures else {}
    )
    return {
        "source_ids": (ids, (n_source,)),
        "source_offsets": (offsets, (n_pairs + 1,)),
        "target_ids": (ids, (n_targets,)),
        "target_offsets": (offsets, (n_pairs + 1,)),
        "topk_ids": (ids, (n_targets, plan.topk)),
        values_name(plan): (count_dtype(plan.draws) if plan.draws else log_probs, (n_targets, plan.topk)),
        "target_log_prob": (log_probs, (n_targets,)),
        **normalizers,
    }


def values_name(plan: Plan) -> str:
    """The dataset beside `topk_ids`: how often each word was drawn, or its log-probability."""
    return "counts" if plan.draws else "topk_log_probs"


def check_shards(plan: Plan) -> None:
    """Raise UsageError if the cache would have too many shards."""
    if plan.n_shards > SHARDS_MAX:
        raise UsageError(
            f"--shard-pairs {plan.shard_pairs}: the cache would have {plan.n_shards:,} shards; at most {SHARDS_MAX:,} "
            "are allowed. Choose larger shards."
        )


def check_counts(plan: Plan, index: int, n_source: int, n_targets: int, size: int, place: str) -> None:
    """Raise CorruptError unless shard `index` may hold that many tokens in a file of `size` bytes."""
    first, stop = plan.bounds(index)
    most = (stop - first) * plan.positions
    if not (0 <= n_source <= most and 0 <= n_targets <= most):
        raise CorruptError(f"{place}: {n_source} source and {n_targets} target tokens; the plan allows {most} of each.")
    arrays = _array_bytes(plan, stop - first, n_source, n_targets)
    if not least_bytes(plan, index, n_source, n_targets) <= size <= _most_stored(arrays):
        raise CorruptError(f"{place}: {size:,} bytes cannot be a shard whose arrays take {arrays:,} bytes.")


def least_bytes(plan: Plan, index: int, n_source: int, n_targets: int) -> int:
    """No file of shard `index` with that many tokens is smaller.

    Honest arrays may compress to less: a sure teacher draws one word, and all other columns are zeros. The writer then
    leaves some of them uncompressed.
    """
    first, stop = plan.bounds(index)
    return max(1, -(-(_array_bytes(plan, stop - first, n_source, n_targets) - SLACK) // RATIO))


def most_bytes(plan: Plan, index: int) -> int:
    """No file of shard `index` is larger."""
    first, stop = plan.bounds(index)
    most = (stop - first) * plan.positions
    return _most_stored(_array_bytes(plan, stop - first, most, most))


def _most_stored(array_bytes: int) -> int:
    return array_bytes + array_bytes // 16 + SLACK


def _array_bytes(plan: Plan, n_pairs: int, n_source: int, n_targets: int) -> int:
    expected = datasets(plan, n_pairs, n_source, n_targets).values()
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in expected)
