"""Learning rates as functions of the step."""

from __future__ import annotations

from kdcache.training.training_config import TrainingConfig

WARMUP_MOST = 4_000


def noam(step: int, factor: float, width: int, warmup: int) -> float:
    """Factor · width^-0.5 · min(step^-0.5, step · warmup^-1.5), steps from 1 (Vaswani et al. 2017, equation 3)."""
    return float(factor * width**-0.5 * min(step**-0.5, step * max(1, warmup) ** -1.5))


def linear(step: int, peak: float, warmup: int, total: int) -> float:
    """From 0 up to `peak` at step `warmup`, then down to 0 after step `total`; steps from 1."""
    if step <= warmup:
        return peak * step / warmup
    return peak * max(0, total - step + 1) / max(1, total - warmup)


def learning_rate(config: TrainingConfig, step: int, width: int, total: int) -> float:
    """The learning rate of optimizer step `step` (from 1) of `total`; `width` is the model's."""
    warmup = min(WARMUP_MOST, total // 10) if config.warmup is None else config.warmup
    if config.schedule == "noam":
        return noam(step, config.learning_rate, width, warmup)
    return linear(step, config.learning_rate, warmup, total)
