"""Faults while dumping, injected for real: afterwards the cache equals one that was never disturbed."""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_here
from faults import within
from models import all_lines, save_bert, start_cli, terminated_when, toy_lines, toy_text, wait_until, write_text
from safetensors.torch import load_file, save_file

from kdcache.cache.number_encoding import Encoding
from kdcache.cache.reader import CacheReader
from kdcache.cli.dump_logits import dump_logits
from kdcache.dump.dump_config import ENCODINGS, DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import DataError, MismatchError, OutputError, StoppedError
from kdcache.process.signals import stop_on_signals
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.text.corpus import Corpus, TextFiles

PAIRS, SHARD = 1_200, 20


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    """Enough pairs that a process can be caught at work."""
    return toy_text(tmp_path_factory.mktemp("long"), PAIRS)


@pytest.fixture(scope="module")
def undisturbed_in(
    small_teacher: Path, long_text: TextFiles, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The cache that nothing happened to, in an encoding."""

    @functools.cache
    def make(encoding: str) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed") / "cache"
        dump(DumpConfig(str(small_teacher), long_text, shard_pairs=SHARD, device="cpu", encoding=encoding), folder)
        return folder

    return make


@pytest.fixture(scope="module")
def undisturbed(undisturbed_in: Callable[[str], Path]) -> Path:
    """The same in the usual encoding."""
    return undisturbed_in("float16")


def command(teacher: Path, text: TextFiles, cache: Path, encoding: str = "float16") -> list[object]:
    """The dump of `undisturbed_in` as a command line."""
    source, target = text.paths()
    arguments = ["dump-logits", "--teacher", teacher, "--source", source, "--target", target, "--output", cache]
    return [*arguments, "--shard-pairs", SHARD, "--device", "cpu", "--encoding", encoding]


def arrays_of(cache: Path, index: int) -> dict[str, np.ndarray]:
    arrays = CacheReader(cache).shard(index)
    pairs, topk = arrays.pairs, arrays.soft
    return {
        "source_ids": pairs.source_ids,
        "source_offsets": pairs.source_offsets,
        "target_ids": pairs.target_ids,
        "target_offsets": pairs.target_offsets,
        "topk_ids": topk.token_ids,
        "topk_log_probs": topk.log_probs,
        "target_log_prob": arrays.target_log_prob,
    }


def assert_equal_caches(found: Path, expected: Path) -> None:
    """Same plan, same records, same arrays, and nothing else in the shards' folder."""
    assert (found / "plan.json").read_bytes() == (expected / "plan.json").read_bytes()
    assert CacheReader(found).manifest == CacheReader(expected).manifest
    for index in range(CacheReader(expected).plan.n_shards):
        one, other = arrays_of(found, index), arrays_of(expected, index)
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"shard {index}, {name}")
    names = [sorted(path.name for path in (cache / "shards").iterdir()) for cache in (found, expected)]
    assert names[0] == names[1]


def committed(cache: Path) -> int:
    return len(list((cache / "shards").glob("*.json"))) if cache.is_dir() else 0


def kill_at_random(arguments: list[object], cache: Path, generator: random.Random) -> None:
    """Start the command and kill it some shards later, in the middle of whatever it is doing."""
    wanted = committed(cache) + generator.randint(0, 12)
    with start_cli(*arguments) as process:
        assert wait_until(lambda: cache.is_dir() and committed(cache) >= max(1, wanted), process)
        time.sleep(generator.random() * 0.05)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (cache / "manifest.json").exists()


