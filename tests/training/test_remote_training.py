"""A student that is trained from a URL is the one that is trained from the folder."""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults import within
from fixtures_models import CACHE_SHARD
from loops import Trainer, metrics, terminate
from models import same_parameters
from remote import Server, serve

from kdcache.cache import remote as remote_files
from kdcache.cache.derived.derive_config import TranscodeConfig
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.reader import CacheReader
from kdcache.errors import CacheError, MismatchError, StoppedError
from kdcache.files.locations import StoreConfig
from kdcache.student.train_student import train_student
from kdcache.training import batches

SECRET = "s3cr3t"  # noqa: S105


@pytest.fixture
def server(small_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the small cache, which is read one shard at a time and asked again at once."""
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(batches, "WINDOW_PAIRS", CACHE_SHARD)
    with serve(small_cache) as running:
        yield running


@pytest.fixture
def remote(trainer: Trainer, server: Server, tmp_path: Path) -> Trainer:
    """The trainer with the cache at a URL, and room for the copy of one shard."""
    limit = max(record.bytes for record in CacheReader(Path(trainer.config.cache)).records)
    store = StoreConfig(str(tmp_path / "store"), limit)
    return Trainer(replace(trainer.config, cache=server.url, store=store), trainer.group)


def test_the_student_is_the_same(remote: Trainer, trainer: Trainer, server: Server, tmp_path: Path) -> None:
    """Trained through a bad connection it has the same bits, losses and inputs, and both runs are one to continue."""
    for number in range(4):
        server.faults[f"shards/0000{number}.h5"] = ["truncated", "", ("503", "flipped")[number % 2]]
    train_student(trainer.config, tmp_path / "local")
    train_student(remote.config, tmp_path / "remote")
    local, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("local", "remote"))
    assert other["inputs"] == local["inputs"]
    assert other["config"]["cache"] == server.url
    assert metrics(tmp_path / "remote") == metrics(tmp_path / "local")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("local", "remote")]
    assert weights[0] == weights[1]
    # Finished, wherever the same cache lies.
    train_student(remote.config, tmp_path / "local")
    train_student(trainer.config, tmp_path / "remote")
    assert not [one for one in threading.enumerate() if one.name.startswith("kdcache-")]


def test_another_cache_at_the_same_place(remote: Trainer, server: Server, small_cache: Path, tmp_path: Path) -> None:
    """A run is not continued where another cache of the same text has taken the place of its own, at the same URL."""
    config = replace(remote.config, training=replace(remote.config.training, epochs=None, max_steps=1))
    train_student(config, tmp_path / "student")
    before = (tmp_path / "student" / "run.json").read_bytes()
    assert transcode(TranscodeConfig(str(small_cache), topk=3), tmp_path / "other") is not None
    server.folder = tmp_path / "other"
    with pytest.raises(MismatchError, match="the cache is not that of the first time") as caught:
        train_student(config, tmp_path / "student")
    roots = [CacheReader(cache).manifest.root for cache in (small_cache, tmp_path / "other")]
    assert [caught.value.stored, caught.value.given] == roots
    assert (tmp_path / "student" / "run.json").read_bytes() == before
    server.folder = small_cache
    train_student(config, tmp_path / "student")


def test_a_run_moves_between_places(remote: Trainer, trainer: Trainer, tmp_path: Path) -> None:
    """Begun from the folder, interrupted, and continued from the URL, training gives the undisturbed student."""
    _, expected = trainer.run(tmp_path / "undisturbed")
    with pytest.raises(StoppedError):
        trainer.run(tmp_path / "student", {3: terminate})
    _, found = remote.run(tmp_path / "student")
    assert same_parameters(found, expected)


def test_fault_32_stopping_while_a_server_is_silent(
    remote: Trainer, trainer: Trainer, server: Server, tmp_path: Path
) -> None:
    """SIGTERM ends a training that waits for a shard soon, with its state saved; then it ends as if undisturbed."""
    _, expected = trainer.run(tmp_path / "undisturbed")

    def fall_silent() -> None:
        server.always = {f"shards/0000{number}.h5": "silent" for number in range(4)}
        threading.Timer(4.0, terminate).start()

    with within(30), pytest.raises(StoppedError):
        remote.run(tmp_path / "student", {2: fall_silent})
    steps = [line["step"] for line in metrics(tmp_path / "student")]
    assert steps
    server.always = {}
    server.released.set()
    _, found = remote.run(tmp_path / "student")
    assert same_parameters(found, expected)
    assert metrics(tmp_path / "student") == metrics(tmp_path / "undisturbed")


def test_fault_32_stopping_before_the_first_step(remote: Trainer, server: Server, tmp_path: Path) -> None:
    """SIGTERM is obeyed too while the steps of an epoch are counted."""
    server.always["shards/00000.h5"] = "silent"
    threading.Timer(2.0, terminate).start()
    with within(30), pytest.raises(StoppedError):
        remote.run(tmp_path / "student")
    server.released.set()


def test_fault_32_server_that_goes_away(remote: Trainer, trainer: Trainer, server: Server, tmp_path: Path) -> None:
    """A server that fails for good ends training with an error naming the URL; when it is back, training goes on."""
    _, expected = trainer.run(tmp_path / "undisturbed")

    def fail() -> None:
        server.always = {f"shards/0000{number}.h5": "503" for number in range(4)}

    with within(60), pytest.raises(CacheError, match=rf"{server.url}/shards/0000\d\.h5: not fetched in 3 attempts"):
        remote.run(tmp_path / "student", {2: fail})
    assert not [one for one in threading.enumerate() if one.name.startswith("kdcache-")]
    server.always = {}
    _, found = remote.run(tmp_path / "student")
    assert same_parameters(found, expected)


def test_secrets_of_a_url_are_not_recorded(
    remote: Trainer,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither run.json nor the log of a run has the query of the URL that the command was given."""
    server.sign = f"sig={SECRET}"
    url = f"{server.url}?{server.sign}"
    monkeypatch.setattr(sys, "argv", ["kdcache", "student-train", f"--cache={url}", "--cache", url])
    caplog.set_level(logging.DEBUG, "kdcache")
    server.faults["shards/00001.h5"] = ["503"]
    training = replace(remote.config.training, epochs=None, max_steps=1)
    train_student(replace(remote.config, cache=url, training=training), tmp_path / "student")
    texts = [path.read_text() for path in (tmp_path / "student").glob("*.[jl]*") if path.suffix in (".json", ".log")]
    assert sum("/cache?…" in text for text in texts) == 2
    assert not [text for text in texts if SECRET in text]
