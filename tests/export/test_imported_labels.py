"""Labels of another program become a cache like any other, or are refused with the row that is wrong."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import caches
import numpy as np
import pytest
from conftest import run_here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.cache.reader import open_cache

Row = dict[str, Any]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A folder with the tokenizer."""
    caches.tokenizer().save(tmp_path / "teacher", max_length=64, segments=True)
    return tmp_path / "teacher"


def row() -> Row:
    """Two target words and the end token, two words at each position; the second written word is not among the two."""
    end = caches.tokenizer().special.end
    return {
        "source": "the red fox",
        "target_ids": [7, 8, end],
        "topk_ids": [[7, 9], [11, 10], [9, end]],
        "topk_log_probs": [[math.log(0.5), math.log(0.25)], [math.log(0.25), math.log(0.5)], [-3.0, -0.25]],
        "target_log_probs": [math.log(0.5), -4.0, -0.25],
    }


def import_rows(teacher: Path, rows: list[Row], name: str = "labels") -> tuple[Any, Path]:
    """What the command says of these rows, and the cache."""
    file, output = teacher.with_name(f"{name}.jsonl"), teacher.with_name(f"{name}-cache")
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return run_here("import", file, "--tokenizer", teacher, output), output


def test_values_of_json_lines_are_stored_by_falling_probability(teacher: Path) -> None:
    """A hand-made row is stored as given but for the order of its words; an empty one is a skipped pair."""
    done, cache = import_rows(teacher, [row(), {"target_ids": []}])
    assert done.returncode == 0, done.stderr
    assert run_here("verify", cache).returncode == 0
    shard, tokenizer = open_cache(str(cache)).shard(0), caches.tokenizer()
    assert shard.soft.token_ids.tolist() == [[7, 9], [10, 11], [tokenizer.special.end, 9]]
    wanted = np.array([[0.5, 0.25], [0.5, 0.25], [math.exp(-0.25), math.exp(-3)]])
    assert np.exp(shard.soft.log_probs.astype(np.float64)) == pytest.approx(wanted, rel=1e-3)
    assert shard.target_log_prob.tolist() == [shard.soft.log_probs[0, 0], -4.0, -0.25]
    assert shard.pairs.source_ids.tolist() == tokenizer.encode_sources(["the red fox"])[0]
    assert shard.pairs.target_lengths.tolist() == [3, 0]
    assert "import, of labels" in run_here("inspect", cache).stdout


def test_an_exported_cache_comes_back(shown_cache: Path, tmp_path: Path) -> None:
    """Export to Parquet and import give every array of the cache again, and a second import finds it complete."""
    assert run_here("export", shown_cache, tmp_path / "tables", "--format", "parquet").returncode == 0
    before = open_cache(str(shown_cache))
    command = ("import", tmp_path / "tables", "--tokenizer", shown_cache / "tokenizer", tmp_path / "cache")
    done = run_here(*command, "--shard-pairs", before.plan.shard_pairs)
    assert done.returncode == 0, done.stderr
    after = open_cache(str(tmp_path / "cache"))
    assert (after.plan.n_shards, after.plan.made_by) == (before.plan.n_shards, "import")
    for index in range(before.plan.n_shards):
        for one, two in zip(caches.flat(before.shard(index)), caches.flat(after.shard(index)), strict=True):
            assert one.tolist() == two.tolist()
    assert "complete already" in run_here(*command, "--shard-pairs", before.plan.shard_pairs).stderr


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_the_order_of_words_and_the_packing_change_nothing(teacher: Path, seed: int) -> None:
    """However the words of a position are shuffled, the content of the cache is the same."""
    shuffled = row()
    for i, words in enumerate(zip(shuffled["topk_ids"], shuffled["topk_log_probs"], strict=True)):
        both = list(zip(*words, strict=True))
        random.Random(seed + i).shuffle(both)
        shuffled["topk_ids"][i], shuffled["topk_log_probs"][i] = (list(part) for part in zip(*both, strict=True))
    first = import_rows(teacher, [row()], "first")[1]
    _, other = import_rows(teacher, [shuffled], f"other{seed}")
    assert open_cache(str(first)).manifest.root == open_cache(str(other)).manifest.root


