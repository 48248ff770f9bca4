"""Small SVG drawings that stay readable on a phone, in the dark and in print.

estimates, points → **SVG** → sections

Colours and strokes come from the page's style sheet through classes. Intervals are
drawn in percent of their cell, so that they stretch with the table; curves have a
fixed view box about as wide as a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from w4s_jax.reports.intervals import Estimate
from w4s_jax.reports.markup import Markup, tag
from w4s_jax.reports.tables import interval

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 38
_ROW = 13
"""Pixels between the estimates of one track."""
_DODGE = 6
"""Pixels between curves, so that their intervals do not hide each other."""


class Mark(NamedTuple):
    """An estimate with the class it is drawn in: `seeds`, `before`, `after`."""

    class_: str
    title: str
    estimate: Estimate


class Point(NamedTuple):
    """A point of a curve."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


class Curve(NamedTuple):
    """A line with its class."""

    class_: str
    title: str
    points: Sequence[Point]


class _Frame(NamedTuple):
    """Where numbers lie in the view box."""

    x: Callable[[float], float]
    y: Callable[[float], float]


def track(marks: Sequence[Mark]) -> Markup:
    """Dots with their intervals on one axis from 0 to 1, one below the other."""
    height = _ROW * max(1, len(marks)) + 5
    grid = [tag("line", x1=f"{p}%", x2=f"{p}%", y1=0, y2=height, class_="grid") for p in (0, 25, 50, 75, 100)]
    drawn = [_interval_mark(mark, 9 + _ROW * row) for row, mark in enumerate(marks)]
    said = "; ".join(f"{m.title}: {m.estimate.value:.3f} {interval(m.estimate)}" for m in marks)
    return tag("svg", grid, drawn, class_="track", height=height, role="img", aria_label=said)


def axis() -> Markup:
    """The numbers of a track's axis."""
    return tag("span", [tag("span", text) for text in ("0", "0.25", "0.5", "0.75", "1")], class_="axis")


def _interval_mark(mark: Mark, y: int) -> Markup:
    value, low, high = (
        100 * min(1.0, max(0.0, v)) for v in (mark.estimate.value, mark.estimate.low, mark.estimate.high)
    )
    line = tag("line", x1=f"{low:.2f}%", x2=f"{high:.2f}%", y1=y, y2=y, class_="interval")
    return tag("g", line, tag("circle", cx=f"{value:.2f}%", cy=y, r=4.5), class_=mark.class_)


def bar(share: float) -> Markup:
    """A share of 1 as a bar; its number has to stand beside it."""
    width = f"{100 * min(1.0, max(0.0, share)):.1f}%"
    return tag("svg", tag("rect", width="100%", height=6, class_="rest"), tag("rect", width=width, height=6),
               class_="bar", height=6, aria_hidden="true")  # fmt: skip


def curves(title: str, lines: Sequence[Curve], *, x_title: str, unit: bool = False, note: str | None = None) -> Markup:
    """A figure of one or more curves.

    Args:
        title: Above it.
        lines: With at least one point in all; intervals are drawn where they are finite.
        x_title: Below the axis.
        unit: The y axis is [0, 1]; else it fits the values.
        note: Below the figure.
    """
    points = [point for line in lines for point in line.points]
    frame, x_ticks, y_ticks = _axes(points, unit)
    said = "; ".join(f"{line.title}: {', '.join(f'{p.y:.3f}' for p in line.points[:40])}" for line in lines)
    drawing = tag(
        "svg",
        [_horizontal(frame, value) for value in y_ticks],
        [_label(frame.x(value), _HEIGHT - _BOTTOM + 18, _short(value), "middle") for value in x_ticks],
        _label((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, x_title, "middle"),
        [_curve(frame, line, _DODGE * (n - (len(lines) - 1) / 2)) for n, line in enumerate(lines)],
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}. {said}",
    )
    legend = (
        legend_of([(line.class_, line.title) for line in lines]) if [line.title for line in lines] != [title] else None
    )
    caption = tag("p", note, class_="note") if note else None
    return tag("figure", tag("figcaption", title), legend, drawing, caption)


def legend_of(entries: Sequence[tuple[str, str]]) -> Markup:
    """Classes with their meaning."""
    return tag("p", [tag("span", tag("i", class_=class_), title) for class_, title in entries], class_="legend")


class PathTurn(NamedTuple):
    """What a search tried in one turn."""

    scores: Sequence[float | None]
    """By candidate; None where it did not run."""
    chosen: int | None
    parents: Sequence[tuple[int, int]] = ()
    """Turn and candidate of each workflow that it was made from; seeds are left out."""


