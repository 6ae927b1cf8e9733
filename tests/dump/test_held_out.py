"""What a cache says of its teacher on held-out text: measured as by the library alone, carried on, and used."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from models import slow_distributions, toy_pairs, toy_text

from kdcache.cache.cache_files import FolderFiles
from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.reader import CacheReader
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import prepare
from kdcache.dump.dump_shards import dump, dump_job
from kdcache.labels.verdict import HeldOut
from kdcache.process.ranks import Process
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text.corpus import Corpus, TextFiles

KNOWN = HeldOut(1.0, 0.75, 12, "a" * 64)


@pytest.fixture
def config(small_teacher: Path, tmp_path: Path) -> DumpConfig:
    """A cache of 12 pairs in three shards, whose teacher is measured on 6 others."""
    text = toy_text(tmp_path, 12, name="few")
    return DumpConfig(
        str(small_teacher), text, shard_pairs=4, device="cpu", valid=toy_text(tmp_path, 6, first=20, name="other")
    )


def stored(cache: Path) -> HeldOut | None:
    return FolderFiles(cache).held_out()


def test_the_teacher_is_measured_as_the_library_answers(
    config: DumpConfig, small_teacher: Path, tmp_path: Path
) -> None:
    """Loss and share of right words are those of a slow loop over each position of the text that was given."""
    dump(config, tmp_path / "cache")
    targets, rows = slow_distributions(small_teacher, toy_pairs(6, first=20), config.passes)
    words = np.array([word for ids in targets for word in ids])
    found = stored(tmp_path / "cache")
    assert config.valid is not None
    assert found is not None
    assert found.loss == pytest.approx(-rows[np.arange(len(words)), words].mean(), abs=1e-5)
    assert found.accuracy == (rows.argmax(axis=1) == words).mean()
    assert (found.targets, found.text) == (len(words), Corpus(config.valid).fingerprint)


def test_a_teachers_own_figures_go_into_its_caches(
    teacher_config: TeacherConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What teacher-train measured last stands in its run.json, and in the cache where no other text is given.

    A teacher of few steps is called poor by both.
    """
    train_teacher(teacher_config, tmp_path / "teacher")
    assert caplog.text.count("A poor teacher") == 1
    result = json.loads((tmp_path / "teacher" / "run.json").read_text())["result"]
    assert teacher_config.valid is not None
    assert result["held_out"]["text"] == Corpus(teacher_config.valid).fingerprint
    assert result["held_out"]["loss"] == result["valid_nll"]
    dump(DumpConfig(str(tmp_path / "teacher"), teacher_config.text, device="cpu"), tmp_path / "cache")
    found = stored(tmp_path / "cache")
    assert found is not None
    assert asdict(found) == result["held_out"]
    assert caplog.text.count("A poor teacher") == 2


def test_processes_and_resumed_dumps_give_one_figure(config: DumpConfig, tmp_path: Path) -> None:
    """Two processes, in either order, and a command that is run again leave the bytes of one process."""
    dump(config, tmp_path / "one")
    expected = (tmp_path / "one" / "held_out.json").read_bytes()
    for name, ranks in (("two", (0, 1)), ("reverse", (1, 0))):
        for rank in ranks:
            dump_job(prepare(config), tmp_path / name, Process(rank, 2, rank))
        assert (tmp_path / name / "held_out.json").read_bytes() == expected
    dump(replace(config, valid=None), tmp_path / "one")
    assert (tmp_path / "one" / "held_out.json").read_bytes() == expected


def test_a_complete_cache_gets_the_figure_and_keeps_its_content(config: DumpConfig, tmp_path: Path) -> None:
    """A cache without the figure opens, and the command with a text to measure on adds it without a new shard."""
    cache = tmp_path / "cache"
    dump(replace(config, valid=None), cache)
    assert stored(cache) is None
    before = CacheReader(cache).manifest
    dump(config, cache)
    assert stored(cache) is not None
    assert CacheReader(cache).manifest == before


