"""Soft labels as numpy arrays, from the shard to the batch, and random numbers without a state.

This room may import text and what is below it.
"""
