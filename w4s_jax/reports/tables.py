"""Tables, and how numbers are written.

numbers → **text, table** → sections
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from w4s_jax.reports.intervals import Estimate
from w4s_jax.reports.markup import Child, Markup, tag

NONE = "–"


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """E.g. `[0.490, 0.943]`; of a single observation, or of equal ones, there is none to be had.

    Example:
        >>> interval(Estimate(0.8, 10, 0.49, 0.943))
        '[0.490, 0.943]'
    """
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "no interval"
    if estimate.low == estimate.high:  # Student's t of equal values: no spread was seen, which is not certainty
        return "no spread seen"
    sign = "+" if signed else ""
    return f"[{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def of(n: int) -> str:
    """E.g. `n = 50`, never broken over two lines."""
    return f"n\u00a0=\u00a0{n}"


def counted(count: int, one: str, several: str = "") -> str:
    """E.g. `1 turn`, `2 turns`.

    Example:
        >>> counted(1, "trajectory", "trajectories"), counted(2, "turn")
        ('1 trajectory', '2 turns')
    """
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def usd(value: float) -> str:
    """Dollars with enough digits to be read: four decimals, or two significant ones.

    Example:
        >>> usd(1.5), usd(0.00001234), usd(0.0)
        ('1.5000', '0.000012', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 0.01:
        return f"{value:,.4f}"
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"


def seconds(value: float) -> str:
    """E.g. `42 s`, `5 min 12 s`, `3 h 20 min`."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(head: Sequence[str], rows: Sequence[Sequence[Child]], *, class_: str = "", foot: bool = False) -> Markup:
    """A table whose first column names the row.

    Args:
        head: Titles of the columns; on a narrow screen each stands beside its value.
        rows: Cells.
        class_: Of the table.
        foot: The last row is a sum.
    """
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            [tag("td", cell, data_label=title) for title, cell in zip(head[1:], row[1:], strict=True)],
            class_="sum" if foot and row is rows[-1] else None,
        )
        for row in rows
    ]
    titles = tag("tr", [tag("th", title, scope="col") for title in head])
    return tag("table", tag("thead", titles), tag("tbody", body), class_=class_ or None)


def facts(pairs: Sequence[tuple[str, Child]]) -> Markup:
    """A list of names and values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def folded(title: Child, *content: Child, class_: str = "folded", open_: bool = False) -> Markup:
    """Content that opens at a click."""
    return tag("details", tag("summary", title), *content, class_=class_, open_=open_)
