"""Drawing with axes into SVG; colours and fonts are the style sheet's, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.pictures.markup import escape, tag
from kdcache.pictures.plots import Axis, ticks

_TICK = 5
# The line on which the names below an axis stand, as a share of the margin.
_NAMES = 0.425


@dataclass(frozen=True, slots=True)
class Sheet:
    """Size of a picture and its margins, in its own units; a drawing area lies between the margins."""

    width: float = 400
    height: float = 270
    left: float = 46
    right: float = 10
    top: float = 12
    bottom: float = 40


SMALL = Sheet()


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
    """A drawing area on a sheet, with a scale in each direction."""

    sheet: Sheet
    across: Scale
    down: Scale


def frame(x: tuple[float, float], y: tuple[float, float], sheet: Sheet = SMALL) -> Frame:
    """The drawing area of a sheet, for values from x[0] to x[1] and y[0] to y[1]."""
    across = Scale(*x, sheet.left, sheet.width - sheet.right)
    return Frame(sheet, across, Scale(*y, sheet.height - sheet.bottom, sheet.top))


def picture(title: str, description: str, parts: Sequence[str], sheet: Sheet = SMALL) -> str:
    """The whole picture; `title` and `description` are read out in its place."""
    box = {"viewBox": f"0 0 {sheet.width} {sheet.height}", "role": "img", "aria-label": f"{title}. {description}"}
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
    place = f"translate({area.sheet.left / 4:.1f} {middle:.1f}) rotate(-90)"
    turned = tag("text", {"class": "label", "text-anchor": "middle", "transform": place}, escape(label))
    return "".join([*parts, turned] if label else parts)


def x_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str] | None = None) -> str:
    """The line below with its marks and their names, and what is measured."""
    names = names or Axis(tuple(values), 1).labels()
    y = area.down.start
    parts = [_line(area.across.start, y, area.across.end, y, "axis")]
    for value, name in zip(values, names, strict=True):
        x = area.across.at(value)
        parts.append(_line(x, y, x, y + _TICK, "axis"))
        parts.append(text(x, y + _NAMES * area.sheet.bottom, name, "middle"))
    middle = (area.across.start + area.across.end) / 2
    parts.append(text(middle, y + area.sheet.bottom - 6, label, "middle", "label"))
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


def curve(area: Frame, points: Sequence[tuple[float, float]], kind: str, hint: str = "") -> str:
    """Straight lines from point to point that say `hint`, if there is one, when they are pointed at."""
    said = tag("title", {}, escape(hint)) if hint else ""
    return tag("polyline", {"points": _places(area, points), "class": kind}, said)


def clipped(area: Frame, name: str, parts: Sequence[str]) -> str:
    """What of `parts` lies inside the drawing area; `name` is the only one of its kind on the page."""
    left, right, top, bottom = area.across.start, area.across.end, area.down.end, area.down.start
    place = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    outline = tag("clipPath", {"id": name}, tag("rect", place))
    return outline + tag("g", {"clip-path": f"url(#{name})"}, "".join(parts))


def key(kind: str) -> str:
    """A piece of a line of some kind, for a legend that says what it stands for."""
    return tag("svg", {"viewBox": "0 0 32 10", "class": "key", "aria-hidden": "true"}, _line(0, 5, 32, 5, kind))


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
