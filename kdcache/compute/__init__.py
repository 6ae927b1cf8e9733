"""The device of the arithmetic, its precision, and batches that are halved when they do not fit into memory.

This room may import files and process; it loads torch, so it exports nothing here.
"""
