"""Pictures with axes, as SVG; the style sheet decides on colours and fonts, so that they follow light and dark."""

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


class Frame:
    """The drawing area of a sheet, for values from x[0] to x[1] and y[0] to y[1]; its edges in units of the picture."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], sheet: Sheet = SMALL) -> None:
        self.sheet, self._x, self._y = sheet, x, y
        self.left, self.right = sheet.left, sheet.width - sheet.right
        self.top, self.bottom = sheet.top, sheet.height - sheet.bottom

    def across(self, x: float) -> float:
        """How far to the right a value lies."""
        return self.left + (x - self._x[0]) / (self._x[1] - self._x[0]) * (self.right - self.left)

    def down(self, y: float) -> float:
        """How far down a value lies."""
        return self.bottom + (y - self._y[0]) / (self._y[1] - self._y[0]) * (self.top - self.bottom)


def element(name: str, attributes: Mapping[str, object], content: str = "") -> Markup:
    """An element of SVG; attributes and content are escaped unless they are `Markup`."""
    written = "".join(f' {key}="{escape(printable(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{written}>{escape(printable(content))}</{name}>")  # noqa: S704 (all parts are escaped)


def group(parts: Sequence[Markup]) -> Markup:
    """Several elements one after the other."""
    return Markup("").join(parts)


def picture(title: str, description: str, parts: Sequence[Markup], sheet: Sheet = SMALL) -> Markup:
    """The whole picture; screen readers read `title` and `description` in its place."""
    box = {"viewBox": f"0 0 {sheet.width} {sheet.height}", "role": "img", "aria-label": f"{title}. {description}"}
    return element("svg", box, group(parts))


def y_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str] | None = None) -> Markup:
    """Grid lines with their values on the left, and a label, turned by a quarter."""
    names = names or Axis(tuple(values)).labels()
    parts: list[Markup] = []
    for value, name in zip(values, names, strict=True):
        y = area.down(value)
        parts += [_line(area.left, y, area.right, y, "grid"), text(area.left - _TICK_LENGTH - 1, y + 4, name, "end")]
    middle = (area.bottom + area.top) / 2
    place = f"translate({area.sheet.left / 4:.1f} {middle:.1f}) rotate(-90)"
    turned = element("text", {"class": "label", "text-anchor": "middle", "transform": place}, label)
    return group([*parts, turned] if label else parts)


def x_axis(area: Frame, label: str, values: Sequence[float], names: Sequence[str] | None = None) -> Markup:
    """The line below the drawing area, its marks with their names, and a label."""
    names = names or Axis(tuple(values)).labels()
    y = area.bottom
    parts = [_line(area.left, y, area.right, y, "axis")]
    for value, name in zip(values, names, strict=True):
        x, below = area.across(value), y + _NAMES_AT * area.sheet.bottom
        parts += [_line(x, y, x, y + _TICK_LENGTH, "axis"), text(x, below, name, "middle")]
    middle = (area.left + area.right) / 2
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
    return _line(area.across(start[0]), area.down(start[1]), area.across(end[0]), area.down(end[1]), kind)


def curve(area: Frame, points: Sequence[tuple[float, float]], kind: str, hint: str = "") -> Markup:
    """Straight lines from point to point; the browser shows `hint`, if there is one, when they are pointed at."""
    title = element("title", {}, hint) if hint else ""
    return element("polyline", {"points": _places(area, points), "class": kind}, title)


def clipped(area: Frame, name: str, parts: Sequence[Markup]) -> Markup:
    """Elements cut off at the edges of the drawing area; `name` must be unique on the page."""
    place = {"x": area.left, "y": area.top, "width": area.right - area.left, "height": area.bottom - area.top}
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
    return " ".join(f"{area.across(x):.1f},{area.down(y):.1f}" for x, y in points)


def dot(area: Frame, x: float, y: float, hint: str, radius: float = 3.5) -> Markup:
    """A point; the browser shows `hint` when it is pointed at."""
    place = {"cx": f"{area.across(x):.1f}", "cy": f"{area.down(y):.1f}", "r": radius, "class": "dot"}
    return element("circle", place, element("title", {}, hint))


def bar(area: Frame, x: tuple[float, float], value: float, hint: str, kind: str = "bar") -> Markup:
    """A bar from the bottom to `value`; the browser shows `hint` when it is pointed at."""
    left, right, top = area.across(x[0]), area.across(x[1]), area.down(value)
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "width": f"{right - left:.1f}"}
    height = f"{area.bottom - top:.1f}"
    return element("rect", {**place, "height": height, "class": kind}, element("title", {}, hint))
