"""From a text to a verdict: a teacher, its cache, students with and without soft labels, and their comparison."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from kdcache.cache.hdf5 import check_writing
from kdcache.cache.reader import open_cache
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import TrainingError, UsageError
from kdcache.experiments.run_sweep import run_sweep
from kdcache.experiments.sweep_file import ReadOptions, read_sweep
from kdcache.experiments.sweep_report import PAGE_FILE, RESULTS_FILE
from kdcache.experiments.whole_run_config import WholeRunConfig
from kdcache.files.atomic import replace_file
from kdcache.files.locations import printable
from kdcache.files.run_records import folder_run, log
from kdcache.files.strict_json import read_json
from kdcache.labels.verdict import UNKNOWN
from kdcache.teacher.open_checkpoint import checkpoint_fingerprint
from kdcache.teacher.teacher_config import TeacherConfig, teacher_defaults
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import TrainingConfig

TEACHER, CACHE, STUDENTS, SWEEP_FILE = "teacher", "cache", "students", "students.toml"
PLAIN, LABELS = "plain", "labels"


def run_all(config: WholeRunConfig, output: Path, options: Mapping[str, bool], read: ReadOptions) -> str:
    """Train a teacher, make a cache, train students with and without soft labels, and compare them.

    Run again, it continues. `options` and `read` are those of `read_sweep`.

    Returns:
        The table of the comparison, and what is known of the labels.

    Raises:
        MismatchError: `output` was begun with other settings.
        OutputError: the HDF5 library here cannot write shards.
        UsageError: the name of a text is not UTF-8.
        TrainingError: a student failed; the message names its log.
        KDCacheError: as `train_teacher`, `dump`, `read_sweep` and `run_sweep`.
    """
    config.check()
    check_writing()
    sweep_text = _sweep_text(config)
    if sweep_text != printable(sweep_text):
        raise UsageError(
            "The names of the texts must be UTF-8, since they go into a file for kdcache sweep. Rename them."
        )
    run = folder_run(output, "run", config, checkpoint_fingerprint(config.bert))
    given = {"bert": config.bert, "max_steps": None}
    training = TrainingConfig(**{**teacher_defaults(given), "epochs": config.teacher_epochs})
    log.info("1 of 3: the teacher, in %s.", output / TEACHER)
    teacher = TeacherConfig(config.text, config.bert, config.valid, folds=config.folds, training=training)
    train_teacher(teacher, output / TEACHER)
    log.info("2 of 3: the cache of its labels, in %s.", output / CACHE)
    dump(DumpConfig(str(output / TEACHER), config.text), output / CACHE)
    log.info("3 of 3: students with soft labels and without, in %s.", output / STUDENTS)
    if not (output / SWEEP_FILE).exists():
        replace_file(output / SWEEP_FILE, sweep_text.encode())
    elif (output / SWEEP_FILE).read_bytes() != sweep_text.encode():
        log.info("%s was changed and is taken as it is.", output / SWEEP_FILE)
    table, failures = run_sweep(read_sweep(output / SWEEP_FILE, options, read))
    if failures:
        raise TrainingError(f"{failures[0]}. Correct it and run the same command again: it continues.")
    run.finish({"page": f"{STUDENTS}/{PAGE_FILE}"})
    verdict = _verdict(output, same_text=config.folds is None)
    return "\n\n".join([table, verdict, f"Page with curves and tables: {output / STUDENTS / PAGE_FILE}"])


def _verdict(output: Path, *, same_text: bool) -> str:
    """How far the labels were ahead of the plain students, in words."""
    runs = read_json(output / STUDENTS / RESULTS_FILE)["runs"]
    known = [run["valid_nll"] for run in runs if run["row"] == PLAIN and run["valid_nll"] is not None]
    held_out = open_cache(str(output / CACHE)).teacher_figures().held_out
    if held_out is None or not known:
        return UNKNOWN
    return held_out.comparison(sum(known) / len(known), same_text=same_text)


def _sweep_text(config: WholeRunConfig) -> str:
    """The comparison as a file that `kdcache sweep` takes, so that more students are a few lines in it."""
    test = config.test or config.valid
    base = {"cache": CACHE, "size": config.size, "epochs": config.epochs, **_files(config.valid, "valid_")}
    texts = _files(test, "")
    scored = {"source": texts["source"], "reference": texts["target"], "metrics": list(config.metric)}
    sections: dict[str, dict[str, object]] = {
        "": {"output": STUDENTS, "baseline": PLAIN},
        "[base]": base,
        "[grid]": {"seed": list(range(1, config.seeds + 1))},
        "[[arms]]": {"name": PLAIN, "alpha": 1.0},
        "[[arms]] ": {"name": LABELS},
        "[test.test]": {**scored, "lowercase": config.lowercase},
    }
    lines = ["# The comparison that kdcache run made; kdcache sweep takes this file, with more students if you like."]
    for heading, values in sections.items():
        lines.append(heading.strip())
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def _files(text: TextFiles, prefix: str) -> dict[str, str]:
    """The two files of a text, found from any folder."""
    return {f"{prefix}{side}": os.path.abspath(str(getattr(text, side))) for side in ("source", "target")}
