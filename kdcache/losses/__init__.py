"""The losses of teacher and student, computed without all logits in memory at once.

This room may import compute and what is below it. Its settings load no torch.
"""

from kdcache.losses.objective_config import OBJECTIVES, ObjectiveConfig, Ramp

__all__ = ["OBJECTIVES", "ObjectiveConfig", "Ramp"]
