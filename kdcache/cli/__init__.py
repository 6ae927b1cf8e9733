"""The command line: each command has a file; it reads settings, makes one library call and prints.

This room may import all others.
"""

import click

import kdcache
from kdcache.cli.curves import curves
from kdcache.cli.dataset import dataset
from kdcache.cli.demo import demo
from kdcache.cli.dump_logits import dump_logits
from kdcache.cli.export import export
from kdcache.cli.generate import generate
from kdcache.cli.import_labels import import_labels
from kdcache.cli.inspect import inspect
from kdcache.cli.merge import merge
from kdcache.cli.push import push
from kdcache.cli.run import run
from kdcache.cli.score import score
from kdcache.cli.screen import HELP_NAMES, Group, verbosity
from kdcache.cli.student_train import student_train
from kdcache.cli.sweep import sweep
from kdcache.cli.teacher_train import teacher_train
from kdcache.cli.transcode import transcode
from kdcache.cli.verify import verify


@click.group(cls=Group, context_settings={**HELP_NAMES, "max_content_width": 100}, params=verbosity())
@click.version_option(kdcache.__version__, prog_name="kdcache")
def main(verbose: bool, quiet: bool) -> None:
    """Distil what a BERT knows into a small text generator, through a cache of its predictions."""


main.add("All at once", run)
main.add("The way from text to score", teacher_train, dump_logits, student_train, generate, score)
main.add("Look and compare", inspect, verify, curves, sweep)
main.add("Make caches from caches", transcode, merge)
main.add("From and to other programs", dataset, import_labels, export, push)
main.add("Try it first", demo)
