"""Options whose values come from a file or from a preset, where they are not given on the command line."""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kdcache.cli.options import LOCAL, GroupedOption, Settings
from kdcache.errors import UsageError
from kdcache.files.run_records import RUN_FILE
from kdcache.files.strict_json import read_json
from kdcache.settings import EXPERT, TRAINING


def config_option(settings: Settings) -> click.Option:
    """The option --config, which takes `settings` from a file."""

    def take(context: click.Context, _: click.Parameter, file: Path | None) -> None:
        if file is not None:
            values = settings.stored(_read(file, str(context.command.name)))
            # A record leaves the secrets of a URL out; such an option must be given again.
            use(context, {name: value for name, value in values.items() if not re.match(r"\w+://.*…", str(value))})

    return GroupedOption(
        ["--config", "config_file"],
        group=EXPERT,
        metavar="FILE",
        type=LOCAL,
        is_eager=True,
        expose_value=False,
        callback=take,
        help=f"Take options that are not given from the {RUN_FILE} of another run, or from TOML with the same keys.",
    )


def preset_option(presets: Mapping[str, Mapping[str, Any]]) -> Callable[[Any], Any]:
    """The option --preset, which names values of several options."""

    def take(context: click.Context, _: click.Parameter, name: str | None) -> None:
        if name is not None:
            use(context, presets[name])

    return click.option(
        "--preset",
        cls=GroupedOption,
        group=TRAINING,
        type=click.Choice(tuple(presets)),
        is_eager=True,
        expose_value=False,
        callback=take,
        help="Settings of a paper for all options that are not given.",
    )


def give_way(context: click.Context) -> None:
    """Leave out what a file or preset says where the command line gives its alternative."""
    for given, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        sources = context.get_parameter_source(given), context.get_parameter_source(other)
        if sources == (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
            context.params[other] = None


def use(context: click.Context, values: Mapping[str, Any]) -> None:
    """Let these be the values of options that are not given."""
    context.default_map = {**(context.default_map or {}), **values}


def _read(file: Path, command: str) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        UsageError: it cannot be read, or is the record of another command.
    """
    if file.suffix == ".json":
        record = read_json(file)
        if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
            raise UsageError(f"--config {file}: not the record of a run.")
        if record.get("command") != command:
            raise UsageError(f"--config {file}: the record of kdcache {record.get('command')}, not of {command}.")
        return dict(record["config"])
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--config {file}: cannot be read as TOML: {error}") from error
