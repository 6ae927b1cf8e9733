"""A cache of several teachers: each labels what it did not see, and nothing else about the cache differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from models import terminated_when, toy_text
from safetensors.numpy import load_file, save_file

from kdcache.cache.derived.derive_config import TranscodeConfig
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.dump.dump_config import Distributions, DumpConfig, VerifyConfig
from kdcache.dump.dump_forecast import forecast
from kdcache.dump.dump_job import prepare
from kdcache.dump.dump_shards import dump, dump_job
from kdcache.dump.verification import verify
from kdcache.errors import KDCacheError, MismatchError, StoppedError
from kdcache.process.ranks import Process
from kdcache.teacher.folds import folds_of
from kdcache.teacher.masked_lm import Teacher
from kdcache.text.corpus import Corpus, TextFiles

K = 3


def claim(folder: Path, number: int, count: int, text: TextFiles) -> None:
    """Write that a teacher left out this fold of a text."""
    record = {"config": {"fold": [number, count]}, "inputs": {"text": Corpus(text).fingerprint}}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def teachers(small_teacher: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of K teachers that differ, each of which says that it left out another fold."""
    folder = tmp_path_factory.mktemp("folds")
    for number in range(1, K + 1):
        one = shutil.copytree(small_teacher, folder / f"fold-{number}")
        tensors = load_file(one / "model.safetensors")
        tensors["cls.predictions.bias"] += (
            np.random.default_rng(number).normal(size=tensors["cls.predictions.bias"].shape).astype(np.float32)
        )
        save_file(tensors, one / "model.safetensors", {"format": "pt"})
        claim(one, number, K, small_text)
    return folder


@pytest.fixture
def config(teachers: Path, small_text: TextFiles) -> DumpConfig:
    return DumpConfig(str(teachers), small_text, shard_pairs=40, device="cpu")


def shards(cache: Path) -> list[ShardArrays]:
    reader = CacheReader(cache)
    return [reader.shard(index) for index in range(reader.plan.n_shards)]


def without_record(teacher: Path, folder: Path) -> Path:
    """A copy of a teacher that nobody says left anything out."""
    return Path(shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("run.json")))


@pytest.mark.parametrize(
    "distributions",
    [Distributions(), Distributions(maskings=2), Distributions(sample=12), Distributions(normalizers=(2.0,))],
)
def test_each_pair_has_the_labels_of_the_teacher_that_did_not_see_it(
    distributions: Distributions, config: DumpConfig, teachers: Path, tmp_path: Path
) -> None:
    """In every shard, the rows of fold i are those that teacher i alone gives to the whole text, and of no other."""
    config = replace(config, distributions=distributions)
    dump(config, tmp_path / "cache")
    alone = []
    for number in range(1, K + 1):
        one = without_record(teachers / f"fold-{number}", tmp_path / f"{number}")
        dump(replace(config, teacher=str(one)), tmp_path / f"cache-{number}")
        alone.append(shards(tmp_path / f"cache-{number}"))
    labelled = dict.fromkeys(range(1, K + 1), 0)
    for index, found in enumerate(shards(tmp_path / "cache")):
        owner = np.repeat(folds_of(found.pairs, K), found.pairs.target_lengths)
        for number in range(1, K + 1):
            rows = owner == number
            for other in range(1, K + 1):
                expected = alone[other - 1][index]
                same = (found.soft.token_ids == expected.soft.token_ids)[rows].all(axis=1)
                near = np.abs(found.target_log_prob - expected.target_log_prob)[rows] < 0.01
                # Beside other views, a draw or the order of near ties may differ.
                assert (same.mean() > 0.97 and near.all()) if other == number else (same.mean() < 0.5)
                if other == number and found.soft.log_normalizers is not None:
                    assert expected.soft.log_normalizers is not None
                    gaps = np.abs(found.soft.log_normalizers - expected.soft.log_normalizers)[rows]
                    assert gaps.max() < 1e-3
            labelled[number] += int(rows.sum())
    assert min(labelled.values()) > 100
    assert sum(labelled.values()) == CacheReader(tmp_path / "cache").n_targets


def test_the_plan_names_all_teachers_in_the_order_of_their_folds(
    config: DumpConfig, teachers: Path, tmp_path: Path
) -> None:
    """The folder of all, and each by itself in any order, make one and the same cache, byte for byte."""
    dump(config, tmp_path / "folder")
    dump(replace(config, teacher=tuple(str(teachers / f"fold-{i}") for i in (3, 1, 2))), tmp_path / "singly")
    plan = CacheReader(tmp_path / "folder").plan
    assert plan.teachers == [Teacher.load(teachers / f"fold-{i}").fingerprint() for i in (1, 2, 3)]
    assert CacheReader(tmp_path / "singly").manifest == CacheReader(tmp_path / "folder").manifest
    done = run_here("inspect", tmp_path / "folder")
    assert "dump-logits, with 3 teachers" in done.stdout
    assert "On the pairs that they label and did not see, the teachers have a loss of" in done.stdout


