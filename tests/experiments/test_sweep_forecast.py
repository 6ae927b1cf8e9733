"""What a sweep says and refuses before it trains anything, and what its whole would take."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sweeps import BASE, TEST, read

from kdcache.errors import UsageError
from kdcache.experiments.run_sweep import CONSOLE, check_texts, time_of_all
from kdcache.files.run_records import LOG_FILE
from kdcache.student.generate_config import GenerateConfig


@pytest.mark.parametrize(
    ("hours", "n_places", "expected"),
    [
        ([1.0, 1.0, 1.0], 8, 1.0),
        ([1.0, 1.0, 1.0], 2, 2.0),
        ([1.0, 1.0, 1.0], 1, 3.0),
        # Two begin, the shorter one's place takes the third, which ends after 1 + 3; then 2 + 2 = 4 as well.
        ([2.0, 1.0, 3.0, 2.0], 2, 4.0),
        # In the order of the file: the long one begins last and is waited for.
        ([1.0, 1.0, 5.0], 2, 6.0),
        ([], 3, 0.0),
    ],
)
def test_the_time_of_all_is_that_of_the_place_that_ends_last(
    hours: list[float], n_places: int, expected: float
) -> None:
    """Runs in their order go to whichever place is free first; the time of all is when the last of them ends."""
    assert time_of_all([3600 * one for one in hours], n_places) == 3600 * expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("beam_size = 0", "--beam-size must be at least 1, not 0"),
        ("beam_size = -3", "--beam-size must be at least 1, not -3"),
        ("length_penalty = nan", "--length-penalty must be a finite number, not nan"),
        ("length_penalty = inf", "--length-penalty must be a finite number, not inf"),
        (f"length_penalty = 1{'0' * 400}", "--length-penalty must be a finite number"),
    ],
)
def test_a_search_that_would_be_refused_is_refused_at_once(tmp_path: Path, line: str, message: str) -> None:
    """A beam size or length penalty that `generate` would refuse is an error of the file, with its section."""
    with pytest.raises(UsageError) as refused:
        read(tmp_path, BASE, TEST, line)
    assert f"[test.t]: generation would be refused: {message}" in str(refused.value)
    for allowed in ("beam_size = 1", "length_penalty = -0.5", "length_penalty = 0"):
        read(tmp_path, BASE, TEST, allowed)


def test_a_length_penalty_is_finite() -> None:
    """No ranking by log P / length^p comes out of a p that is not finite, so `generate` refuses it."""
    for value in (float("nan"), float("-inf")):
        with pytest.raises(UsageError, match="--length-penalty must be a finite number"):
            dataclasses.replace(GenerateConfig("s", "f"), length_penalty=value).check()


def test_the_seed_of_the_bootstrap_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SACREBLEU_SEED that scoring would refuse is refused before anything runs, if there is a text to score."""
    monkeypatch.chdir(tmp_path)
    for name in ("test.src", "test.tgt"):
        Path(name).write_text("a b\n")
    tests = read(tmp_path, BASE, TEST).tests
    check_texts(tests)
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    with pytest.raises(UsageError, match="SACREBLEU_SEED must be a whole number"):
        check_texts(tests)
    check_texts([])


def test_no_run_shares_the_log_of_the_sweep(tmp_path: Path) -> None:
    """An arm called like the sweep's own log has another name for its folder and its files; its row keeps the name."""
    (run,) = read(tmp_path, BASE, "[[arms]]\nname = 'kdcache'").students
    assert run.row == "kdcache"
    assert run.beside(CONSOLE).name != LOG_FILE
    assert run.name.startswith("kdcache~")
