"""`kdcache score`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from kdcache.cli.options import LOCAL, GroupedOption, Settings
from kdcache.cli.screen import Command, quiet_transformers
from kdcache.cli.stored_settings import use
from kdcache.console import tables
from kdcache.errors import UsageError
from kdcache.scoring.score_config import ScoreConfig, score_defaults
from kdcache.settings import EXPERT

if TYPE_CHECKING:
    from kdcache.scoring.score_corpus import Score
    from kdcache.scoring.score_file import Comparison, ScoreFile

_OF_BASELINE = frozenset({"hypothesis", "student", "cache"})
# The options of texts that are given by their place.
_TEXTS = ("reference", "hypothesis")
_OF_TABLE = frozenset({"table", "given", "notation", "verbose", "quiet"})


def _take_texts(context: click.Context, _: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Let what is given by its place, if it is not for --table, be the values of options."""
    if given and not context.params.get("table"):
        if len(given) > len(_TEXTS) or any(text.endswith(".json") for text in given):
            raise UsageError("Only REF and HYP go without an option. RESULTs belong to --table, which prints them.")
        reference, *hypothesis = given
        use(context, {"reference": [reference], **({"hypothesis": hypothesis[0]} if hypothesis else {})})
    return given


@click.command("score", cls=Command)
@click.argument("given", nargs=-1, metavar="[REF HYP | RESULT...]", is_eager=True, callback=_take_texts)
@Settings(ScoreConfig, score_defaults, unless=("table",))
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=LOCAL,
    help="Write all results into this file, or - to standard output; --table reads it.",
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
    "--table",
    is_flag=True,
    is_eager=True,
    help="Print a table of RESULTs instead: files of --json, or folders with such files.",
)
@click.option(
    "--format",
    "notation",
    type=click.Choice(("markdown", "latex")),
    default="markdown",
    show_default=True,
    help="Notation of the table.",
)
@click.pass_context
def score(
    context: click.Context,
    given: tuple[str, ...],
    config: ScoreConfig,
    json_file: Path | None,
    sentence_file: Path | None,
    table: bool,
    notation: str,
) -> None:
    """Score a text or a student by BLEU, chrF, TER, ROUGE.

    Every number comes with its 95 % interval. With --baseline the difference between two systems is tested. -v and
    --json add precision and recall of ROUGE, and fingerprints of all that a score depends on.

    \b
    Example:
      kdcache score test.en test.hyp
      kdcache score --reference test.en --student student --source test.de --metric bleu
      kdcache score --reference test.en --hypothesis a.hyp --baseline b.hyp --json a.json
      kdcache score --table a.json b.json --format latex
    """
    if table:
        _refuse_others(context)
        if not given:
            raise UsageError("--table needs results of kdcache score --json: files, or folders with them.")
        _print_table([Path(result) for result in given], notation)
        return
    if _given(context, "notation"):
        raise UsageError("RESULT and --format belong to --table, which prints what was scored before.")
    for name in _TEXTS[: len(given)]:
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name} was given twice: by its name and by its place.")
    if json_file is not None and json_file == sentence_file:
        raise UsageError(f"--json and --sentences are both {json_file}; give each a file of its own.")
    if config.student is not None:
        quiet_transformers()
    _score(config, json_file, sentence_file, verbose=context.meta["verbose"])


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def _refuse_others(context: click.Context) -> None:
    """Raise UsageError if an option was given that --table has no use for."""
    others = [one for one in context.command.params if one.name not in _OF_TABLE and _given(context, str(one.name))]
    if others:
        raise UsageError(f"--table prints what was scored before; leave {others[0].opts[0]} out.")


def _print_table(results: list[Path], notation: str) -> None:
    from kdcache.scoring.score_table import latex, markdown, read_rows

    rows = read_rows(results)
    click.echo(latex(rows) if notation == "latex" else markdown(rows))


def _score(config: ScoreConfig, json_file: Path | None, sentence_file: Path | None, *, verbose: bool) -> None:
    from kdcache.files.atomic import write_output
    from kdcache.files.locations import STANDARD
    from kdcache.files.run_records import file_run
    from kdcache.scoring.run_score import measure, prepare
    from kdcache.scoring.sentence_scores import as_jsonl, as_tsv, sentence_scores

    task = prepare(config)
    files = [file for file in (json_file, sentence_file) if file is not None]
    runs = [file_run(file, "score", config, task.inputs()) for file in files if file != STANDARD]
    found, hypotheses = measure(task)
    if STANDARD not in (json_file, sentence_file):
        _print(found, verbose)
    if json_file is not None:
        write_output(json_file, found.content())
    if sentence_file is not None:
        scores = sentence_scores(hypotheses, task.reference_sentences, config.metric, config.settings)
        write = as_jsonl if sentence_file.suffix == ".jsonl" else as_tsv
        write_output(sentence_file, write(hypotheses, scores))
    for run in runs:
        run.finish({"scores": {one.name: one.value for one in found.scores}, "lineage": found.lineage.prints()})


def _print(found: ScoreFile, verbose: bool) -> None:
    comparison, bootstrap = found.comparison, found.bootstrap
    head = ["metric", "value", "95 % interval"]
    rows, ceilings = list(_rows(found.scores, verbose)), list(_rows(found.ceilings, verbose))
    if ceilings:
        head += ["ceiling", "95 % interval"]
        rows = [[*row, *ceiling[1:]] for row, ceiling in zip(rows, ceilings, strict=True)]
    click.echo(tables.table([head, *rows]))
    facts = [("system", found.system), *(found.lineage.prints().items() if verbose else ())]
    notes = [f"{score.name}: {score.signature}, n = {score.n:,}" for score in found.scores]
    drawn = f"{bootstrap.resamples:,} resamples, seed {bootstrap.seed}"
    notes.append(f"intervals: 95 %, bootstrap over sentences, {drawn}.")
    if comparison is not None:
        click.echo(f"\n{tables.table(_comparison_rows(comparison))}")
        notes.append("p: paired bootstrap, the same resamples; one tail, a two-sided test gives about twice as much.")
        # References and source are the system's.
        prints = comparison.lineage.prints().items()
        facts.append(("baseline", comparison.baseline))
        facts += [(f"baseline {name}", value) for name, value in prints if verbose and name in _OF_BASELINE]
    if ceilings:
        notes.append("ceiling: what the references score after the student's tokenizer has encoded and decoded them.")
    click.echo("\n".join(["", *notes, "", tables.facts(facts)]))


def _rows(scores: Iterable[Score], verbose: bool) -> Iterable[list[str]]:
    """The numbers of scores, and of their parts if all are asked for, each with its name and interval."""
    for score in scores:
        for name, one in (("", score), (" precision", score.precision), (" recall", score.recall)):
            if one is not None and (verbose or not name):
                yield [score.name + name, *_cells(one.value, one.low, one.high)]


def _comparison_rows(comparison: Comparison) -> list[list[str]]:
    rows = [["metric", "baseline", "95 % interval", "system", "difference", "95 % interval", "p"]]
    for one, score in zip(comparison.differences, comparison.scores, strict=True):
        baseline = _cells(score.value, score.low, score.high)
        difference = _cells(one.difference, one.low, one.high, "+")
        rows.append([one.name, *baseline, f"{one.system:.2f}", *difference, f"{one.p_value:.4f}"])
    return rows


def _cells(value: float, low: float, high: float, sign: str = "") -> tuple[str, str]:
    return f"{value:{sign}.2f}", f"{low:{sign}.2f} to {high:{sign}.2f}"
