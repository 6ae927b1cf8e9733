"""Settings that are options too: a field of a frozen dataclass carries its help text, its range and its group.

`kdcache.cli.options` makes the options of a command from these fields. `check_fields` holds values to the same ranges,
whether they come from the command line, from the file of a sweep or from Python.
"""

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kdcache.errors import UsageError

BASIC, TRAINING, HARDWARE, EXPERT = GROUPS = ("What you need", "Training", "Hardware", "Expert")
_KEY = "kdcache"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that an option takes: in words that follow "must be", as a test, and in short for `--help`."""

    words: str
    holds: Callable[[Any], bool]
    shown: str = ""


def at_least(least: int) -> Range:
    """Numbers from `least` on."""
    return Range(f"at least {least}", lambda value: value >= least)


def between(least: float, most: float) -> Range:
    """Numbers from `least` to `most`, both included."""
    return Range(f"between {least} and {most}", lambda value: least <= value <= most, f"{least} to {most}")


# Comparisons, and not math.isfinite, which has no answer for an integer beyond all floating-point numbers.
FINITE = Range("a finite number", lambda value: abs(value) <= sys.float_info.max)
POSITIVE = Range("a finite number above 0", lambda value: 0 < value <= sys.float_info.max)
BELOW_1 = Range("at least 0 and below 1", lambda value: 0 <= value < 1, "0 to below 1")


class _Field:
    """What a field of a dataclass means to a user; one of these methods makes the field."""

    __slots__ = ()

    def required(self) -> Any:
        """A field without a default."""
        return dataclasses.field(metadata={_KEY: self})

    def default(self, value: T) -> T:
        """A field with a default."""
        return dataclasses.field(default=value, metadata={_KEY: self})


@dataclass(frozen=True, slots=True)
class Option(_Field):
    """What a field is to a user.

    Attributes:
        help: what the value means, with its unit.
        group: the heading of `--help` below which it stands, one of GROUPS; None: it is no option of any command.
        name: its name on the command line, with underscores, where that is not the field's.
        metavar: what stands for the value in `--help`.
        default_words: words for a default that is not a plain value.
        within: the numbers that are allowed.
        choices: the texts that are allowed.
        parse: makes the value of a text; raises UsageError. The second argument is the option as it is written.
        parts: the numbers or texts of a value that `within` and `choices` test, where it is made of several.
        test: raises UsageError where a value breaks another rule.
        positional: whether it is given by its place on the command line, without a name.
        inverted: whether the flag turns off what the field turns on.
    """

    help: str
    group: str | None = BASIC
    name: str | None = None
    metavar: str | None = None
    default_words: str | None = None
    within: Range | None = None
    choices: Collection[str] = ()
    parse: Callable[[str, str], Any] | None = None
    parts: Callable[[Any], Iterable[Any]] = lambda value: (value,)
    test: Callable[[Any], None] = lambda value: None
    positional: bool = False
    inverted: bool = False

    def check(self, field: str, value: Any) -> None:
        """Raise UsageError if a value of `field` is not allowed."""
        spelled = spell(self.name or field)
        for part in self.parts(value):
            if self.choices and part not in self.choices:
                raise UsageError(f"{spelled} must be one of {', '.join(self.choices)}, not {part}.")
            if self.within is not None and not self.within.holds(part):
                raise UsageError(f"{spelled} must be {self.within.words}, not {value}.")
        self.test(value)


@dataclass(frozen=True, slots=True)
class Nested(_Field):
    """A field that holds settings of their own, whose fields are options as well.

    Attributes:
        prefix: what stands before their names.
        only: the fields that are options here; empty: all.
        alone: the one of them that takes the place of all others.
        changes: by field, what is different about its option here, or about all of them by "".
    """

    prefix: str = ""
    only: tuple[str, ...] = ()
    alone: str = ""
    changes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def option(self, field: str, option: Option) -> Option:
        """The option of a field as it is here."""
        shown = option.group if not self.only or field in self.only else None
        name = self.prefix + (option.name or field)
        changes = {**self.changes.get("", {}), **self.changes.get(field, {})}
        return dataclasses.replace(option, **{"group": shown, "name": name, **(changes if shown else {})})


def kind_of(field: dataclasses.Field[Any]) -> Option | Nested | None:
    """What a field's metadata says that it is."""
    return field.metadata.get(_KEY)


def spell(name: str) -> str:
    """An option as it is written."""
    return "--" + name.replace("_", "-")


def options_of(config: type[Any], place: Nested | None = None, above: str = "") -> Iterator[tuple[str, Option]]:
    """The options of a class of settings, each with the dotted name of its field."""
    place, hints = place or Nested(), typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        kind, hint = kind_of(field), hints[field.name]
        if isinstance(kind, Nested):
            inner = typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
            yield from options_of(inner, kind, f"{above}{field.name}.")
        elif kind is not None and (option := place.option(field.name, kind)).group is not None:
            yield above + field.name, option


def check_fields(config: Any) -> None:
    """Raise UsageError if a field of a configuration, or of one that it holds, has a value that is not allowed."""
    for field in dataclasses.fields(config):
        kind, value = kind_of(field), getattr(config, field.name)
        if isinstance(kind, Nested) and value is not None:
            value.check()
        elif isinstance(kind, Option) and value is not None:
            kind.check(field.name, value)


# Options that several configurations have.
PRECISIONS = ("auto", "float32", "bfloat16")
DEVICE = Option("Device that computes; auto is a GPU if there is one.", HARDWARE, choices=("auto", "cpu", "cuda"))
PRECISION = Option(
    "Precision of matrix products; auto is bfloat16 on a GPU that computes in it, and float32 elsewhere.",
    HARDWARE,
    choices=PRECISIONS,
)
SKIP_BAD = Option("Leave out pairs that cannot be used, and count them, instead of refusing the text.", EXPERT)
