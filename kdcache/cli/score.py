"""`kdcache score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from kdcache.cli.options import LOCAL, GroupedOption, settings
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.console import tables
from kdcache.errors import UsageError
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import Run, file_run
from kdcache.scoring.measure import ScoreTask, measure, prepare
from kdcache.scoring.score_config import ScoreConfig
from kdcache.scoring.score_table import FORMATS, build, latex, markdown, read_rows
from kdcache.scoring.scorers import Estimate
from kdcache.settings import EXPERT

if TYPE_CHECKING:
    from kdcache.scoring.lineage import Lineage
    from kdcache.scoring.score_corpus import Score
    from kdcache.scoring.score_file import Comparison, ScoreFile

_OF_BASELINE = frozenset({"hypothesis", "student", "cache"})
_OF_TABLE = frozenset({"table", "results", "notation", "verbose", "quiet"})


@click.command("score", cls=Command)
@click.argument("results", nargs=-1, metavar="[RESULT...]")
@settings(ScoreConfig, unless=("table", "results"))
@click.option(
    "--json", "json_file", metavar="FILE", type=LOCAL, help="Write all results into this file; --table reads it."
)
@click.option(
    "--sentences",
    "sentence_file",
    cls=GroupedOption,
    group=EXPERT,
    metavar="FILE",
    type=LOCAL,
    help="Write the scores of each sentence into this file: JSON lines if it ends in .jsonl, else tab-separated.",
)
@click.option(
    "--table", is_flag=True, help="Print a table of RESULTs instead: files of --json, or folders with such files."
)
@click.option(
    "--format",
    "notation",
    type=click.Choice(FORMATS),
    default="markdown",
    show_default=True,
    help="Notation of the table.",
)
@click.pass_context
def score(
    context: click.Context,
    results: tuple[str, ...],
    config: ScoreConfig,
    json_file: Path | None,
    sentence_file: Path | None,
    table: bool,
    notation: str,
) -> None:
    """Score a text or a student by BLEU, chrF, TER, ROUGE.

    Every number comes with its 95 % interval. With --baseline the difference between two systems is tested.

    \b
    Example:
      kdcache score --reference test.en --student student --source test.de --metric bleu
      kdcache score --reference test.en --hypothesis a.hyp --baseline b.hyp --json a.json
      kdcache score --table a.json b.json --format latex
    """
    if table:
        _refuse_others(context)
        if not results:
            raise UsageError("--table needs results of kdcache score --json: files, or folders with them.")
        made = build(read_rows([Path(one) for one in results]))
        click.echo(latex(made) if notation == "latex" else markdown(made))
        return
    if results or _given(context, "notation"):
        raise UsageError("RESULT and --format belong to --table, which prints what was scored before.")
    if json_file is not None and json_file == sentence_file:
        raise UsageError(f"--json and --sentences are both {json_file}; give each a file of its own.")
    if config.student is not None:
        quiet_transformers()
    task = prepare(config)
    runs = [file_run(one, "score", config, task.inputs()) for one in (json_file, sentence_file) if one is not None]
    _run(task, runs, json_file, sentence_file)


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def _refuse_others(context: click.Context) -> None:
    """Raise UsageError if an option was given that --table has no use for."""
    others = [one for one in context.command.params if one.name not in _OF_TABLE and _given(context, str(one.name))]
    if others:
        raise UsageError(f"--table prints what was scored before; leave {others[0].opts[0]} out.")


def _run(task: ScoreTask, runs: list[Run], json_file: Path | None, sentence_file: Path | None) -> None:
    found, hypotheses = measure(task)
    _print(found)
    if json_file is not None:
        replace_file(json_file, found.content())
    if sentence_file is not None:
        from kdcache.scoring.sentence_scores import as_jsonl, as_tsv, sentence_scores

        config = task.config
        scores = sentence_scores(hypotheses, task.reference_sentences, config.metric, lowercase=config.lowercase)
        write = as_jsonl if sentence_file.suffix == ".jsonl" else as_tsv
        replace_file(sentence_file, write(hypotheses, scores))
    for run in runs:
        run.finish({"scores": {one.name: one.value for one in found.scores}, "lineage": found.lineage.prints()})


def _print(found: ScoreFile) -> None:
    click.echo(tables.table(_score_rows(found)))
    if found.comparison is not None:
        click.echo()
        click.echo(tables.table(_comparison_rows(found.comparison)))
    click.echo()
    for one in found.scores:
        click.echo(f"{one.name}: {one.signature}, n = {one.n:,}")
    bootstrap = found.bootstrap
    click.echo(f"intervals: 95 %, bootstrap over sentences, {bootstrap.resamples:,} resamples, seed {bootstrap.seed}.")
    if found.comparison is not None:
        click.echo("p: paired bootstrap with the same resamples; one tail, a two-sided test gives about twice as much.")
    if found.ceilings:
        click.echo("ceiling: what the references score after the student's tokenizer has encoded and decoded them.")
    click.echo()
    click.echo(tables.facts(_lineage_facts(found)))


def _numbers(score: Score) -> list[tuple[str, Estimate]]:
    """The numbers of a score, named."""
    parts = (("precision", score.precision), ("recall", score.recall))
    return [
        (score.name, Estimate(score.value, score.low, score.high)),
        *((f"{score.name} {name}", one) for name, one in parts if one is not None),
    ]


def _cells(one: Estimate) -> tuple[str, str]:
    return f"{one.value:.2f}", f"{one.low:.2f} to {one.high:.2f}"


def _score_rows(found: ScoreFile) -> list[tuple[str, ...]]:
    ceilings = [one for score in found.ceilings for one in _numbers(score)]
    numbers = [one for score in found.scores for one in _numbers(score)]
    rows = [("metric", "value", "95 % interval", *(("ceiling", "95 % interval") if ceilings else ()))]
    for i, (name, one) in enumerate(numbers):
        rows.append((name, *_cells(one), *(_cells(ceilings[i][1]) if ceilings else ())))
    return rows


def _comparison_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    head = ("metric", "baseline", "95 % interval", "system", "difference", "95 % interval", "p")
    rows: list[tuple[str, ...]] = [head]
    for one, score in zip(comparison.differences, comparison.scores, strict=True):
        difference = (f"{one.difference:+.2f}", f"{one.low:+.2f} to {one.high:+.2f}", f"{one.p_value:.4f}")
        baseline = _cells(Estimate(score.value, score.low, score.high))
        rows.append((one.name, *baseline, f"{one.system:.2f}", *difference))
    return rows


def _lineage_facts(found: ScoreFile) -> list[tuple[str, str]]:
    facts = [("system", found.system), *_prints(found.lineage)]
    if found.comparison is not None:
        # References and source are the system's.
        own = [(f"baseline {name}", one) for name, one in _prints(found.comparison.lineage) if name in _OF_BASELINE]
        facts += [("baseline", found.comparison.baseline), *own]
    return facts


def _prints(lineage: Lineage) -> list[tuple[str, str]]:
    return list(lineage.prints().items())
