"""`kdcache generate` and `kdcache score`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcache import tables
from kdcache.cli import options
from kdcache.cli.console import quiet_transformers
from kdcache.corpus import read_sentences
from kdcache.errors import UsageError
from kdcache.files import replace_file
from kdcache.generate.config import GenerateConfig
from kdcache.records import readable_json
from kdcache.runs import file_run

if TYPE_CHECKING:
    from kdcache.score import Score

_METRICS = ("bleu", "chrf", "ter", "rouge")
_DEFAULT_METRICS = ("bleu", "chrf")

beam_size = click.option(
    "--beam-size",
    type=int,
    default=options.default_of(GenerateConfig, "beam_size"),
    show_default=True,
    help="Hypotheses kept; 1 is greedy search.",
)
length_penalty = click.option(
    "--length-penalty",
    type=float,
    default=options.default_of(GenerateConfig, "length_penalty"),
    show_default=True,
    help="p in log P / length^p. GNMT's, which papers quote as 0.6, is ((5 + length) / 6)^0.6.",
)


@click.command("generate")
@click.option("--student", required=True, metavar="DIR", help="What student-train wrote.")
@click.option("--source", required=True, metavar="F", help="Source text, one sentence a line; .gz too.")
@click.option("--output", required=True, metavar="F", help="Where the hypotheses go, one a line.")
@beam_size
@length_penalty
@options.device
@options.verbosity
def generate(student: str, source: str, output: str, beam_size: int, length_penalty: float, device: str) -> None:
    """Write a target text for every line of a source, by beam search.

    \b
    Example:
      kdcache generate --student student --source test.de --output test.hyp
    """
    config = GenerateConfig(student, source, beam_size, length_penalty, device=device)
    config.check()
    from kdcache.generate.search import generate_file

    quiet_transformers()
    generate_file(config, Path(output))


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreConfig:
    """What is scored and how; see the options of `kdcache score`."""

    reference: tuple[str, ...]
    hypothesis: str | None
    student: GenerateConfig | None
    metric: tuple[str, ...]
    lowercase: bool


@click.command("score")
@click.option("--reference", required=True, multiple=True, metavar="F", help="Reference text; repeat for several.")
@click.option("--hypothesis", metavar="F", help="Text to score, one hypothesis a line.")
@click.option("--student", metavar="DIR", help="Student to score instead; needs --source.")
@click.option("--source", metavar="F", help="What the student is given.")
@click.option(
    "--metric",
    multiple=True,
    type=click.Choice(_METRICS),
    default=_DEFAULT_METRICS,
    show_default=True,
    help="Repeat for several.",
)
@click.option("--lowercase", is_flag=True, help="Ignore case; appears in the signature.")
@beam_size
@length_penalty
@options.device
@click.option("--json", "json_file", metavar="FILE", help="Write the scores there too, as a list.")
@options.verbosity
def score(
    reference: tuple[str, ...],
    hypothesis: str | None,
    student: str | None,
    source: str | None,
    metric: tuple[str, ...],
    lowercase: bool,
    beam_size: int,
    length_penalty: float,
    device: str,
    json_file: str | None,
) -> None:
    """Score hypotheses, or a student, against references: BLEU, chrF, TER, ROUGE.

    \b
    Example:
      kdcache score --reference test.en --student student --source test.de --metric bleu --metric rouge
    """
    if (hypothesis is None) == (student is None) or (student is None) != (source is None):
        raise UsageError("Give either --hypothesis F, or --student DIR with --source F.")
    search = None
    if student is not None and source is not None:
        search = GenerateConfig(student, source, beam_size, length_penalty, device=device)
    config = ScoreConfig(reference, hypothesis, search, metric, lowercase)
    run = None if json_file is None else file_run(Path(json_file), "score", config)
    scores, ceilings = _measure(config)
    _print(scores, ceilings)
    if run is not None and json_file is not None:
        entries = [_entry(one, ceilings) for one in scores]
        replace_file(Path(json_file), readable_json(entries))
        run.finish({"scores": {one.name: one.value for one in scores}})


def _measure(config: ScoreConfig) -> tuple[list[Score], dict[str, float]]:
    """Scores, and for a student the ceiling of each by name."""
    references = [read_sentences(Path(path)) for path in config.reference]
    if config.student is not None:
        from kdcache.evaluate import evaluate

        quiet_transformers()
        found = evaluate(config.student, references, config.metric, lowercase=config.lowercase)
        return found.scores, {one.name: one.value for one in found.ceilings}
    from kdcache.score import score_corpus

    hypotheses = read_sentences(Path(str(config.hypothesis)))
    return score_corpus(hypotheses, references, config.metric, lowercase=config.lowercase), {}


def _entry(one: Score, ceilings: dict[str, float]) -> dict[str, Any]:
    entry = one.as_json()
    if one.name in ceilings:
        entry["ceiling"] = ceilings[one.name]
    return entry


def _print(scores: list[Score], ceilings: dict[str, float]) -> None:
    rows = [("metric", "value", "precision", "recall", *(("ceiling",) if ceilings else ()))]
    for one in scores:
        cells = [one.name, f"{one.value:.2f}", _optional(one.precision), _optional(one.recall)]
        rows.append((*cells, *((f"{ceilings[one.name]:.2f}",) if ceilings else ())))
    click.echo(tables.table(_without_empty_columns(rows)))
    click.echo()
    for one in scores:
        click.echo(f"{one.name}: {one.signature}, n = {one.n:,}")
    if ceilings:
        click.echo("ceiling: what the references score after the student's tokenizer has encoded and decoded them.")


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _without_empty_columns(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    kept = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    return [tuple(row[column] for column in kept) for row in rows]
