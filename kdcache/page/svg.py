"""Drawing with axes into SVG; colours and fonts are the style sheet's, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.page.markup import escape, tag
from kdcache.report import Axis, ticks

WIDTH, HEIGHT = 400, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 40
_TICK = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to places: `low` lies at `start`, `high` at `end`, in units of the picture."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Frame:
    """A drawing area with a scale in each direction."""

    across: Scale
    down: Scale


def frame(x: tuple[float, float], y: tuple[float, float], top: float = _TOP, bottom: float = HEIGHT - _BOTTOM) -> Frame:
    """A drawing area between `top` and `bottom` for values from x[0] to x[1] and y[0] to y[1]."""
    return Frame(Scale(*x, _LEFT, WIDTH - _RIGHT), Scale(*y, bottom, top))


def picture(title: str, description: str, parts: Sequence[str]) -> str:
    """The whole picture; `title` and `description` are read out in its place."""
    box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": f"{title}. {description}"}
    return tag("svg", box, "".join(parts))


def y_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str] | None = None) -> str:
    """Grid lines with their values on the left, and what is measured, turned by a quarter."""
    names = names or Axis(tuple(values), 1).labels()
    start, end = area.across.start, area.across.end
    parts = []
    for value, name in zip(values, names, strict=True):
        y = area.down.at(value)
        parts.append(_line(start, y, end, y, "grid"))
        parts.append(text(start - _TICK - 1, y + 4, name, "end"))
    middle = (area.down.start + area.down.end) / 2
    turned = {"class": "label", "text-anchor": "middle", "transform": f"translate(11 {middle:.1f}) rotate(-90)"}
    return "".join(parts) + tag("text", turned, escape(label))


def x_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str]) -> str:
    """The line below with its marks and their names, and what is measured."""
    y = area.down.start
    parts = [_line(area.across.start, y, area.across.end, y, "axis")]
    for value, name in zip(values, names, strict=True):
        x = area.across.at(value)
        parts.append(_line(x, y, x, y + _TICK, "axis"))
        parts.append(text(x, y + _TICK + 12, name, "middle"))
    middle = (area.across.start + area.across.end) / 2
    parts.append(text(middle, y + _BOTTOM - 6, label, "middle", "label"))
    return "".join(parts)


def whole_ticks(low: int, high: int) -> list[int]:
    """Round whole numbers between two others, and the first of them itself."""
    step = max(1, round(ticks(low, high, 8)[1] - ticks(low, high, 8)[0]))
    return [low, *(value for value in range(0, high + 1, step) if value > low and 2 * (value - low) >= step)]


def text(x: float, y: float, content: str, anchor: str, kind: str = "tick") -> str:
    """A line of text."""
    return tag("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}, escape(content))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return tag("line", {**places, "class": kind})


def segment(area: Frame, one: tuple[float, float], two: tuple[float, float], kind: str) -> str:
    """A straight line between two points, given by their values."""
    return _line(area.across.at(one[0]), area.down.at(one[1]), area.across.at(two[0]), area.down.at(two[1]), kind)


def curve(area: Frame, points: Sequence[tuple[float, float]], kind: str) -> str:
    """Straight lines from point to point."""
    return tag("polyline", {"points": _places(area, points), "class": kind})


def band(area: Frame, xs: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str) -> str:
    """The area between two curves over the same `xs`."""
    outline = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
    return tag("polygon", {"points": _places(area, outline), "class": kind})


def _places(area: Frame, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{area.across.at(x):.1f},{area.down.at(y):.1f}" for x, y in points)


def dot(area: Frame, x: float, y: float, hint: str, radius: float = 3.5) -> str:
    """A point that says `hint` when it is pointed at."""
    place = {"cx": f"{area.across.at(x):.1f}", "cy": f"{area.down.at(y):.1f}", "r": radius, "class": "dot"}
    return tag("circle", place, tag("title", {}, escape(hint)))


def bar(area: Frame, x: tuple[float, float], value: float, hint: str, kind: str = "bar") -> str:
    """A bar from the bottom to `value` that says `hint` when it is pointed at."""
    left, right, top = area.across.at(x[0]), area.across.at(x[1]), area.down.at(value)
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{right - left:.1f}"}
    height = f"{area.down.start - top:.1f}"
    return tag("rect", {**place, "height": height, "class": kind}, tag("title", {}, escape(hint)))
