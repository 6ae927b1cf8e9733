"""The embedded demo corpus: two small invented languages, described in the README beside this file."""

from pathlib import Path

CORPUS = Path(__file__).parent / "demo"
"""Folder of `train`, `valid` and `test`, each as `.src` and `.tgt`: one sentence a line."""

BERT = CORPUS.with_name("bert")
"""A small BERT that has read both languages."""
