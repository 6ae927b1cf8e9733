"""Click's options from the fields of settings, and the settings from the values that a user gave.

A command whose function is decorated with `Settings(CONFIG)` has an option for each field of CONFIG and of the settings
that it holds, and receives them as one checked CONFIG.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kdcache.errors import UsageError
from kdcache.files import run_records
from kdcache.files.locations import check_local
from kdcache.process.ranks import this_process
from kdcache.settings import BASIC, EXPERT, Nested, Option, kind_of, spell

Values = Mapping[str, Any]


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """What a function makes of a text and of the option that it was given to."""

    name = "text"

    def __init__(self, parse: Callable[[str, str], Any]) -> None:
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, list):
            # What run.json made of a tuple.
            return tuple(value)
        return self._parse(value, param.opts[0] if param else "") if isinstance(value, str) else value


def _parse_local(text: str, _option: str) -> Path:
    check_local(text)
    return Path(text)


# A path on this machine, of something that is written.
LOCAL = _Parsed(_parse_local)


class _Choice(click.Choice):  # type: ignore[type-arg]
    """Texts that are listed and completed; the settings' own check refuses others, with the same words everywhere."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)


class GroupedOption(click.Option):
    """An option that stands below a heading of `--help`."""

    def __init__(self, *names: Any, group: str = BASIC, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group = group


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a class of settings: a decorator of commands.

    Attributes:
        config: the class.
        derive: from all values, by name, those of options that depend on others and were not given.
        unless: parameters with any of which there are no settings.
    """

    config: type[Any]
    derive: Callable[[Values], Values] = lambda values: {}
    unless: tuple[str, ...] = ()

    def __call__(self, function: Any) -> Any:
        """Decorate a command's function, which receives the settings as its argument `config`."""
        for parameter in reversed(self.parameters()):
            function.__click_params__ = [*getattr(function, "__click_params__", []), parameter]
        function.settings = self
        return function

    def parameters(self) -> list[click.Parameter]:
        """Options and arguments for click, in the order of the fields."""
        return [_parameter(*one) for one in _options(self.config, Nested(), optional=False)]

    def take(self, values: dict[str, Any]) -> Any:
        """Take the options' values out of `values`, and make the settings of them.

        Raises:
            UsageError: a value is not allowed, or values contradict each other.
        """
        mine = {str(one.name): values.pop(str(one.name)) for one in self.parameters()}
        if any(values[name] for name in self.unless):
            return None
        given = {name: value for name, value in mine.items() if value is not None}
        config = _build(self.config, {**self.derive(mine), **given}, Nested(), optional=False)
        config.check()
        return config

    def stored(self, record: Values) -> dict[str, Any]:
        """The options' values, by name, of settings as `run.json` has them.

        Raises:
            UsageError: a key is no setting.
        """
        return dict(_stored(self.config, record, Nested(), ""))


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of settings: its name, its type without None, whether it may be None, its default, and what it is."""

    name: str
    type: Any
    optional: bool
    default: Any
    kind: Option | Nested


def _fields(config: type[Any]) -> Iterator[_Field]:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, kind = hints[field.name], kind_of(field)
        types_ = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if kind is not None:
            yield _Field(field.name, types_[0], types.NoneType in types_, field.default, kind)


def _options(config: type[Any], place: Nested, *, optional: bool) -> Iterator[tuple[_Field, Option, bool]]:
    """Each field that is an option here, its option, and whether it must be given."""
    for field in _fields(config):
        if isinstance(field.kind, Nested):
            yield from _options(field.type, field.kind, optional=field.optional)
        elif (option := place.option(field.name, field.kind)).group is not None:
            required = field.default is dataclasses.MISSING and option.default_words is None
            yield field, option, required and not optional


def _parameter(field: _Field, option: Option, required: bool) -> click.Parameter:
    name = str(option.name)
    several = _several(field, option)
    if option.positional:
        return click.Argument([name], metavar=option.metavar, nargs=-1 if several else 1, required=True)
    default = None if field.default is dataclasses.MISSING else field.default
    more: dict[str, Any] = {"group": option.group, "help": _help(field, option, default), "required": required}
    if field.type is bool:
        return GroupedOption([spell(name), name], is_flag=True, **more)
    kind = typing.get_args(field.type)[0] if several else field.type
    metavar = option.metavar or {int: "N", float: "X"}.get(kind)
    if option.parse is not None:
        kind = _Parsed(option.parse)
    elif option.choices:
        kind = _Choice(tuple(option.choices))
    if default is not None:
        # For click a default of None is a value, with which no option would be missing.
        more["default"] = default
    return GroupedOption([spell(name), name], type=kind, metavar=metavar, multiple=several, **more)


def _several(field: _Field, option: Option) -> bool:
    """Whether an option may be given several times."""
    return typing.get_origin(field.type) is tuple and option.parse is None


def _help(field: _Field, option: Option, default: Any) -> str:
    shown = option.default_words
    if shown is None and default not in (None, ()) and field.type is not bool:
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    notes = [option.within.shown] if option.within is not None and option.within.shown else []
    notes += [] if shown is None else [f"default: {shown}"]
    return f"{option.help}  [{'; '.join(notes)}]" if notes else option.help


def _build(config: type[Any], values: Values, place: Nested, *, optional: bool) -> Any:
    """Settings of the values that are known, by the names of their options; None where they are optional and absent."""
    made: dict[str, Any] = {}
    needed: list[Option] = []
    for field in _fields(config):
        if isinstance(field.kind, Nested):
            made[field.name] = _build(field.type, values, field.kind, optional=field.optional)
            continue
        option = place.option(field.name, field.kind)
        if (value := values.get(str(option.name))) is not None:
            made[field.name] = not value if option.inverted else value
        if field.default is dataclasses.MISSING or (field.name in place.only and field.name != place.alone):
            needed.append(option)
    if place.alone in made and len(made) > 1:
        others = " and ".join(spell(place.prefix + name) for name in made if name != place.alone)
        raise UsageError(f"{spell(place.prefix + place.alone)} is the whole text; leave {others} out.")
    if optional and place.alone not in made:
        missing = [one for one in needed if values.get(str(one.name)) is None]
        if not made or (needed and len(missing) == len(needed)):
            return None
        if missing:
            both = " and ".join(f"{spell(str(one.name))} {one.metavar}" for one in needed)
            raise UsageError(f"{both} belong together; give both or neither.")
    return config(**made)


def _stored(config: type[Any], record: Values, place: Nested, above: str) -> Iterator[tuple[str, Any]]:
    fields = {field.name: field for field in _fields(config)}
    if unknown := record.keys() - fields.keys():
        raise UsageError(f"{above}{min(unknown)} is no setting here. These are: {', '.join(fields)}.")
    for name, value in record.items():
        field = fields[name]
        if isinstance(field.kind, Nested) and isinstance(value, Mapping):
            yield from _stored(field.type, value, field.kind, f"{above}{name}.")
        elif isinstance(field.kind, Option) and value is not None:
            option = place.option(name, field.kind)
            if option.parse is not None and isinstance(value, Mapping):
                # A value that moves, written as its option takes it.
                value = ":".join(map(str, value.values()))
            if isinstance(value, str) and _several(field, option):
                value = [value]
            if option.group is not None:
                yield str(option.name), not value if option.inverted else value


def output(metavar: str, help_text: str, *, required: bool = True) -> Callable[[Any], Any]:
    """The option --output: a path on this machine."""
    return click.option("--output", metavar=metavar, type=LOCAL, required=required, help=help_text)


def dry_run(help_text: str) -> Callable[[Any], Any]:
    """The flag --dry-run, with which --output may be left out."""
    return click.option("--dry-run", is_flag=True, help=help_text)


def overwrite_option() -> click.Option:
    """The flag --overwrite."""
    help_text = "Give an earlier output a name with the time, and begin anew; nothing is deleted."
    return GroupedOption(["--overwrite"], is_flag=True, group=EXPERT, help=help_text)


def with_overwrite(function: Any) -> Any:
    """Decorate a command that calls `set_aside` itself, since no parameter of it names its output."""
    function.__click_params__ = [*getattr(function, "__click_params__", []), overwrite_option()]
    return function


def set_aside(outputs: Iterable[Path | None]) -> None:
    """Do what --overwrite says.

    Raises:
        UsageError: several processes run this command, and none can know whose output it moves.
        OutputError: kdcache did not make what is there, or it cannot be renamed.
    """
    if this_process().count > 1:
        raise UsageError("--overwrite is for one process, not for those of torchrun. Rename the output yourself.")
    for output in outputs:
        if output is not None:
            run_records.set_aside(output)


def needs_output(output: Path | None) -> Path:
    """The path that --output names.

    Raises:
        UsageError: it is missing.
    """
    if output is None:
        raise UsageError("Missing option --output (only --dry-run goes without).")
    return output
