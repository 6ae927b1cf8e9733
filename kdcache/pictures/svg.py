"""Pictures with axes, as SVG; the style sheet decides on colours and fonts, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from kdcache.pictures.axes import Axis
from kdcache.pictures.html_page import printable

_TICK_LENGTH = 5
# Where the names below an axis stand, as a share of the margin.
_NAMES_AT = 0.425


@dataclass(frozen=True, slots=True)
class Sheet:
    """Size of a picture and its margins, in the units of the picture; the drawing area lies between the margins."""

    width: float = 400
    height: float = 270
    left: float = 46
    right: float = 10
    top: float = 12
    bottom: float = 40


SMALL = Sheet()


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear scale: the value `low` lies at `start` and the value `high` at `end`, in units of the picture."""

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


def element(name: str, attributes: Mapping[str, object], content: str = "") -> Markup:
    """An element of SVG; attributes and content are escaped unless they are `Markup`."""
    written = "".join(f' {key}="{escape(printable(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{escape(printable(content))}</{name}>")  # noqa: S704 (all parts are escaped)


def group(parts: Sequence[Markup]) -> Markup:
    """Several elements one after the other."""
    return Markup("").join(parts)


def frame(x: tuple[float, float], y: tuple[float, float], sheet: Sheet = SMALL) -> Frame:
    """The drawing area of a sheet, for values from x[0] to x[1] and y[0] to y[1]."""
    across = Scale(*x, sheet.left, sheet.width - sheet.right)
    return Frame(sheet, across, Scale(*y, sheet.height - sheet.bottom, sheet.top))


def picture(title: str, description: str, parts: Sequence[Markup], sheet: Sheet = SMALL) -> Markup:
    """The whole picture; screen readers read `title` and `description` in its place."""
    box = {"viewBox": f"0 0 {sheet.width} {sheet.height}", "role": "img", "aria-label": f"{title}. {description}"}
    return element("svg", box, group(parts))


def y_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str] | None = None) -> Markup:
    """Grid lines with their values on the left, and a label, turned by a quarter."""
    names = names or Axis(tuple(values)).labels()
    start, end = area.across.start, area.across.end
    parts: list[Markup] = []
    for value, name in zip(values, names, strict=True):
        y = area.down.at(value)
        parts.append(_line(start, y, end, y, "grid"))
        parts.append(text(start - _TICK_LENGTH - 1, y + 4, name, "end"))
    middle = (area.down.start + area.down.end) / 2
    place = f"translate({area.sheet.left / 4:.1f} {middle:.1f}) rotate(-90)"
    turned = element("text", {"class": "label", "text-anchor": "middle", "transform": place}, label)
    return group([*parts, turned] if label else parts)


def x_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str] | None = None) -> Markup:
    """The line below the drawing area, its marks with their names, and a label."""
    names = names or Axis(tuple(values)).labels()
    y = area.down.start
    parts = [_line(area.across.start, y, area.across.end, y, "axis")]
    for value, name in zip(values, names, strict=True):
        x = area.across.at(value)
        parts.append(_line(x, y, x, y + _TICK_LENGTH, "axis"))
        parts.append(text(x, y + _NAMES_AT * area.sheet.bottom, name, "middle"))
    middle = (area.across.start + area.across.end) / 2
    parts.append(text(middle, y + area.sheet.bottom - 6, label, "middle", "label"))
    return group(parts)


def text(x: float, y: float, content: str, anchor: str, kind: str = "tick") -> Markup:
    """A line of text."""
    return element("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}, content)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", {**places, "class": kind})


def segment(area: Frame, start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
    """A straight line between two points, given by their values."""
    (x1, x2), (y1, y2) = map(area.across.at, (start[0], end[0])), map(area.down.at, (start[1], end[1]))
    return _line(x1, y1, x2, y2, kind)


def curve(area: Frame, points: Sequence[tuple[float, float]], kind: str, hint: str = "") -> Markup:
    """Straight lines from point to point; the browser shows `hint`, if there is one, when they are pointed at."""
    title = element("title", {}, hint) if hint else ""
    return element("polyline", {"points": _places(area, points), "class": kind}, title)


def clipped(area: Frame, name: str, parts: Sequence[Markup]) -> Markup:
    """Elements cut off at the edges of the drawing area; `name` must be unique on the page."""
    left, right, top, bottom = area.across.start, area.across.end, area.down.end, area.down.start
    place = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    outline = element("clipPath", {"id": name}, element("rect", place))
    return outline + element("g", {"clip-path": f"url(#{name})"}, group(parts))


def key(kind: str) -> Markup:
    """A short line of some kind, for a legend."""
    return element("svg", {"viewBox": "0 0 32 10", "class": "key", "aria-hidden": "true"}, _line(0, 5, 32, 5, kind))


def band(area: Frame, xs: Sequence[float], low: Sequence[float], high: Sequence[float], kind: str) -> Markup:
    """The area between two curves over the same `xs`."""
    outline = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
    return element("polygon", {"points": _places(area, outline), "class": kind})


def _places(area: Frame, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{area.across.at(x):.1f},{area.down.at(y):.1f}" for x, y in points)


def dot(area: Frame, x: float, y: float, hint: str, radius: float = 3.5) -> Markup:
    """A point; the browser shows `hint` when it is pointed at."""
    place = {"cx": f"{area.across.at(x):.1f}", "cy": f"{area.down.at(y):.1f}", "r": radius, "class": "dot"}
    return element("circle", place, element("title", {}, hint))


def bar(area: Frame, x: tuple[float, float], value: float, hint: str, kind: str = "bar") -> Markup:
    """A bar from the bottom to `value`; the browser shows `hint` when it is pointed at."""
    left, right, top = area.across.at(x[0]), area.across.at(x[1]), area.down.at(value)
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{right - left:.1f}"}
    height = f"{area.down.start - top:.1f}"
    return element("rect", {**place, "height": height, "class": kind}, element("title", {}, hint))