def test_processes_and_interruptions_leave_the_bytes_of_one_run(
    config: DumpConfig, teachers: Path, tmp_path: Path
) -> None:
    """Stopped and resumed, or shared by two processes, the cache of several teachers is that of one run."""
    dump(config, tmp_path / "one")
    expected = CacheReader(tmp_path / "one").manifest
    with terminated_when(lambda: any((tmp_path / "stopped").glob("shards/*.json"))), pytest.raises(StoppedError):
        dump(config, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    dump(config, tmp_path / "stopped")
    for rank in (1, 0):
        dump_job(prepare(config), tmp_path / "two", Process(rank, 2, rank))
    assert [CacheReader(tmp_path / name).manifest for name in ("stopped", "two")] == [expected, expected]
    # One teacher in the place of all is another plan.
    alone = without_record(teachers / "fold-1", tmp_path / "alone")
    with pytest.raises(MismatchError, match="teacher"):
        dump(replace(config, teacher=str(alone)), tmp_path / "one")


def test_labelled_pairs_are_held_out_text(config: DumpConfig, tmp_path: Path) -> None:
    """Nothing else given, the figure of the cache is that of its own pairs, also when it was made from the cache."""
    dump(config, tmp_path / "cache")
    transcode(TranscodeConfig(str(tmp_path / "cache"), topk=2), tmp_path / "small")
    arrays = shards(tmp_path / "cache")
    loss = -np.concatenate([one.target_log_prob for one in arrays]).astype(np.float64).mean()
    right = np.concatenate([one.soft.token_ids[:, 0] == one.pairs.target_ids for one in arrays]).mean()
    for name in ("cache", "small"):
        figures = CacheReader(tmp_path / name).teacher_figures()
        assert figures.held_out is not None
        assert figures.held_out.loss == pytest.approx(loss)
        assert figures.held_out.accuracy == pytest.approx(right)
        assert figures.held_out.text == Corpus(config.text).fingerprint
    other = replace(config, valid=toy_text(tmp_path, 9, first=900))
    dump(other, tmp_path / "cache")
    found = CacheReader(tmp_path / "cache").teacher_figures().held_out
    assert found is not None
    assert other.valid is not None
    assert found.text == Corpus(other.valid).fingerprint
    assert forecast(config).shards == 4


def test_verify_knows_which_teacher_labelled_what(
    config: DumpConfig, teachers: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """The teachers of the folds say what the cache says; two that claim each other's folds are refused."""
    dump(config, tmp_path / "cache")
    asked = VerifyConfig(str(tmp_path / "cache"), str(teachers), sample=60, device="cpu")
    assert verify(asked).sound
    mixed = shutil.copytree(teachers, tmp_path / "mixed")
    claim(mixed / "fold-1", 2, K, small_text)
    claim(mixed / "fold-2", 1, K, small_text)
    with pytest.raises(MismatchError, match="Give the teacher that the cache was made with"):
        verify(replace(asked, teacher=str(mixed)))
    with pytest.raises(MismatchError, match="teacher"):
        dump(replace(config, teacher=str(mixed)), tmp_path / "cache")


def _other_tokenizer(folder: Path) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(definition))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder, text: shutil.rmtree(folder / "fold-2"), "folds 1/3, 3/3 are given. Give those of 1/K to K/K"),
        (lambda folder, text: claim(folder / "fold-2", 1, K, text), "folds 1/3, 1/3, 3/3 are given"),
        (lambda folder, text: claim(folder / "fold-2", 2, 4, text), "folds 1/3, 2/4, 3/3 are given"),
        (lambda folder, text: (folder / "fold-2" / "run.json").unlink(), "no run.json says which fold"),
        (
            lambda folder, text: claim(folder / "fold-2", 2, K, toy_text(folder, 5, name="other")),
            "Each of several teachers labels its fold of their own text",
        ),
        (lambda folder, text: _other_tokenizer(folder / "fold-2"), "tokenizer"),
        (lambda folder, text: [shutil.rmtree(folder / f"fold-{i}") for i in (2, 3)], "the folds 1/3 are given"),
    ],
)
def test_teachers_that_do_not_fit_together_are_refused(
    spoil: Callable[[Path, TextFiles], object],
    words: str,
    config: DumpConfig,
    teachers: Path,
    small_text: TextFiles,
    tmp_path: Path,
) -> None:
    """A fold that is missing, given twice or of another number, another text or tokenizer: nothing is written."""
    spoil(Path(shutil.copytree(teachers, tmp_path / "spoiled")), small_text)
    with pytest.raises(KDCacheError, match=words):
        dump(replace(config, teacher=str(tmp_path / "spoiled")), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_fold_teacher_labels_other_text_alone(config: DumpConfig, teachers: Path, tmp_path: Path) -> None:
    """On text that is not its own, a teacher that left out a fold is a teacher like any other."""
    text = toy_text(tmp_path, 6)
    dump(replace(config, teacher=str(teachers / "fold-2"), text=text), tmp_path / "cache")
    assert len(CacheReader(tmp_path / "cache").plan.teachers) == 1
