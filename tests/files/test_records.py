"""JSON: one spelling for equal values, and a reader that nothing gets past."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import CorruptError
from kdcache.files import strict_json


@dataclasses.dataclass(frozen=True)
class Inner:
    mass: float
    known: int


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    complete: bool
    bound: int | None
    inner: Inner
    others: tuple[Inner, ...]
    counts: tuple[int, ...]


INNER = st.builds(Inner, st.floats(allow_nan=False, allow_infinity=False), st.integers())
OUTER = st.builds(
    Outer,
    st.text(st.characters(exclude_categories=("Cs",))),
    st.booleans(),
    st.none() | st.integers(),
    INNER,
    st.lists(INNER, max_size=3).map(tuple),
    st.lists(st.integers(), max_size=3).map(tuple),
)
GOOD: dict[str, Any] = {
    "name": "a",
    "complete": True,
    "bound": 3,
    "inner": {"mass": 0.5, "known": 1},
    "others": [{"mass": 1, "known": 2}],
    "counts": [1, 2],
}


def test_canonical_form_by_hand() -> None:
    """Keys are sorted, nothing is escaped or padded, and the order of insertion does not show."""
    expected = '{"a":[1,2.5,null],"ß":{"x":true}}'.encode()
    assert strict_json.canonical_json({"ß": {"x": True}, "a": [1, 2.5, None]}) == expected
    assert strict_json.canonical_json({"a": (1, 2.5, None), "ß": {"x": True}}) == expected


@pytest.mark.parametrize("write", [strict_json.canonical_json, strict_json.readable_json])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_number_is_not_written(write: Any, number: float) -> None:
    """Neither writer produces NaN or Infinity, which other readers refuse."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"x": [number]})


def test_readable_form_ends_its_last_line() -> None:
    """Files for people are indented, unescaped and end in a line feed."""
    assert strict_json.readable_json({"b": "ü", "a": 1}) == '{\n  "b": "ü",\n  "a": 1\n}\n'.encode()


@settings(deadline=None)
@given(OUTER)
def test_a_dataclass_survives_its_file_form(value: Outer) -> None:
    """Every value comes back equal from both written forms."""
    for write in (strict_json.canonical_json, strict_json.readable_json):
        parsed = strict_json.parse_json(write(dataclasses.asdict(value)), "x")
        assert strict_json.from_json(Outer, parsed, "x") == value


def test_an_integer_passes_for_a_float_and_becomes_one() -> None:
    """A float written without its point is read as a float, and None only where it is allowed."""
    found = strict_json.from_json(Outer, {**GOOD, "bound": None}, "x")
    assert found == Outer("a", True, None, Inner(0.5, 1), (Inner(1.0, 2),), (1, 2))
    assert type(found.others[0].mass) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "x: name: expected str, found int"),
        ({"name": None}, "x: name: expected str, found NoneType"),
        ({"complete": 1}, "x: complete: expected bool, found int"),
        ({"bound": "3"}, "x: bound: expected int, found str"),
        ({"bound": True}, "x: bound: expected int, found bool"),
        ({"bound": 3.0}, "x: bound: expected int, found float"),
        ({"inner": []}, "x: inner: expected an object with the fields mass, known"),
        ({"inner": {"mass": 0.5}}, "x: inner: expected an object"),
        ({"inner": {"mass": 0.5, "known": 1, "more": 1}}, "x: inner: expected an object"),
        ({"inner": {"mass": True, "known": 1}}, "x: inner: mass: expected float, found bool"),
        ({"inner": {"mass": 10**400, "known": 1}}, "x: inner: mass: an integer too large"),
        ({"others": {}}, "x: others: expected a list"),
        ({"others": [{"mass": 1, "known": 2}, 7]}, r"x: others\[1\]: expected an object"),
        ({"counts": [1, 2.0]}, r"x: counts\[1\]: expected int, found float"),
        ({"counts": "12"}, "x: counts: expected a list"),
        ({"extra": 1}, "x: expected an object with the fields name, complete, bound"),
    ],
)
def test_from_json_is_strict(change: dict[str, Any], message: str) -> None:
    """A wrong type, a missing field and an unknown field are refused by name; bool is no int."""
    strict_json.from_json(Outer, GOOD, "x")
    with pytest.raises(CorruptError, match=message):
        strict_json.from_json(Outer, GOOD | change, "x")


@pytest.mark.parametrize("field", list(GOOD))
def test_every_field_is_needed(field: str) -> None:
    """Leaving out any one field is refused."""
    with pytest.raises(CorruptError, match="expected an object with the fields"):
        strict_json.from_json(Outer, {name: value for name, value in GOOD.items() if name != field}, "x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "mass", "known"]), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, st.sampled_from(list(GOOD)))
def test_any_json_gives_the_dataclass_or_an_error(value: Any, field: str) -> None:
    """Whatever JSON stands where a record should, the answer is a well-typed record or a `CorruptError`."""
    for candidate in (value, {**GOOD, field: value}):
        try:
            found = strict_json.from_json(Outer, candidate, "x")
        except CorruptError:
            continue
        assert isinstance(found.inner, Inner)
        assert type(found.inner.mass) is float
        assert all(type(count) is int for count in found.counts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "repeats a key"),
        (b'{"a": 1, "\\u0061": 2}', "repeats a key"),
        (b"[NaN]", "NaN is not a number"),
        (b"[-Infinity]", "-Infinity is not a number"),
        (b"[1e999]", "1e999 is too large"),
        (b"[" + b"9" * 5_000 + b"]", "not valid JSON"),
        (b'["\\uD83d"]', "not valid JSON"),
        (b'{"\\udc00": 1}', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    ],
)
def test_bad_json_is_refused(data: bytes, message: str) -> None:
    """What is not one unambiguous JSON value is refused, and the message opens with its place."""
    with pytest.raises(CorruptError, match=message) as caught:
        strict_json.parse_json(data, "place")
    assert str(caught.value).startswith("place: ")


@settings(deadline=None)
@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_parsed_can_be_written_again(data: bytes) -> None:
    """Arbitrary bytes give a `CorruptError` or a value that the canonical writer accepts."""
    try:
        value = strict_json.parse_json(data, "x")
    except CorruptError:
        return
    assert strict_json.parse_json(strict_json.canonical_json(value), "x") == value


def test_escaped_surrogate_pair_is_one_character() -> None:
    """Two escapes that belong together are the character they stand for."""
    assert strict_json.parse_json(b'"\\ud83d\\ude00"', "x") == "\U0001f600"


def test_read_json_takes_regular_files_only(tmp_path: Path) -> None:
    """A missing file, a folder, a link to none and a device are refused before a byte of them is read."""
    good = tmp_path / "good.json"
    good.write_bytes(b'{"a": 1}')
    assert strict_json.read_json(good) == {"a": 1}
    link = tmp_path / "link.json"
    link.symlink_to(good)
    assert strict_json.read_json(link) == {"a": 1}
    circle = tmp_path / "circle.json"
    circle.symlink_to(circle)
    fifo = tmp_path / "fifo.json"
    os.mkfifo(fifo)
    with pytest.raises(CorruptError, match=r"none.json: no such file\."):
        strict_json.read_json(tmp_path / "none.json")
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to(tmp_path / "none.json")
    for path in (tmp_path, circle, dangling, fifo, Path("/dev/zero")):
        with pytest.raises(CorruptError, match="expected a regular file"):
            strict_json.read_json(path)
