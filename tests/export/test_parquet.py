"""A cache as Parquet holds what the cache holds, for readers that know neither kdcache nor HDF5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
from conftest import run_here

from kdcache.cache.reader import open_cache


def test_every_value_of_a_cache_is_in_the_tables(shown_cache: Path, tmp_path: Path) -> None:
    """PyArrow reads, pair by pair, the ids and log-probabilities that the reader of caches gives."""
    done = run_here("export", shown_cache, tmp_path / "tables", "--format", "parquet")
    assert done.returncode == 0, done.stderr
    reader = open_cache(str(shown_cache))
    tokenizer = reader.tokenizer()
    n_skipped = 0
    for index in range(reader.plan.n_shards):
        table = pyarrow.parquet.read_table(tmp_path / "tables" / f"{index:05d}.parquet")
        assert json.loads(table.schema.metadata[b"kdcache"])["corpus"] == reader.plan.corpus
        shard = reader.shard(index)
        pairs, first = shard.pairs, reader.plan.bounds(index)[0]
        for i, row in enumerate(table.to_pylist()):
            source = slice(*pairs.source_offsets[i : i + 2])
            target = slice(*pairs.target_offsets[i : i + 2])
            assert row["pair"] == first + i
            assert row["source"] == tokenizer.decode(pairs.source_ids[source])
            assert row["source_ids"] == pairs.source_ids[source].tolist()
            assert row["target_ids"] == pairs.target_ids[target].tolist()
            assert row["topk_ids"] == shard.soft.token_ids[target].tolist()
            assert row["topk_log_probs"] == shard.soft.log_probs[target].astype(np.float32).tolist()
            assert row["target_log_probs"] == shard.target_log_prob[target].astype(np.float32).tolist()
            n_skipped += not row["target_ids"]
    assert n_skipped > 0


def test_an_interrupted_export_continues(shown_cache: Path, tmp_path: Path) -> None:
    """Only missing files are written again, with the same bytes."""
    command = ("export", shown_cache, tmp_path / "tables", "--format", "parquet")
    assert run_here(*command).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "tables").glob("*.parquet")}
    kept, gone = (tmp_path / "tables" / f"{i:05d}.parquet" for i in (0, 1))
    gone.unlink()
    time = kept.stat().st_mtime_ns
    assert run_here(*command).returncode == 0
    assert gone.read_bytes() == before[gone.name]
    assert kept.stat().st_mtime_ns == time
    assert "nothing to do" in run_here(*command).stderr


def test_options_of_students_are_refused_for_caches(shown_cache: Path, tmp_path: Path) -> None:
    """--quantization would change nothing in a table, so it is refused."""
    done = run_here("export", shown_cache, tmp_path / "o", "--format", "parquet", "--quantization", "int8")
    assert done.returncode == 2
    assert "belong to --format ctranslate2" in done.stderr
