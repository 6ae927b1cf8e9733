"""Where the arithmetic runs: device, precision, and batches that are halved when they do not fit.

This room may import files and processes.
"""
