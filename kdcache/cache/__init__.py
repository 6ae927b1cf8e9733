"""The cache: soft labels and both texts in sharded HDF5. docs/reference/format.md describes every byte.

This room may import labels and what is below them; it loads no torch.
"""
