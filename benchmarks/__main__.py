"""`python -m benchmarks NAME`: a table, and as the last line one JSON object with the figures."""

from __future__ import annotations

import argparse
import importlib

from kdcache.cli.screen import quiet_transformers

NAMES = {
    "peers": "training steps beside other toolkits",
    "dump": "dumping over the bare forward pass; two processes over one",
    "read": "reading a cache into batches, and three other ways to store the same",
    "storage_2020": "a whole dump as the code of 2020 stored it",
    "size": "bytes per target in each encoding, and what rounding costs",
    "train": "soft labels, chunks and the loader in a training step; a cache against a live teacher",
    "generation": "beam search beside the library's own, CTranslate2 and eole",
    "gpu": "all that needs a GPU, in one command and one table that can be sent",
    "scale": "growth of memory from 100 thousand pairs to more",
    "left_to_right": "a cache of a teacher that sees the left side only, as a negative control",
    "outside": "another toolkit's plain student on the same pieces, by the same score",
    "recipes": "what the paper's experiments would need, from dry runs",
    "seeds": "the demo with several seeds",
}


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, text in NAMES.items():
        module = importlib.import_module(f"benchmarks.{name}")
        module.add_options(commands.add_parser(name, help=text, description=text))
    options = parser.parse_args()
    quiet_transformers()
    importlib.import_module(f"benchmarks.{options.name}").run(options)


if __name__ == "__main__":
    main()
