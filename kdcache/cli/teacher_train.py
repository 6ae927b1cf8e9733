"""`kdcache teacher-train`."""

from pathlib import Path

import click

from kdcache.cli.options import Settings, output
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.teacher.teacher_config import TeacherConfig, teacher_defaults


@click.command("teacher-train", cls=Command)
@Settings(TeacherConfig, teacher_defaults)
@output("DIR", "Folder for the teacher.")
def teacher_train(config: TeacherConfig, output: Path) -> None:
    """Fine-tune a BERT to fill in masked target words.

    It sees the source and the rest of the target. The step with the lowest validation loss is kept, or the last step
    where there is no validation text. Run the same command again to continue.

    \b
    Example:
      kdcache teacher-train --source train.de --target train.en \\
          --valid-source valid.de --valid-target valid.en \\
          --bert bert-base-multilingual-cased --output teacher
    """
    from kdcache.teacher.train_teacher import train_teacher

    quiet_transformers()
    train_teacher(config, output)
