"""What is computed from a sweep's results, and its tables as text."""

import statistics
from typing import Any

import pytest
from sweeps import ODD, REFERENCE, WORSE, sweep_of

from kdcache.experiments.sweep_file import Student
from kdcache.experiments.sweep_report import make_tables, markdown
from kdcache.experiments.sweep_results import spread
from kdcache.scoring.score_corpus import compare_seeds


def test_mean_and_deviation_by_hand() -> None:
    """Of 1, 2 and 6 the mean is 3 and the sample standard deviation √7; of one value there is no deviation."""
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "deviation": pytest.approx(7**0.5), "n": 3}
    assert spread([4.0]) == {"mean": 4.0, "deviation": None, "n": 1}


def test_rows_are_means_over_seeds(students: list[Student], outcomes: list[dict[str, Any]]) -> None:
    """Each row has mean, deviation and number of its seeds, the number also where nothing was measured."""
    _, rows = make_tables(*sweep_of([*students, students[-1], students[-1]], outcomes))[0]
    assert rows[0] == ("settings", "seeds", "validation loss", "t bleu")
    deviation = statistics.stdev([10.0, 14.0, 99.0])
    assert rows[1] == ("plain", "3", "4.4000 ± 3.9850", f"41.00 ± {deviation:.2f}")
    assert rows[2] == (ODD, "2 of 4", "1.5000 ± 0.0000", "14.00 ± 1.41")
    unmeasured = [{**one, "valid_nll": None, "scores": {}} for one in outcomes]
    assert make_tables(*sweep_of(students, unmeasured)) == [(None, [("settings", "seeds"), ("plain", "3"), (ODD, "2")])]


def test_differences_pair_seeds(students: list[Student], outcomes: list[dict[str, Any]]) -> None:
    """Differences are between equal seeds only, and p is that of the test of their mean."""
    sweep, results = sweep_of(students, outcomes)
    loss, bleu = results["differences"]
    assert (bleu["row"], bleu["column"]) == (ODD, "t bleu")
    assert bleu["spread"] == {"mean": 2.0, "deviation": pytest.approx(2**0.5), "n": 2}
    whole = compare_seeds([REFERENCE, WORSE], [WORSE, WORSE], [REFERENCE], "bleu")
    assert bleu["p_value"] == whole.p_value
    assert whole.p_value < 0.2
    assert loss["spread"] == {"mean": pytest.approx(-0.6), "deviation": pytest.approx(0.2 / 2**0.5), "n": 2}
    assert loss["p_value"] is None
    _, one_seed = sweep_of(students, [outcomes[0], *outcomes[2:]])[1]["differences"]
    assert one_seed["spread"] == {"mean": 3.0, "deviation": None, "n": 1}
    assert make_tables(sweep, results)[1][1][1:] == [
        (ODD, "validation loss", "-0.6000 ± 0.1414", "2", "–"),
        (ODD, "t bleu", "+2.00 ± 1.41", "2", f"{bleu['p_value']:.3f}"),
    ]


def test_markdown_is_escaped(students: list[Student], outcomes: list[dict[str, Any]]) -> None:
    """Every line of a table has its number of cells, and no tag and no code of a name gets through."""
    text = markdown(*sweep_of(students, outcomes))
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;'\"\\|\\`" in text
    table = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table[:4]} == {5}
    assert {line.count("|") for line in table[4:]} == {6}