WRONG: dict[str, tuple[Row, str]] = {
    "a word outside the vocabulary": ({"topk_ids": [[7, 9], [11, 10**6], [9, 3]]}, "topk_ids outside the vocabulary"),
    "a target outside the vocabulary": ({"target_ids": [7, -1, 3]}, "target_ids outside the vocabulary"),
    "no end token": ({"target_ids": [7, 8, 9]}, "must end with the id"),
    "rows that do not fit the words": ({"topk_ids": [[7, 9]], "topk_log_probs": [[-1.0, -2.0]]}, "1 rows of topk_ids"),
    "uneven rows": ({"topk_ids": [[7, 9], [11], [9, 3]]}, "topk_ids must be lists of equal length of whole numbers"),
    "texts for ids": ({"target_ids": ["a", "b", "c"]}, "target_ids must be a list of whole numbers"),
    "a word twice": ({"topk_ids": [[7, 7], [11, 10], [9, 3]]}, "name a word twice"),
    "mass above one": ({"topk_log_probs": [[-0.1, -0.2], [-1.0, -2.0], [-3.0, -0.25]]}, "add up to 1.7236, above 1"),
    "a positive log-probability": ({"topk_log_probs": [[0.5, -9.0], [-1.0, -2.0], [-3.0, -0.25]]}, "above 0"),
    "slipped rows": ({"target_log_probs": [-4.0, -0.25, -0.69]}, "rows have slipped"),
    "an unknown written word": ({"target_log_probs": None}, "1 written words are not among the k"),
    "no labels": ({"topk_ids": None}, "topk_ids is missing"),
    "no source": ({"source": " "}, "no source"),
    "a source without its frame": ({"source_ids": [7, 8, 9]}, "source_ids must begin with the id"),
}


@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_row_is_named_before_anything_is_stored(teacher: Path, change: str) -> None:
    """Each rule that a row can break is said with the file and the line, and no cache is begun."""
    changes, message = WRONG[change]
    done, cache = import_rows(teacher, [row(), {**row(), **changes}])
    assert done.returncode == 1
    assert f"labels.jsonl:2: {message}" in done.stderr.replace("\n", " ") or message in done.stderr
    assert "labels.jsonl:2: " in done.stderr
    assert not cache.exists()


def test_written_words_among_the_k_need_no_probability_of_their_own(teacher: Path) -> None:
    """Without target_log_probs the written words' values are those among the k."""
    short = row()
    short["target_ids"][1], short["target_log_probs"] = 10, None
    done, cache = import_rows(teacher, [short])
    assert done.returncode == 0, done.stderr
    shard = open_cache(str(cache)).shard(0)
    assert shard.target_log_prob.tolist() == shard.soft.log_probs[:, 0].tolist()


def test_other_numbers_of_words_in_one_file_are_refused(teacher: Path) -> None:
    """All positions of a cache hold equally many words."""
    more = row()
    for ids, log_probs in zip(more["topk_ids"], more["topk_log_probs"], strict=True):
        ids.append(20)
        log_probs.append(-9.0)
    more["target_log_probs"][1] = -9.5
    done, _ = import_rows(teacher, [row(), more])
    assert "another number of words than the 2 before" in done.stderr


def test_labels_that_cannot_be_read_twice_are_refused(teacher: Path) -> None:
    """A pipe gives its labels once, and they are needed for the plan and again for the shards."""
    os.mkfifo(pipe := teacher.with_name("pipe.jsonl"))
    done = run_here("import", pipe, "--tokenizer", teacher, teacher.with_name("cache"))
    assert done.returncode == 1
    assert "pipe.jsonl: " in done.stderr
    assert not teacher.with_name("cache").exists()


def test_a_value_that_float16_cannot_hold_is_refused_with_its_line(teacher: Path) -> None:
    """A log-probability of -70,000 would become infinite."""
    done, _ = import_rows(teacher, [{**row(), "target_log_probs": [math.log(0.5), -70_000.0, -0.25]}])
    assert "labels.jsonl:1: target_log_probs" in done.stderr
