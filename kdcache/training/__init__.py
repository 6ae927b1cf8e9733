"""The one training loop: batches, steps, checkpoints, metrics and the group of processes.

This room may import losses, compute, the cache and what is below them.
"""
