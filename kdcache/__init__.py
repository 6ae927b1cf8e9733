"""kdcache: distil a BERT into a small text generator through a cache of its top-k predictions."""

__version__ = "0.1.0"