def test_derived_caches_carry_the_figure_where_it_stays_true(config: DumpConfig, tmp_path: Path) -> None:
    """A transcoded cache has it, an average of one teacher's caches too, and none where they say different things."""
    one, two = tmp_path / "one", tmp_path / "two"
    dump(config, one)
    dump(replace(config, passes=3, valid=None), two)
    transcode(TranscodeConfig(str(one), topk=2), tmp_path / "small")
    assert stored(tmp_path / "small") == stored(one)
    merge(MergeConfig((str(one), str(two))), tmp_path / "unlike")
    assert stored(tmp_path / "unlike") is None
    shutil.copy(one / "held_out.json", two)
    merge(MergeConfig((str(one), str(two))), tmp_path / "alike")
    assert stored(tmp_path / "alike") == stored(one)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"loss": 1}', *(json.dumps(asdict(KNOWN) | bad) for bad in ({"accuracy": 2.0}, {"text": "x"}))],
)
def test_damaged_figures_count_as_unknown(small_cache: Path, tmp_path: Path, content: str) -> None:
    """Figures that no teacher can have say nothing, and the cache opens."""
    shutil.copytree(small_cache, tmp_path / "cache")
    (tmp_path / "cache" / "held_out.json").write_text(content)
    assert CacheReader(tmp_path / "cache").teacher_figures().held_out is None


def test_fault_62_text_that_the_teacher_does_not_know_is_said_once(
    small_teacher: Path, small_text: TextFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A teacher that is right on its validation text and wrong here is said, at once, not to know the text."""
    teacher = shutil.copytree(small_teacher, tmp_path / "teacher")
    figures = {"held_out": asdict(replace(KNOWN, loss=0.5))}
    (teacher / "run.json").write_text(json.dumps({"command": "teacher-train", "finished": "now", "result": figures}))
    dump(DumpConfig(str(teacher), small_text, shard_pairs=75, device="cpu"), tmp_path / "cache")
    assert caplog.text.count("The teacher does not know this text") == 1
    # Said of 64 pairs, and of all pairs by whoever looks at the cache.
    (warning,) = CacheReader(tmp_path / "cache").teacher_figures().warnings()
    assert "on held-out text 0.50" in warning


BEHIND, POOR = "The labels are ", "A poor teacher: it gets 30 % of the held-out words right"


@pytest.mark.parametrize(
    ("accuracy", "alpha", "warned", "said"),
    [
        (0.75, 0.5, [BEHIND], "nats behind the student"),
        (0.3, 0.5, [POOR, BEHIND], "nats behind the student"),
        (0.3, 1.0, [], ""),
        (None, 0.5, [], "Nothing says how the teacher does on held-out text"),
    ],
)
def test_fault_62_a_poor_teacher_is_said_before_the_hours_and_once_more(
    small_cache: Path,
    small_valid: TextFiles,
    tmp_path: Path,
    accuracy: float | None,
    alpha: float,
    warned: list[str],
    said: str,
) -> None:
    """student-train warns at its start and at one validation of two, and ends with d; without labels it is silent."""
    cache = shutil.copytree(small_cache, tmp_path / "cache")
    # Worse than the student after its first steps.
    loss = CacheReader(cache).teacher_figures().loss + 1
    if accuracy is not None:
        figures = replace(KNOWN, loss=loss, accuracy=accuracy)
        (cache / "held_out.json").write_text(json.dumps(asdict(figures)))
    valid = ["--valid-source", small_valid.source, "--valid-target", small_valid.target]
    steps = ["--max-steps", 4, "--valid-every", 2, "--alpha", alpha, "--device", "cpu"]
    done = run_here("student-train", "--cache", cache, *valid, *steps, "--output", tmp_path / "student")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    warnings = [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]
    assert [line[: len(head)] for line, head in zip(warnings, warned, strict=True)] == warned
    assert said in done.stderr
    result = json.loads((tmp_path / "student" / "run.json").read_text())["result"]
    if alpha == 1 or accuracy is None:
        assert result["labels"] is None
        assert BEHIND not in done.stderr
    else:
        assert result["labels"]["ahead"] == result["averaged_valid_nll"] - loss
        assert (result["labels"]["verdict"], result["labels"]["same_text"]) == ("cost", False)
        assert lines[-3].startswith(BEHIND)
