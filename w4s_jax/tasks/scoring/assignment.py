"""The best one-to-one assignment of a few rows to columns, exactly.

gains → **best_sum** → mean F1 of aligned spans (text.py)

Source: Kuhn's Hungarian method in its form of shortest augmenting paths (Jonker and
Volgenant, 1987): rows² · columns steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_NONE = -1


def best_sum(gains: Sequence[Sequence[float]]) -> float:
    """Returns the largest sum of gains over one-to-one pairs of rows and columns.

    Args:
        gains: [rows][columns], finite; each of the shorter side gets a partner.

    Example:
        >>> best_sum([[1.0, 0.5], [0.75, 0.0]])
        1.25
    """
    if not gains or not gains[0]:
        return 0.0
    if len(gains) > len(gains[0]):
        gains = list(zip(*gains, strict=True))
    owners = [_NONE] * len(gains[0])
    prices = [0.0] * len(gains), [0.0] * len(gains[0])
    for row in range(len(gains)):
        _add(row, gains, owners, *prices)
    return sum(gains[row][column] for column, row in enumerate(owners) if row != _NONE)


def _add(
    start: int,
    gains: Sequence[Sequence[float]],
    owners: list[int],
    row_prices: list[float],
    column_prices: list[float],
) -> None:
    """Gives one more row a column, by the cheapest chain of rows that change theirs.

    Invariant: -gain - row's price - column's price is never negative, and 0 for each pair of owner and column.
    """
    slack, before = [math.inf] * len(owners), [_NONE] * len(owners)
    visited, free = list[int](), set(range(len(owners)))
    row, column = start, _NONE
    while row != _NONE:
        for other in free:
            cost = -gains[row][other] - row_prices[row] - column_prices[other]
            if cost < slack[other]:
                slack[other], before[other] = cost, column
        step, nearest = min((slack[other], other) for other in free)
        row_prices[start] += step
        for other in visited:
            row_prices[owners[other]] += step
            column_prices[other] -= step
        for other in free:
            slack[other] -= step
        column = nearest
        free.remove(column)
        visited.append(column)
        row = owners[column]
    while column != _NONE:
        owners[column] = start if before[column] == _NONE else owners[before[column]]
        column = before[column]
