"""`kdcache score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from kdcache.cli import options
from kdcache.cli.console import quiet_transformers
from kdcache.console import tables
from kdcache.errors import UsageError
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import Run, file_run
from kdcache.scoring.measure import ScoreConfig, ScoreTask, measure, prepare
from kdcache.scoring.score_table import FORMATS, build, latex, markdown, read_rows
from kdcache.scoring.scorers import METRICS, Estimate
from kdcache.student.generate_config import GenerateConfig

if TYPE_CHECKING:
    from kdcache.scoring.lineage import Lineage
    from kdcache.scoring.score_corpus import Score
    from kdcache.scoring.score_file import Comparison, ScoreFile

_OF_BASELINE = frozenset({"hypothesis", "student", "cache"})
_OF_TABLE = frozenset({"table", "results", "notation", "verbose", "quiet"})


def _score_config(
    reference: tuple[str, ...],
    hypothesis: str | None,
    student: str | None,
    source: str | None,
    baseline: str | None,
    metric: tuple[str, ...],
    lowercase: bool,
    resamples: int,
    beam_size: int,
    length_penalty: float,
    device: str,
) -> ScoreConfig:
    if (student is None) != (source is None):
        raise UsageError("--student DIR and --source F belong together: the source is what the student is given.")
    search = None
    if student is not None and source is not None:
        search = GenerateConfig(student, source, beam_size, length_penalty, device=device)
    return ScoreConfig(reference, hypothesis, search, baseline, metric, lowercase, resamples)


config = options.gathered(
    "config",
    _score_config,
    click.option("--reference", multiple=True, metavar="F", help="Reference text; repeat for several."),
    click.option("--hypothesis", metavar="F", help="Text to score, one hypothesis a line."),
    click.option("--student", metavar="DIR", help="Student to score instead; needs --source."),
    click.option("--source", metavar="F", help="What the student is given."),
    click.option(
        "--baseline",
        metavar="F",
        help="Text to compare with, by a paired test; or, beside --student, the folder of another student, which gets "
        "the same source.",
    ),
    click.option(
        "--metric",
        multiple=True,
        type=click.Choice(METRICS),
        default=options.default_of(ScoreConfig, "metric"),
        show_default=True,
        help="Repeat for several.",
    ),
    click.option("--lowercase", is_flag=True, help="Ignore case; appears in the signature."),
    click.option(
        "--resamples",
        type=int,
        default=options.default_of(ScoreConfig, "resamples"),
        show_default=True,
        help="Test sets drawn for intervals and p-values. The seed is SACREBLEU_SEED in the environment, or 12345.",
    ),
    options.beam_size,
    options.length_penalty,
    options.device,
)


@click.command("score")
@click.argument("results", nargs=-1, metavar="[RESULT...]")
@config
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    callback=options.written,
    help="Write all results there too; --table reads them.",
)
@click.option(
    "--sentences",
    "sentence_file",
    metavar="FILE",
    callback=options.written,
    help="Write the scores of each sentence there: JSON lines if it ends in .jsonl, else tab-separated.",
)
@click.option("--table", is_flag=True, help="Print a table of results of --json instead: files, or folders with them.")
@click.option(
    "--format", "notation", type=click.Choice(FORMATS), default="markdown", show_default=True, help="Of --table."
)
@options.verbosity
@click.pass_context
def score(
    context: click.Context,
    results: tuple[str, ...],
    config: ScoreConfig,
    json_file: str | None,
    sentence_file: str | None,
    table: bool,
    notation: str,
) -> None:
    """Score hypotheses, or a student, against references: BLEU, chrF, TER, ROUGE.

    Every number comes with its 95 % interval. With --baseline the difference between two systems is tested.

    \b
    Example:
      kdcache score --reference test.en --student student --source test.de --metric bleu --metric rouge
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
    runs = [file_run(Path(one), "score", config, task.inputs()) for one in (json_file, sentence_file) if one]
    _run(task, runs, json_file, sentence_file)


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def _refuse_others(context: click.Context) -> None:
    """Raise UsageError if an option was given that --table has no use for."""
    others = [one for one in context.command.params if one.name not in _OF_TABLE and _given(context, str(one.name))]
    if others:
        raise UsageError(f"--table prints what was scored before; leave {others[0].opts[0]} out.")


def _run(task: ScoreTask, runs: list[Run], json_file: str | None, sentence_file: str | None) -> None:
    found, hypotheses = measure(task)
    _print(found)
    if json_file is not None:
        replace_file(Path(json_file), found.content())
    if sentence_file is not None:
        from kdcache.scoring.sentence_scores import as_jsonl, as_tsv, sentence_scores

        config = task.config
        scores = sentence_scores(hypotheses, task.reference_sentences, config.metric, lowercase=config.lowercase)
        write = as_jsonl if sentence_file.endswith(".jsonl") else as_tsv
        replace_file(Path(sentence_file), write(hypotheses, scores))
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