@pytest.mark.parametrize(
    ("encoding", "loop"),
    [
        ("float16", 0),
        *(pytest.param("float16", loop, marks=pytest.mark.full) for loop in range(1, 5)),
        *(pytest.param(one, loop, marks=pytest.mark.full) for one in ENCODINGS[1:] for loop in range(5)),
    ],
)
def test_fault_02_dump_killed_three_times(
    encoding: str,
    loop: int,
    small_teacher: Path,
    long_text: TextFiles,
    undisturbed_in: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """After three kill -9 at random moments the same command gives the undisturbed cache, array for array."""
    cache, generator = tmp_path / f"cache{loop}", random.Random()
    arguments = command(small_teacher, long_text, cache, encoding)
    for _ in range(3):
        kill_at_random(arguments, cache, generator)
    finished = run_here(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert_equal_caches(cache, undisturbed_in(encoding))
    assert "finished" in json.loads((cache / "run.json").read_text())
    assert CacheReader(cache).plan.encoding == Encoding.named(encoding, CacheReader(cache).plan.vocabulary)


def test_fault_19_signals(small_teacher: Path, long_text: TextFiles, undisturbed: Path, tmp_path: Path) -> None:
    """SIGTERM once, or SIGINT twice, ends a dump soon with the shell's code; what is committed stays and is used."""
    cache = tmp_path / "cache"
    for number, times, code in ((signal.SIGTERM, 1, 143), (signal.SIGINT, 2, 130)):
        before = committed(cache)
        with start_cli(*command(small_teacher, long_text, cache)) as process:
            assert wait_until(lambda n=before: cache.is_dir() and committed(cache) > n, process)
            sent = time.monotonic()
            for _ in range(times):
                process.send_signal(number)
                time.sleep(0.02)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == code, errors
        assert time.monotonic() - sent < 30
        assert f"Stopped by {number.name}" in errors
        assert "Traceback" not in errors
        assert before < committed(cache) < PAIRS // SHARD
    dump(DumpConfig(str(small_teacher), long_text, shard_pairs=SHARD, device="cpu"), cache)
    assert_equal_caches(cache, undisturbed)


def work_that_never_looks() -> None:
    """Signal this very process twice, and do not ask whether it was."""
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            time.sleep(0.001)


def test_fault_19_the_second_signal_stops_work_that_never_looks() -> None:
    """The first signal only asks; the second ends work between two of its safe points; then signals are as before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    begun = time.monotonic()
    with within(60), pytest.raises(StoppedError) as caught:
        work_that_never_looks()
    assert caught.value.exit_code == 128 + signal.SIGINT
    assert time.monotonic() - begun < 30
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_fault_14_another_batch_size_on_resume(
    small_teacher: Path, long_text: TextFiles, undisturbed: Path, tmp_path: Path
) -> None:
    """Resumed with another --max-tokens: the same positions, with values inside the noise of float32."""
    cache = tmp_path / "cache"
    config = DumpConfig(str(small_teacher), long_text, shard_pairs=SHARD, device="cpu")
    with terminated_when(lambda: committed(cache) >= 5), pytest.raises(StoppedError):
        dump(config, cache)
    assert 5 <= committed(cache) < PAIRS // SHARD
    dump(replace(config, max_tokens=137), cache)
    differing = 0
    for index in range(PAIRS // SHARD):
        one, other = arrays_of(cache, index), arrays_of(undisturbed, index)
        for name in ("source_ids", "source_offsets", "target_ids", "target_offsets"):
            np.testing.assert_array_equal(one[name], other[name])
        for name in ("topk_log_probs", "target_log_prob"):
            step = np.spacing(np.abs(other[name])).astype(np.float64)
            difference = np.abs(one[name].astype(np.float64) - other[name].astype(np.float64))
            assert (difference <= 1e-4 + step).all()
            differing += int((difference > 0).sum())
        # Places may be exchanged only between words that are equally probable within that bound.
        moved = one["topk_ids"] != other["topk_ids"]
        gaps = np.abs(np.diff(other["topk_log_probs"].astype(np.float64), axis=1))
        near = np.pad(gaps, ((0, 0), (1, 0)), constant_values=9) <= 2e-2
        assert not (moved & ~near & ~np.roll(near, -1, axis=1))[:, :-1].any()
    assert differing < 0.01 * sum(arrays_of(undisturbed, i)["topk_log_probs"].size for i in range(PAIRS // SHARD))


def changed_teacher(teacher: Path, folder: Path) -> Path:
    shutil.copytree(teacher, folder)
    weights = load_file(folder / "model.safetensors")
    weights["cls.predictions.bias"][7] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def changed_tokenizer(teacher: Path, folder: Path) -> Path:
    """The same weights under a tokenizer in which two words have changed places."""
    shutil.copytree(teacher, folder)
    definition = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    return folder


def test_fault_16_resume_with_something_else(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """Another teacher, tokenizer, corpus, k, passes, precision or shard size is refused in words."""
    cache = tmp_path / "cache"
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu")
    with terminated_when(lambda: committed(cache) >= 1), pytest.raises(StoppedError):
        dump(config, cache)
    before = {path: path.read_bytes() for path in (cache / "shards").iterdir()}
    lines = [path.read_text(encoding="utf-8").splitlines() for path in small_text.paths()]
    lines[1][100] += " "
    words = {"corpus": "the text is not that", "teacher": "the teacher is not that", "topk": "--topk was 8 .* now 7"}
    words |= {"tokenizer": "the tokenizer is not", "passes": "--passes was 7", "shard_pairs": "--shard-pairs was 40"}
    for field, changes in {
        "teacher": {"teacher": str(changed_teacher(small_teacher, tmp_path / "retrained"))},
        "tokenizer": {"teacher": str(changed_tokenizer(small_teacher, tmp_path / "retokenized"))},
        "corpus": {"text": write_text(tmp_path, *lines, name="edited")},
        "topk": {"topk": 7},
        "passes": {"passes": 6},
        "precision": {"precision": "bfloat16"},
        "shard_pairs": {"shard_pairs": 41},
    }.items():
        with pytest.raises(MismatchError, match=words.get(field, "--precision was float32")) as caught:
            dump(replace(config, **changes), cache)
        assert caught.value.field == field
        assert caught.value.stored != caught.value.given
    assert {path: path.read_bytes() for path in (cache / "shards").iterdir()} == before
    # Names, batches and paths are not part of what a cache is.
    shutil.copytree(small_teacher, tmp_path / "renamed")
    dump(replace(config, teacher=str(tmp_path / "renamed"), max_tokens=999), cache)
    assert CacheReader(cache).plan.topk == 8


def spoiled_teacher(text: TextFiles, folder: Path, piece: str | None) -> Path:
    """A teacher that computes not-a-number: everywhere, or only in texts with a certain piece."""
    save_bert(folder / "bert", all_lines(text), tie_word_embeddings=False)
    teacher = prepare_teacher(str(folder / "bert"), Corpus(text), trim_vocab=True, seed=1)
    with torch.no_grad():
        if piece is None:
            teacher.model.base_model.encoder.layer[0].output.dense.bias.fill_(float("nan"))
        else:
            row = teacher.tokenizer.backend.token_to_id(piece)
            teacher.model.get_input_embeddings().weight[row] = float("nan")
    teacher.save(folder / "teacher")
    return folder / "teacher"


@pytest.mark.parametrize(("piece", "line"), [(None, 1), ("Q", 8)])
def test_fault_17_not_a_number(piece: str | None, line: int, tmp_path: Path) -> None:
    """A teacher that computes not-a-number is an error that names the line; nothing of that shard is committed."""
    sources, targets = toy_lines("src", 10), toy_lines("tgt", 10)
    sources[7] += " Q"
    text = write_text(tmp_path, sources, targets)
    config = DumpConfig(str(spoiled_teacher(text, tmp_path, piece)), text, shard_pairs=5, device="cpu")
    with pytest.raises(DataError, match=rf", line {line}: the teacher's prediction is not finite"):
        dump(config, tmp_path / "cache")
    assert not (tmp_path / "cache" / "manifest.json").exists()
    names = {path.name for path in (tmp_path / "cache" / "shards").iterdir()}
    assert names == (set() if piece is None else {"00000.h5", "00000.json"})


@pytest.mark.parametrize("shards", [1, 2])
def test_fault_21_the_writer_thread_fails(
    shards: int, small_teacher: Path, long_text: TextFiles, tmp_path: Path
) -> None:
    """A shard that cannot be written ends the dump with the writer's own error; no manifest, no thread, no hang."""
    cache = tmp_path / "cache"
    config = DumpConfig(str(small_teacher), long_text, shard_pairs=PAIRS // shards, device="cpu")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    threads = threading.active_count()
    # Room for the plan and the tokenizer, not for a shard.
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"00000\.h5: cannot be written \([\d,]+ bytes were to be written\)"):
            dump(config, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert threading.active_count() == threads
    assert not (cache / "manifest.json").exists()
    assert list((cache / "shards").iterdir()) == []
    dump(config, cache)
    assert CacheReader(cache).plan.n_shards == shards


@pytest.mark.parametrize(("n_pairs", "shards"), [(1, 1), (5, 1), (10, 2), (11, 3)])
def test_fault_22_sizes_around_a_shard(n_pairs: int, shards: int, small_teacher: Path, tmp_path: Path) -> None:
    """One pair, exactly a shard, and one more than some shards are complete caches; running again changes nothing."""
    config = DumpConfig(str(small_teacher), toy_text(tmp_path, n_pairs), shard_pairs=5, device="cpu")
    dump(config, tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    assert len(reader.records) == shards
    assert sum(record.n_pairs for record in reader.records) == n_pairs
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "shards").iterdir()}
    dump(config, tmp_path / "cache")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "shards").iterdir()} == before


def test_fault_22_empty_corpus(small_teacher: Path, tmp_path: Path) -> None:
    """A corpus without a pair is a clear error, and no cache is begun."""
    config = DumpConfig(str(small_teacher), write_text(tmp_path, [], []), device="cpu")
    with pytest.raises(DataError, match="no pairs; at least one line is needed"):
        dump(config, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_fault_53_targets_unknown_to_the_teacher(small_teacher: Path, tmp_path: Path) -> None:
    """More than 0.1 % unknown targets are refused with both counts; allowed, they are counted in the record."""
    sources, targets = toy_lines("src", 30), toy_lines("tgt", 30)
    targets[20] += " жжж"
    config = DumpConfig(str(small_teacher), write_text(tmp_path, sources, targets), shard_pairs=10, device="cpu")
    with pytest.raises(DataError, match=r"lines 21 to 30: 1 of \d+ targets are unknown.*--max-unknown"):
        dump(config, tmp_path / "cache")
    dump(replace(config, max_unknown=0.02), tmp_path / "cache")
    assert [record.sums.unknown for record in CacheReader(tmp_path / "cache").records] == [0, 0, 1]
    assert {parameter.name: parameter.default for parameter in dump_logits.params}["max_unknown"] == 0.001
