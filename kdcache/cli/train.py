"""`kdcache teacher-train` and `kdcache student-train`."""

from __future__ import annotations

from pathlib import Path

import click

from kdcache.cli import options, training_options
from kdcache.cli.console import quiet_transformers
from kdcache.cli.training_options import TrainingOptions
from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.errors import UsageError
from kdcache.files.locations import StoreConfig
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student import student_config as student_defaults
from kdcache.student.student_config import ARCHITECTURES, SIZES, StudentConfig
from kdcache.teacher import teacher_config as teacher_defaults
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import TrainingConfig


@click.command("teacher-train")
@options.text
@options.valid
@click.option("--bert", required=True, metavar="NAME_OR_DIR", help="Hub name or folder of a BERT, or scratch:tiny.")
@click.option("--output", required=True, metavar="DIR", callback=options.written, help="Where the teacher goes.")
@click.option("--no-trim-vocab", is_flag=True, help="Keep pieces that the training text does not use.")
@options.skip_bad
@training_options.training(
    epochs=teacher_defaults.DEFAULT_EPOCHS,
    max_tokens=4_096,
    rate_help=f"[default: {teacher_defaults.PRETRAINED_RATE:g}; from nothing {teacher_defaults.SCRATCH_RATE:g}]",
)
@options.verbosity
def teacher_train(
    text: TextFiles,
    valid: TextFiles | None,
    bert: str,
    output: str,
    no_trim_vocab: bool,
    skip_bad: bool,
    training: TrainingOptions,
) -> None:
    """Fine-tune a BERT to fill in masked target words, given the source and the rest of the target.

    The best step by validation loss is kept, or the last one without validation text. Run again, it continues.

    \b
    Example:
      kdcache teacher-train --source train.de --target train.en --valid-source valid.de --valid-target valid.en \\
          --bert bert-base-multilingual-cased --output teacher
    """
    rate = teacher_defaults.SCRATCH_RATE if bert.startswith("scratch:") else teacher_defaults.PRETRAINED_RATE
    config = TeacherConfig(
        text=text,
        bert=bert,
        valid=valid,
        trim_vocab=not no_trim_vocab,
        skip_bad=skip_bad,
        training=training.config(
            learning_rate=rate, epochs=teacher_defaults.DEFAULT_EPOCHS, beta2=teacher_defaults.BETA2
        ),
    )
    config.training.check()
    from kdcache.teacher.train_teacher import train_teacher

    quiet_transformers()
    train_teacher(config, Path(output))


def _student_config(
    cache: str,
    store: StoreConfig,
    valid: TextFiles | None,
    text: TextFiles | None,
    arch: str,
    size: str,
    objective: ObjectiveConfig,
    dropout: float,
    start_from: str | None,
    skip_bad: bool,
    training: TrainingOptions,
) -> StudentConfig:
    config = StudentConfig(
        cache=cache,
        store=store,
        objective=objective,
        training=training.config(
            learning_rate=student_defaults.default_rate(arch, size, training.schedule),
            epochs=student_defaults.DEFAULT_EPOCHS,
            beta2=options.default_of(TrainingConfig, "beta2"),
        ),
        valid=valid,
        compared=text,
        arch=arch,
        size=size,
        dropout=dropout,
        start_from=start_from,
        skip_bad=skip_bad,
    )
    config.check()
    return config


# What decides about a student: the options of student-train, and those that a sweep may set.
student = options.gathered(
    "config",
    _student_config,
    click.option(
        "--cache",
        required=True,
        metavar="CACHE",
        help="What dump-logits wrote: a folder, or a URL such as s3://…, gs://… or https://…. The teacher is not "
        "needed.",
    ),
    options.store,
    options.valid,
    options.text_to_compare,
    click.option(
        "--arch", type=click.Choice(ARCHITECTURES), default="transformer", show_default=True, help="Kind of student."
    ),
    click.option("--size", type=click.Choice(tuple(SIZES)), default="tiny", show_default=True, help="Its dimensions."),
    options.objective,
    click.option(
        "--dropout",
        type=float,
        default=options.default_of(StudentConfig, "dropout"),
        show_default=True,
        help="Dropout.",
    ),
    click.option(
        "--start-from",
        metavar="DIR",
        help="Begin with the weights of this student, of the same tokenizer, --arch and --size, not with random ones.",
    ),
    options.skip_bad,
    training_options.training(
        epochs=student_defaults.DEFAULT_EPOCHS,
        max_tokens=4_096,
        rate_help="[default: tiny 0.002, small 0.001, base 0.0005; rnn 0.002, 0.002, 0.001; with noam 1]",
    ),
)


@click.command("student-train")
@click.option("--output", metavar="DIR", callback=options.written, help="Where the student goes.")
@student
@click.option("--dry-run", is_flag=True, help="Say how long it would take and how much memory; write nothing.")
@options.verbosity
def student_train(config: StudentConfig, output: str | None, dry_run: bool) -> None:
    """Train a sequence-to-sequence student from a cache.

    The loss is alpha · hard + (1 - alpha) · soft. Validation is the plain loss; its best step is kept, or the last one
    without validation text. Run again, it continues.

    \b
    Example:
      kdcache student-train --cache cache --output student --valid-source valid.de --valid-target valid.en \\
          --size tiny --alpha 0.5 --epochs 30
    """
    if dry_run:
        _student_forecast(config)
        return
    if output is None:
        raise UsageError("Missing option --output (only --dry-run goes without).")
    from kdcache.student.train_student import train_student

    quiet_transformers()
    train_student(config, Path(output))


def _student_forecast(config: StudentConfig) -> None:
    from kdcache.student.training_forecast import forecast

    quiet_transformers()
    found = forecast(config)
    where = "GPU memory" if config.training.device == "cuda" else "memory of the process"
    items = [
        ("parameters", f"{found.parameters:,}"),
        ("steps", f"{found.steps:,}"),
        ("time", f"about {duration(found.seconds)} (from {found.pilot_steps} steps, validation not counted)"),
        (where, f"about {tables.size(found.peak_bytes)}"),
    ]
    click.echo(tables.facts(items))
