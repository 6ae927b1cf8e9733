"""JSON that is written the same for equal values, and read as if an enemy had written it."""

import dataclasses
import json
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from kdcache.errors import CorruptError

BYTES_MAX = 64 << 20

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

T = TypeVar("T")


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys and no spare white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def readable_json(value: Any) -> bytes:
    """Return `value` as indented JSON that ends in a newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file strictly.

    Raises:
        CorruptError: the file is missing, not regular, huge, not JSON, nested too deeply, or repeats a key.
    """
    try:
        if not path.exists() and not path.is_symlink():
            raise CorruptError(f"{path}: no such file.")
        if not path.is_file():
            raise CorruptError(f"{path}: expected a regular file or a link to one, found none.")
        if path.stat().st_size > BYTES_MAX:
            raise CorruptError(f"{path}: {path.stat().st_size:,} bytes of JSON; at most {BYTES_MAX:,} are read.")
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise CorruptError(f"{path}: cannot be read: {error.strerror or error}.") from error


def parse_json(data: bytes, place: str) -> Any:
    """Parse JSON strictly; `place` opens the message of the `CorruptError` that bad input raises."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite
        )
        if _SURROGATE.search(data):
            # Half of a surrogate pair makes a string that cannot be written again: this raises ValueError.
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except ValueError as error:
        raise CorruptError(f"{place}: not valid JSON: {error}.") from error
    except RecursionError:
        raise CorruptError(f"{place}: JSON nested too deeply.") from None


def _unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) != len(items):
        raise ValueError("an object repeats a key")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def from_json(kind: type[T], value: Any, place: str) -> T:
    """Build a dataclass from parsed JSON; every field must be there with its type, and nothing else.

    Raises:
        CorruptError: the message opens with `place` and names the field.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(value, dict) or set(value) != set(hints):
        raise CorruptError(f"{place}: expected an object with the fields {', '.join(hints)}.")
    return kind(**{name: _convert(hint, value[name], f"{place}: {name}") for name, hint in hints.items()})


def _convert(hint: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, place)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise CorruptError(f"{place}: expected a list.")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    if isinstance(hint, types.UnionType):
        # Optional fields only: `kind | None`.
        return None if value is None else _convert(typing.get_args(hint)[0], value, place)
    if hint is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise CorruptError(f"{place}: an integer too large for a number.") from None
    if type(value) is not hint:
        raise CorruptError(f"{place}: expected {hint.__name__}, found {type(value).__name__}.")
    return value
