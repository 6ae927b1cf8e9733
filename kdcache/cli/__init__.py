"""The command line: each command builds a configuration, makes one library call and prints."""

from __future__ import annotations

import click

import kdcache
from kdcache.cli.cache import dump_logits, inspect
from kdcache.cli.console import Group
from kdcache.cli.curves import curves
from kdcache.cli.demo import demo
from kdcache.cli.derive import merge, transcode
from kdcache.cli.score import score
from kdcache.cli.sweep import sweep
from kdcache.cli.text import generate
from kdcache.cli.train import student_train, teacher_train
from kdcache.cli.verify import verify


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(kdcache.__version__, prog_name="kdcache")
def main() -> None:
    """Distil what a BERT knows into a small text generator, through a cache.

    \b
    1. teacher-train   fine-tune a BERT as a conditional masked language model
    2. dump-logits     run it once over every masked target position
    3. student-train   train a student from the cache, as often as you like
    4. score           measure the result
    """


for command in (teacher_train, dump_logits, student_train, generate, score, sweep, curves):
    main.add_command(command)
for command in (inspect, verify, transcode, merge, demo):
    main.add_command(command)
