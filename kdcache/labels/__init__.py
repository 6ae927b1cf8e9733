"""Soft labels, which go as one object from the shard to the loss, and random numbers without a state.

This room may import text and what is below it; it loads no torch.
"""

from kdcache.labels.soft_labels import SoftArrays, SoftLabels, from_counts, to_counts

__all__ = ["SoftArrays", "SoftLabels", "from_counts", "to_counts"]
