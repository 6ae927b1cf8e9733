"""The one training loop: batches, steps, checkpoints, metrics and the group of processes.

This room may import losses, compute, the cache and what is below them. Its settings load no torch.
"""

from kdcache.training.training_config import TrainingConfig

__all__ = ["TrainingConfig"]
