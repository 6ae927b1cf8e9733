"""The losses of teacher and student, computed without all logits in memory at once.

This room may import compute and what is below it.
"""
