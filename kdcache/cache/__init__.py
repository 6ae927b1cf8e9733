"""The cache: soft labels and both texts on disk. `docs/format.md` describes every byte."""
