"""What all pages are made of: escaped markup, and pictures with round axes."""

import json

import pytest
from pages import HOSTILE

from kdcache.pictures.axes import whole_ticks
from kdcache.pictures.html_page import embedded_json
from kdcache.pictures.svg import element


@pytest.mark.parametrize("text", [*HOSTILE, "a&b<c>\u2028\u0000\ud800"])
def test_embedded_json_cannot_leave_its_element(text: str) -> None:
    """JSON comes back as it was, is ASCII, and holds no character that HTML would read."""
    written = embedded_json([text])
    assert json.loads(written) == [text]
    assert written.isascii()
    assert not set("<>&\u2028") & set(written)
    drawn = element("text", {"class": text}, text).removeprefix('<text class="').removesuffix("</text>")
    assert not set("<>\"'\x00\ud800") & set(drawn.replace('">', "", 1))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, 1, [1]), (1, 8, list(range(1, 9))), (1, 36, [1, 5, 10, 15, 20, 25, 30, 35]), (1, 64, [1, *range(10, 61, 10)])],
)
def test_whole_ticks(low: int, high: int, expected: list[int]) -> None:
    """Axes that count begin at their first number and go on in round ones."""
    assert whole_ticks(low, high) == expected
