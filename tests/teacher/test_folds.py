"""Folds of a text: which pairs belong together, and that a teacher learns nothing from the pairs it leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from models import save_bert, toy_lines, write_text

from kdcache.errors import MismatchError, OutputError
from kdcache.files.strict_json import read_json
from kdcache.labels.counter_random import FOLDS, keys
from kdcache.teacher.folds import folds_of
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.prepare_teacher import open_tokenizer
from kdcache.teacher.teacher_config import SCRATCH, TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text import ragged
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encoded_pairs import EncodedPairs

IDS = st.lists(st.integers(0, 5), min_size=1, max_size=4)


def encoded(pairs: list[tuple[list[int], list[int]]]) -> EncodedPairs:
    sources, targets = zip(*pairs, strict=True)
    return EncodedPairs(*ragged.from_lists(sources), *ragged.from_lists(targets))


def slow_fold(pair: tuple[list[int], list[int]], count: int) -> int:
    sides = [sum(int(keys(FOLDS, place, word)[0]) for place, word in enumerate(side)) % 2**64 for side in pair]
    return int(keys(FOLDS, np.array(sides[:1], np.uint64), np.array(sides[1:], np.uint64))[0]) % count + 1


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=12), count=st.integers(2, 7))
def test_the_fold_follows_from_the_words(pairs: list[tuple[list[int], list[int]]], count: int) -> None:
    """Wherever a pair stands and whatever stands beside it, its fold is that of a slow sum over its words."""
    there = encoded(pairs)
    found = folds_of(there, count)
    assert found.tolist() == [slow_fold(pair, count) for pair in pairs]
    some = np.arange(len(pairs))[::-2]
    assert folds_of(there.take(some), count).tolist() == found[some].tolist()
    narrow = replace(
        there, source_ids=there.source_ids.astype(np.uint16), target_ids=there.target_ids.astype(np.uint16)
    )
    assert folds_of(narrow, count).tolist() == found.tolist()


def test_folds_are_of_about_one_size() -> None:
    """Of 20,000 pairs that differ in one word each of five folds gets a fifth, within four standard deviations."""
    pairs = EncodedPairs(
        np.arange(20_000, dtype=np.int32), np.arange(20_001), np.zeros(20_000, np.int32), np.arange(20_001)
    )
    counts = np.bincount(folds_of(pairs, 5))[1:]
    assert counts.sum() == 20_000
    assert np.abs(counts - 4_000).max() < 4 * (20_000 * 0.2 * 0.8) ** 0.5


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_teacher_learns_nothing_from_its_fold(teacher_config: TeacherConfig, tmp_path: Path) -> None:
    """Other pairs in the place of those that are left out change no bit of the weights; one other pair does.

    Pairs are exchanged for such of the same fold, so that the same places are left out.
    """
    lines = [toy_lines(side, 400) for side in ("src", "tgt")]
    bert = save_bert(tmp_path / "bert", [*lines[0], *lines[1]])
    text = write_text(tmp_path, lines[0], lines[1], "all")
    folds = folds_of(open_tokenizer(str(bert)).encode_pairs(list(Corpus(text).read())), 3)
    first = np.arange(100)
    made = {}
    for name, fold in (("as it is", None), ("left out", 2), ("seen", 3)):
        chosen, spare = first.copy(), np.arange(100, 400)
        if fold is not None:
            places = first[folds[:100] == fold]
            chosen[places] = spare[folds[100:] == fold][: len(places)]
            assert len(places) > 20
        text = write_text(tmp_path, *([side[i] for i in chosen] for side in lines), name)
        config = replace(teacher_config, text=text, bert=str(bert), valid=None, trim_vocab=False, fold=(2, 3))
        train_teacher(replace(config, training=replace(config.training, valid_every=None)), tmp_path / name / "teacher")
        made[name] = weights(tmp_path / name / "teacher")
    assert made["left out"] == made["as it is"]
    assert made["seen"] != made["as it is"]


def test_all_folds_in_one_command(teacher_config: TeacherConfig, small_text: TextFiles, tmp_path: Path) -> None:
    """--folds trains what --fold does, continues what it finds, and all teachers share the words of the whole text."""
    few = replace(teacher_config.training, max_steps=2, valid_every=None)
    config = replace(teacher_config, bert=SCRATCH, valid=None, training=few)
    for fold in ((1, 2), (2, 2)):
        train_teacher(replace(config, fold=fold), tmp_path / "single" / str(fold[0]))
    # The first is there already, as after an interruption.
    train_teacher(replace(config, fold=(1, 2)), tmp_path / "all" / "fold-1")
    before = (tmp_path / "all" / "fold-1" / "run.json").read_bytes()
    train_teacher(replace(config, folds=2), tmp_path / "all")
    assert (tmp_path / "all" / "fold-1" / "run.json").read_bytes() == before
    for number in (1, 2):
        assert weights(tmp_path / "all" / f"fold-{number}") == weights(tmp_path / "single" / str(number))
        record = read_json(tmp_path / "all" / f"fold-{number}" / "run.json")
        assert record["config"]["fold"] == [number, 2]
        assert record["inputs"]["text"] == Corpus(small_text).fingerprint
    assert weights(tmp_path / "all" / "fold-1") != weights(tmp_path / "all" / "fold-2")
    tokenizers = {Teacher.load(tmp_path / "all" / f"fold-{number}").tokenizer.fingerprint for number in (1, 2)}
    assert len(tokenizers) == 1
    with pytest.raises(MismatchError, match="fold"):
        train_teacher(replace(config, fold=(2, 2)), tmp_path / "all" / "fold-1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fold", "0/3"], "I from 1 to K, and K at least 2, not 0/3"),
        (["--fold", "4/3"], "not 4/3"),
        (["--fold", "1/1"], "not 1/1"),
        (["--fold", "2"], "two whole numbers with a slash between them, such as 1/5, not 2"),
        (["--folds", "1"], "--folds must be at least 2"),
        (["--folds", "2", "--fold", "1/2"], "exclude each other"),
    ],
)
def test_what_is_no_fold_is_refused(options: list[str], words: str, small_text: TextFiles, tmp_path: Path) -> None:
    """Folds are counted from 1, there are at least two, and one command trains one or all."""
    text = ["--source", str(small_text.source), "--target", str(small_text.target)]
    done = run_here("teacher-train", *text, "--bert", SCRATCH, "--output", str(tmp_path / "teacher"), *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "teacher").exists()


def test_folds_get_no_place_in_a_teacher(teacher_config: TeacherConfig, tmp_path: Path) -> None:
    """A folder that holds a teacher is refused, since a dump would take that one for all pairs."""
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="holds a teacher"):
        train_teacher(replace(teacher_config, folds=2), tmp_path / "teacher")
