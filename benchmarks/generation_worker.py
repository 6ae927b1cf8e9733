"""Translate with eole whenever a line comes in, and print the seconds; run in eole's environment with its settings."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Load the model once, then work until the input ends."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        config = importlib.import_module("eole.config.run").PredictConfig(**settings)
        engine = importlib.import_module("eole.inference_engine").InferenceEnginePY(config)
        clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
        for _ in sys.stdin:
            start = clock()
            engine.infer_file()
            print(clock() - start, file=answers, flush=True)


if __name__ == "__main__":
    main()
