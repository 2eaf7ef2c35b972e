"""Plots as SVG, drawn from plain strings: they need no library, no script and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from carm_env.evaluation.replay_page import shown
from carm_env.evaluation.site.cells import attribute

WIDTH, HEIGHT = 480, 310
LEFT, TOP, BOTTOM = 46, 14, 46
LABEL_WIDTH = 124
N_COLOURS = 8
_LABEL_STEP = 13.5
_LABEL_CHARACTERS = 16

Point = tuple[float, float]


class Axis(NamedTuple):
    """An axis of a plot.

    Attributes:
        title: what it shows, with its unit.
        low: value at its start.
        high: value at its end.
        ticks: values with their labels.
    """

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


PERCENT = Axis("success, %", 0.0, 1.0, [(step / 5, str(20 * step)) for step in range(6)])


class Series(NamedTuple):
    """What one policy is drawn as.

    Attributes:
        number: number of the policy, which chooses its colour.
        name: its name.
    """

    number: int
    name: str

    @property
    def css(self) -> str:
        """Classes of everything that belongs to the policy."""
        return f"p p{self.number} c{self.number % N_COLOURS}" + (" alt" if self.number >= N_COLOURS else "")


class Plot:
    """A plot with two axes.

    Args:
        title: name of the plot.
        description: what it shows, for readers who do not see it.
        x: horizontal axis.
        y: vertical axis.
        height: height in units of the view box.
        left: width of the labels of the vertical axis.
        right: width of the labels of the series.
    """

    def __init__(
        self,
        title: str,
        description: str,
        x: Axis,
        y: Axis,
        height: float = HEIGHT,
        left: float = LEFT,
        right: float = LABEL_WIDTH,
    ) -> None:
        self._title, self._description, self._x, self._y = title, description, x, y
        self._height, self._left, self._right = height, left, right
        self._parts: list[str] = []
        self._labels: list[tuple[float, float, Series]] = []

    def place(self, x: float, y: float) -> Point:
        """Returns the position of a point in the view box."""
        across = (x - self._x.low) / ((self._x.high - self._x.low) or 1.0)
        up = (y - self._y.low) / ((self._y.high - self._y.low) or 1.0)
        width, height = WIDTH - self._left - self._right, self._height - TOP - BOTTOM
        return round(self._left + across * width, 1), round(TOP + (1 - up) * height, 1)

    def line(self, series: Series, points: Sequence[Point], marks: bool = False) -> None:
        """Draws a line through points, with the name of its policy at the end."""
        placed = [self.place(*point) for point in points]
        way = "".join(f"{'L' if number else 'M'}{x:g} {y:g}" for number, (x, y) in enumerate(placed))
        dots = "".join(f'<circle class="dot" cx="{x:g}" cy="{y:g}" r="3.5"/>' for x, y in placed) if marks else ""
        self._parts.append(
            f'<g class="{series.css}"><title>{shown(series.name)}</title><path class="line" d="{way}"/>{dots}</g>'
        )
        self._labels.append((*placed[-1], series))

    def dots(self, series: Series, points: Iterable[tuple[float, float, str]], radius: float = 4.0) -> None:
        """Draws points ``(x, y, text)``."""
        drawn = []
        for x, y, text in points:
            across, up = self.place(x, y)
            drawn.append(
                f'<circle class="dot" cx="{across:g}" cy="{up:g}" r="{radius:g}"><title>{shown(text)}</title></circle>'
            )
        self._parts.append(f'<g class="{series.css}">{"".join(drawn)}</g>')

    def span(self, series: Series, start: Point, end: Point) -> None:
        """Draws a straight bar, such as an interval."""
        (x1, y1), (x2, y2) = self.place(*start), self.place(*end)
        self._parts.append(f'<path class="{series.css} span" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>')

    def tick(self, series: Series, at: Point, half: float = 8.0) -> None:
        """Draws a short vertical line, such as a mean."""
        x, y = self.place(*at)
        self._parts.append(f'<path class="{series.css} mean" d="M{x:g} {y - half:g}V{y + half:g}"/>')

    def label(self, series: Series, at: Point) -> None:
        """Writes the name of a policy at the right of the plot, level with a point."""
        self._labels.append((*self.place(*at), series))

    def svg(self) -> str:
        """Returns the plot as SVG."""
        return (
            f'<svg class="plot" viewBox="0 0 {WIDTH} {self._height:g}" role="img" '
            f'aria-label="{attribute(f"{self._title}. {self._description}")}">'
            f"{self._frame()}{''.join(self._parts)}{self._drawn_labels()}</svg>"
        )

    def _frame(self) -> str:
        right, bottom = WIDTH - self._right, self._height - BOTTOM
        parts = []
        for value, text in self._y.ticks:
            _, y = self.place(self._x.low, value)
            parts.append(f'<path class="grid" d="M{self._left:g} {y:g}H{right:g}"/>')
            parts.append(f'<text x="{self._left - 7:g}" y="{y + 4:g}" text-anchor="end">{shown(text)}</text>')
        for value, text in self._x.ticks:
            x, _ = self.place(value, self._y.low)
            parts.append(f'<path class="grid" d="M{x:g} {bottom:g}v5"/>')
            parts.append(f'<text x="{x:g}" y="{bottom + 19:g}" text-anchor="middle">{shown(text)}</text>')
        middle = (self._left + right) / 2
        parts.append(
            f'<text class="axis" x="{middle:g}" y="{self._height - 6:g}" text-anchor="middle">'
            f"{shown(self._x.title)}</text>"
        )
        if self._y.title:
            at = (TOP + bottom) / 2
            parts.append(
                f'<text class="axis" transform="translate(11 {at:g}) rotate(-90)" text-anchor="middle">'
                f"{shown(self._y.title)}</text>"
            )
        parts.append(f'<path class="base" d="M{self._left:g} {bottom:g}H{right:g}"/>')
        return "".join(parts)

    def _drawn_labels(self) -> str:
        left = WIDTH - self._right + 16
        parts = []
        heights = spread([y for _, y, _ in self._labels], _LABEL_STEP, TOP, self._height - BOTTOM)
        for (x, y, series), placed in zip(self._labels, heights, strict=True):
            name = series.name if len(series.name) <= _LABEL_CHARACTERS else f"{series.name[: _LABEL_CHARACTERS - 1]}…"
            parts.append(
                f'<g class="{series.css}"><path class="leader" d="M{x + 3:g} {y:g}L{left - 3:g} {placed:.1f}"/>'
                f'<text class="name" x="{left:g}" y="{placed + 4:.1f}">{shown(name)}</text></g>'
            )
        return "".join(parts)


def spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Returns heights near the wanted ones that are at least a step apart, in the same order.

    >>> spread([10.0, 11.0, 50.0], 10.0, 0.0, 100.0)
    [5.5, 15.5, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[list[int]] = []
    starts: list[float] = []
    for index in order:
        groups.append([index])
        starts.append(wanted[index])
        # Groups that touch become one, centred on the mean of what its members want.
        while len(groups) > 1 and starts[-1] < starts[-2] + step * len(groups[-2]):
            last = groups.pop()
            starts.pop()
            groups[-1] += last
            members = groups[-1]
            centre = sum(wanted[member] for member in members) / len(members)
            starts[-1] = min(max(centre - step * (len(members) - 1) / 2, low), high - step * (len(members) - 1))
    placed = [0.0] * len(wanted)
    for members, start in zip(groups, starts, strict=True):
        for number, member in enumerate(members):
            placed[member] = start + step * number
    return placed


def nice_axis(title: str, high: float, low: float = 0.0) -> Axis:
    """Returns an axis from `low` to at least `high` with four to eight round ticks.

    >>> [text for _, text in nice_axis("mm", 370.0).ticks]
    ['0', '100', '200', '300', '400']
    """
    span = max(high - low, 1e-6)
    unit = 10.0 ** (len(f"{int(span)}") - 1 if span >= 1 else -1)
    step = next(factor * unit for factor in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if span / (factor * unit) <= 6)
    count = int(-(-span // step))
    ticks = [(low + step * number, f"{low + step * number:g}") for number in range(count + 1)]
    return Axis(title, low, low + step * count, ticks)
