"""A cache as Parquet: one file for each shard, one row for each pair, readable without kdcache and HDF5."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache.plan import Plan
from kdcache.cache.reader import open_cache
from kdcache.cache.shard import ShardArrays
from kdcache.console.progress import Progress
from kdcache.export.export_config import ExportConfig, needed
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import folder_run, log
from kdcache.files.strict_json import canonical_json
from kdcache.text.tokenizer import Tokenizer


def export_parquet(config: ExportConfig, output: Path) -> None:
    """Write `NNNNN.parquet` for each shard; run again, it continues with those that are missing.

    The columns are pair (int64, from 0), source and target (strings, as the tokenizer decodes them), source_ids and
    target_ids (lists of uint32), target_log_probs (list of float32: of the written words), topk_ids and topk_log_probs
    (lists of k uint32 and float32, one for each target token), and log_normalizers where the cache has them. Skipped
    pairs have empty lists. The plan of the cache stands in the file's metadata below "kdcache".

    Raises:
        UsageError: pyarrow is not installed.
        CacheError: the cache cannot be opened, or is damaged.
        MismatchError: `output` was made with other settings.
        OutputError: `output` cannot be written.
    """
    config.check()
    parquet = needed("pyarrow.parquet", "parquet")
    reader = open_cache(config.source)
    run = folder_run(output, "export", config, {"cache": reader.manifest.root})
    missing = [i for i in range(reader.plan.n_shards) if not _file(output, i).exists()]
    if run.finished and not missing:
        log.info("%s: was made by the same command; nothing to do.", output)
        return
    tokenizer = reader.tokenizer()
    with Progress("exporting", len(missing), "shards") as progress:
        for index, shard in zip(missing, reader.read(missing), strict=True):
            data = io.BytesIO()
            parquet.write_table(_table(shard, reader.plan, index, tokenizer), data, compression="zstd")
            replace_file(_file(output, index), data.getvalue())
            progress.advance(1)
    run.finish({"shards": reader.plan.n_shards, "pairs": reader.plan.n_pairs, "targets": reader.n_targets})
    log.info("%s: %s pairs, %s targets.", output, f"{reader.plan.n_pairs:,}", f"{reader.n_targets:,}")


def _file(output: Path, index: int) -> Path:
    return output / f"{index:05d}.parquet"


def _table(shard: ShardArrays, plan: Plan, index: int, tokenizer: Tokenizer) -> Any:
    import pyarrow

    pairs, soft = shard.pairs, shard.soft

    def rows(values: Any, offsets: Any) -> Any:
        return pyarrow.LargeListArray.from_arrays(pyarrow.array(offsets.astype(np.int64)), values)

    def words(array: Any, dtype: Any) -> Any:
        flat = pyarrow.array(np.ascontiguousarray(array, dtype=dtype).reshape(-1))
        return rows(pyarrow.FixedSizeListArray.from_arrays(flat, array.shape[1]), pairs.target_offsets)

    def tokens(array: Any, offsets: Any, dtype: Any) -> Any:
        return rows(pyarrow.array(array.astype(dtype)), offsets)

    columns = {
        "pair": pyarrow.array(np.arange(*plan.bounds(index), dtype=np.int64)),
        "source": _texts(tokenizer, pairs.source_ids, pairs.source_offsets),
        "target": _texts(tokenizer, pairs.target_ids, pairs.target_offsets),
        "source_ids": tokens(pairs.source_ids, pairs.source_offsets, np.uint32),
        "target_ids": tokens(pairs.target_ids, pairs.target_offsets, np.uint32),
        "target_log_probs": tokens(shard.target_log_prob, pairs.target_offsets, np.float32),
        "topk_ids": words(soft.token_ids, np.uint32),
        "topk_log_probs": words(soft.log_probs, np.float32),
    }
    if soft.log_normalizers is not None:
        columns["log_normalizers"] = words(soft.log_normalizers, np.float32)
    return pyarrow.table(columns, metadata={"kdcache": canonical_json(dataclasses.asdict(plan))})


def _texts(tokenizer: Tokenizer, ids: Any, offsets: Any) -> list[str]:
    texts = tokenizer.backend.decode_batch([part.tolist() for part in np.split(ids, offsets[1:-1])])
    return [str(text) for text in texts]
