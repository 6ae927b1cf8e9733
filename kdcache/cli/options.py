"""Options that several commands share, handed to the commands as the objects that they describe.

Defaults are those of the dataclasses that the options fill.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import click

from kdcache.cli.console import set_up
from kdcache.errors import UsageError
from kdcache.files.locations import StoreConfig, check_local, parse_size
from kdcache.losses.objective_config import GATES, OBJECTIVES, ObjectiveConfig, Ramp, parse_ramp
from kdcache.student.generate_config import GenerateConfig
from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import PRECISIONS

Decorator = Callable[[Any], Any]
DEVICES = ("auto", "cpu", "cuda")


def default_of(config: type[Any], name: str) -> Any:
    """The default value of a dataclass's field."""
    return next(field.default for field in dataclasses.fields(config) if field.name == name)


def gathered(name: str, build: Callable[..., Any], *choices: Decorator) -> Decorator:
    """Several options that reach the command as one argument `name`: what `build` makes of their values.

    `choices` may be gathered themselves: `build` then receives what these make.
    """

    def make(**values: Any) -> Any:
        return build(**values)

    made: Any = make
    for choice in reversed(choices):
        made = choice(made)
    own = list(made.__click_params__)

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def wrapped(**values: Any) -> Any:
            mine = {parameter.name: values.pop(parameter.name) for parameter in own}
            return command(**values, **{name: made(**mine)})

        result: Any = wrapped
        result.__click_params__ = [*getattr(command, "__click_params__", []), *own]
        return result

    return decorate


def verbosity(command: Any) -> Any:
    """Add -v and -q, and set up the screen before the command runs."""

    @click.option("-v", "--verbose", is_flag=True, help="Say more.")
    @click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
    @functools.wraps(command)
    def wrapped(*, verbose: bool, quiet: bool, **rest: Any) -> Any:
        set_up(verbose, quiet)
        return command(**rest)

    return wrapped


def written(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Callback of every argument and option that names what is written: refuse a URL there."""
    if value is not None:
        check_local(value)
    return value


def _text_files(source: str | None, target: str | None, pairs: str | None) -> TextFiles:
    files = TextFiles(source, target, pairs)
    files.paths()
    return files


def _text(build: Callable[..., Any], use: str) -> Decorator:
    return gathered(
        "text",
        build,
        click.option("--source", metavar="F", help=f"Source text, one sentence a line; .gz too{use}."),
        click.option("--target", metavar="F", help="Target text, line by line beside the source."),
        click.option(
            "--pairs",
            metavar="F",
            help="Both sides in one file instead: tab-separated, or .jsonl with source and target.",
        ),
    )


def _optional_files(source: str | None, target: str | None, pairs: str | None) -> TextFiles | None:
    return None if source is None and target is None and pairs is None else _text_files(source, target, pairs)


text = _text(_text_files, "")
text_to_compare = _text(_optional_files, ", to be compared with the text in the cache")


def _valid_files(valid_source: str | None, valid_target: str | None) -> TextFiles | None:
    if (valid_source is None) != (valid_target is None):
        raise UsageError("Give the validation text as --valid-source F and --valid-target F together.")
    return None if valid_source is None else TextFiles(valid_source, valid_target)


valid = gathered(
    "valid",
    _valid_files,
    click.option("--valid-source", metavar="F", help="Validation source."),
    click.option("--valid-target", metavar="F", help="Validation target."),
)
skip_bad = click.option(
    "--skip-bad", is_flag=True, help="Leave out pairs that cannot be used, and count them, instead of refusing them."
)
device = click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where to run.")
precision = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Of matrix products; auto is bfloat16 on a GPU that has it, else float32.",
)
beam_size = click.option(
    "--beam-size",
    type=int,
    default=default_of(GenerateConfig, "beam_size"),
    show_default=True,
    help="Hypotheses kept; 1 is greedy search.",
)
length_penalty = click.option(
    "--length-penalty",
    type=float,
    default=default_of(GenerateConfig, "length_penalty"),
    show_default=True,
    help="p in log P / length^p. GNMT's, which papers quote as 0.6, is ((5 + length) / 6)^0.6.",
)


def _size(_context: click.Context, option: click.Parameter, value: str) -> int:
    return parse_size(value, option.opts[0])


def _store(cache_folder: str | None, cache_limit: int) -> StoreConfig:
    return StoreConfig(cache_folder, cache_limit)


store = gathered(
    "store",
    _store,
    click.option(
        "--cache-folder",
        metavar="DIR",
        callback=written,
        help="Folder for copies of a remote cache's shards.  [default: kdcache in $XDG_CACHE_HOME or ~/.cache]",
    ),
    click.option(
        "--cache-limit",
        metavar="SIZE",
        callback=_size,
        default=f"{default_of(StoreConfig, 'limit') // 10**9}GB",
        show_default=True,
        help="Room for these copies; the least recently used make way.",
    ),
)


def _ramp(_context: click.Context, option: click.Parameter, value: str) -> float | Ramp:
    return parse_ramp(value, option.opts[0])


def _objective(objective: str, **values: Any) -> ObjectiveConfig:
    return ObjectiveConfig(name=objective, **values)


objective = gathered(
    "objective",
    _objective,
    click.option(
        "--objective",
        type=click.Choice(OBJECTIVES),
        default=default_of(ObjectiveConfig, "name"),
        show_default=True,
        help="The soft term: how the teacher's top-k is compared with the student; see docs/method.md.",
    ),
    click.option(
        "--alpha",
        metavar="A",
        callback=_ramp,
        default=str(default_of(ObjectiveConfig, "alpha")),
        show_default=True,
        help="Weight of the hard labels; 1 is plain training; START:STOP:STEPS changes it over the first steps. Chen "
        "et al. write it on the soft ones.",
    ),
    click.option(
        "--temperature",
        metavar="T",
        callback=_ramp,
        default=str(default_of(ObjectiveConfig, "temperature")),
        show_default=True,
        help="T that flattens the teacher's top-k; START:STOP:STEPS too.",
    ),
    click.option("--topk", type=int, help="Stored words that are used.  [default: all]"),
    click.option(
        "--label-smoothing",
        type=float,
        default=default_of(ObjectiveConfig, "label_smoothing"),
        show_default=True,
        help="Of the hard labels only.",
    ),
    click.option(
        "--gate",
        type=click.Choice(GATES),
        default=default_of(ObjectiveConfig, "gate"),
        show_default=True,
        help="Soft labels only where the teacher is confident, or knows the written word; hard ones alone elsewhere.",
    ),
    click.option(
        "--gate-threshold",
        type=float,
        default=default_of(ObjectiveConfig, "gate_threshold"),
        show_default=True,
        help="Probability of the teacher's best word that counts as confident.",
    ),
)
