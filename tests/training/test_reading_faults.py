"""Shards that disappear while a student is trained from them."""

import threading
from pathlib import Path

import pytest
from faults import within
from fixtures_models import CACHE_SHARD
from loops import Trainer
from models import same_parameters, start_cli, wait_until

from kdcache.errors import CorruptError
from kdcache.training import batches


@pytest.mark.parametrize("number", [0, 3])
def test_fault_29_shard_deleted_in_the_middle_of_an_epoch(
    number: int, trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training ends soon with an error that names the shard; with the shard back it gives the undisturbed student."""
    monkeypatch.setattr(batches, "WINDOW_PAIRS", CACHE_SHARD)
    _, expected = trainer.run(tmp_path / "undisturbed")
    shard, away = Path(trainer.config.cache) / "shards" / f"0000{number}.h5", tmp_path / "away.h5"
    threads = threading.active_count()
    try:
        with within(60), pytest.raises(CorruptError, match=rf"0000{number}\.h5: missing"):
            trainer.run(tmp_path / "student", {2: lambda: shard.rename(away)})
    finally:
        away.rename(shard)
    assert threading.active_count() == threads
    _, found = trainer.run(tmp_path / "student")
    assert same_parameters(found, expected)


@pytest.mark.full
def test_fault_29_shard_deleted_under_a_process(small_cache: Path, tmp_path: Path) -> None:
    """`student-train` whose cache loses a shard between two epochs ends with exit code 1 and the shard's name."""
    shard, away, output = small_cache / "shards" / "00002.h5", tmp_path / "away.h5", tmp_path / "student"
    sizes = ["--size", "tiny", "--max-tokens", "1000", "--epochs", "10000", "--device", "cpu"]
    try:
        with start_cli("student-train", "--cache", small_cache, "--output", output, *sizes) as process:
            assert wait_until((output / "metrics.jsonl").exists, process)
            shard.rename(away)
            _, errors = process.communicate(timeout=120)
    finally:
        away.rename(shard)
    assert process.returncode == 1
    assert "00002.h5: missing" in errors
    assert "Traceback" not in errors
