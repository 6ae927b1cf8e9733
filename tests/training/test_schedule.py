"""Learning rates, by hand."""

import pytest

from kdcache.errors import UsageError
from kdcache.training.step import learning_rate
from kdcache.training.training_config import TrainingConfig


def config(learning_rate: float, schedule: str, warmup: int | None = None) -> TrainingConfig:
    return TrainingConfig(learning_rate, schedule, max_tokens=100, warmup=warmup, max_steps=10)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # 2 · 512^-0.5 · step · 8000^-1.5, with 512^-0.5 = 0.0441942 and 8000^-1.5 = 1.397542e-6
        (1, 1.2352647e-07),
        (4_000, 4.9410588e-04),
        # the peak: 2 · 512^-0.5 · 8000^-0.5
        (8_000, 9.8821177e-04),
        # 2 · 512^-0.5 · step^-0.5
        (32_000, 4.9410588e-04),
        (100_000, 2.7950850e-04),
    ],
)
def test_noam_by_hand(step: int, expected: float) -> None:
    """The Noam schedule of the sources (factor 2, 8,000 steps of warm-up, width 512) has these rates."""
    assert learning_rate(config(2.0, "noam", 8_000), step, 512, 100_000) == pytest.approx(expected, rel=1e-6)


def test_noam_without_warmup_only_falls() -> None:
    """With no warm-up the rate starts at factor · width^-0.5."""
    assert learning_rate(config(1.0, "noam", 0), 1, 64, 10) == 0.125
    assert learning_rate(config(1.0, "noam", 0), 4, 64, 10) == 0.0625


@pytest.mark.parametrize(("step", "expected"), [(1, 0.25), (2, 0.5), (4, 1.0), (5, 1.0), (7, 2 / 3), (10, 1 / 6)])
def test_linear_by_hand(step: int, expected: float) -> None:
    """Four steps up to the peak, six down towards 0, which the last step does not reach."""
    assert learning_rate(config(0.01, "linear", 4), step, 64, 10) == pytest.approx(0.01 * expected)


def test_linear_without_warmup_starts_at_the_peak() -> None:
    """With no warm-up the first step has the peak rate and every step a positive one."""
    rates = [learning_rate(config(1.0, "linear", 0), step, 64, 5) for step in range(1, 6)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert learning_rate(config(1.0, "linear", 1), 1, 64, 1) == 1.0


@pytest.mark.parametrize(("total", "warmup"), [(500, 50), (39_999, 3_999), (1_000_000, 4_000), (5, 0)])
def test_default_warmup_is_a_tenth(total: int, warmup: int) -> None:
    """Without --warmup a tenth of the steps warms up, at most 4,000."""
    for step in (1, 50, 4_000):
        expected = learning_rate(config(0.01, "linear", warmup), step, 64, total)
        assert learning_rate(config(0.01, "linear"), step, 64, total) == expected


def test_a_rate_given_to_noam_is_refused_with_a_hint() -> None:
    """A Noam factor below 0.01 is surely a rate: refused, naming the other schedule."""
    with pytest.raises(UsageError, match=r"0\.0099 with --schedule noam.*factor.*--schedule linear"):
        config(0.0099, "noam").check()
    config(0.01, "noam").check()


def test_a_factor_given_to_linear_is_refused_with_a_hint() -> None:
    """A peak rate above 0.1 is surely a factor: refused, naming the other schedule."""
    with pytest.raises(UsageError, match=r"--schedule linear.*--schedule noam"):
        config(0.11, "linear").check()
    config(0.1, "linear").check()


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"max_steps": None}, "--epochs"),
        ({"epochs": 1}, "--epochs"),
        ({"max_steps": 0}, "--max-steps"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"valid_every": 0}, "--valid-every"),
        ({"warmup": -1}, "--warmup"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float | None], option: str) -> None:
    """A value outside its range is refused with the option's name."""
    values = {"learning_rate": 0.01, "schedule": "linear", "max_tokens": 100, "max_steps": 10, **changes}
    with pytest.raises(UsageError, match=option):
        TrainingConfig(**values).check()