def path(turns: Sequence[PathTurn], seed: float | None) -> Markup:
    """A search: every candidate a dot by turn and validation score, broken ones crosses.

    The chosen one of each turn is joined to the workflows that the turn was made from.
    """
    frame = _Frame(
        lambda x: _LEFT + (x + 0.5) / max(1, len(turns)) * (_WIDTH - _LEFT - _RIGHT),
        lambda y: _TOP + (1 - y) * (_HEIGHT - _TOP - _BOTTOM - 12),
    )
    width = 0.6 / max(1, *(len(turn.scores) for turn in turns))
    broken_y = frame.y(0) + 11
    dots: list[Markup] = []
    places: dict[tuple[int, int], str] = {}
    for number, turn in enumerate(turns):
        for index, score in enumerate(turn.scores):
            x = frame.x(number + (index - (len(turn.scores) - 1) / 2) * width)
            if score is None:
                dots.append(tag("path", d=f"M{x - 3:.1f} {broken_y - 3:.1f}l6 6m0-6l-6 6", class_="cross"))
                continue
            is_chosen = index == turn.chosen
            places[number, index] = f"{x:.1f},{frame.y(score):.1f}"
            dots.append(
                tag("circle", cx=x, cy=frame.y(score), r=4 if is_chosen else 3, class_="on" if is_chosen else "off")
            )
    seeds = _horizontal(frame, seed, "seed") if seed is not None else None
    ticks = [_label(frame.x(n), _HEIGHT - 4, _short(n), "middle") for n in range(0, len(turns), 1 + len(turns) // 12)]
    said = f"Validation results of {sum(len(t.scores) for t in turns)} candidates in {len(turns)} turns"
    return tag(
        "svg", [_horizontal(frame, v) for v in (0.0, 0.5, 1.0)], seeds,
        _edges(turns, places), dots, ticks,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="path", role="img", aria_label=said,
    )  # fmt: skip


def _edges(turns: Sequence[PathTurn], places: Mapping[tuple[int, int], str]) -> list[Markup]:
    """A line to the chosen candidate of each turn from every workflow that the turn was made from."""
    return [
        tag("polyline", points=f"{places[parent]} {places[number, turn.chosen]}")
        for number, turn in enumerate(turns)
        if turn.chosen is not None and (number, turn.chosen) in places
        for parent in turn.parents
        if parent in places
    ]


# --- axes ---------------------------------------------------------------------


def _axes(points: Sequence[Point], unit: bool) -> tuple[_Frame, list[float], list[float]]:
    xs = [p.x for p in points]
    values = [v for p in points for v in (p.y, p.low, p.high) if math.isfinite(v)]
    low, high = (0.0, 1.0) if unit else _padded(min(values), max(values))
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if unit else ticks(low, high, 4)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    left, right = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    inner = _LEFT + 8, _WIDTH - _RIGHT - 8
    frame = _Frame(
        lambda x: inner[0] + (x - left) / (right - left) * (inner[1] - inner[0]),
        lambda y: _TOP + (1 - (min(high, max(low, y)) - low) / (high - low)) * (_HEIGHT - _TOP - _BOTTOM),
    )
    return frame, [v for v in ticks(left, right, 6) if left <= v <= right and v == int(v)], y_ticks


def _padded(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    if low == 0:
        return 0.0, 1.0
    pad = abs(low) / 10
    return low - pad, high + pad


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that span [low, high] in at most about `most` steps of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.0, 10.0, 5)
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _horizontal(frame: _Frame, value: float, class_: str = "grid") -> Markup:
    y = frame.y(value)
    line = tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_=class_)
    return tag("g", line, _label(_LEFT - 6, y + 4, _short(value), "end") if class_ == "grid" else None)


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _curve(frame: _Frame, line: Curve, shift: float) -> Markup:
    places = " ".join(f"{frame.x(p.x) + shift:.1f},{frame.y(p.y):.1f}" for p in line.points)
    bars = [
        tag(
            "line",
            x1=frame.x(p.x) + shift,
            x2=frame.x(p.x) + shift,
            y1=frame.y(p.low),
            y2=frame.y(p.high),
            class_="interval",
        )
        for p in line.points
        if math.isfinite(p.low) and math.isfinite(p.high)
    ]
    few = line.points if len(line.points) <= 40 else ()
    dots = [tag("circle", cx=frame.x(p.x) + shift, cy=frame.y(p.y), r=3.5) for p in few]
    return tag("g", tag("polyline", points=places), bars, dots, class_=line.class_)
